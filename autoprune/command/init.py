"""`autoprune init TASK`: a search space for a task, written after a look at its network, with what was seen beside it.

People write such files; this one begins them. It is never written over one that is there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from autoprune import config
from autoprune.addresses import file_of
from autoprune.command.shared import bars, print_json
from autoprune.command.terminal import show as print
from autoprune.errors import ConfigError, harmless
from autoprune.files import disk
from autoprune.report import words
from autoprune.runs import advice, study
from autoprune.runs.study import Study

_LISTED = 40  # choices that are named


def command(asked: argparse.Namespace) -> None:
    """Write the file, and say what to do with it."""
    if asked.task.endswith(".toml"):
        raise ConfigError(f"{asked.task} is a search space already; a task is right: a name, or file.py:function")
    out: Path = asked.out or Path(f"{config.name_of(asked.task)}.toml")
    if out.exists():
        raise ConfigError(f"{out} is there already, and is not written over; --out FILE names another")
    over = {"space.step": "auto", "target": {"use": asked.target}} if asked.target else {}
    over |= {"task.data": str(Path(asked.data).absolute())} if asked.data else {}
    with bars(asked) as shown:
        extra = ("latency",) if asked.target else ()
        built = study.build(config.find(asked.task, over), watch=shown.stage, costs=extra)
    disk.write_text(out, "\n".join(_lines(built, out.parent)) + "\n")
    if asked.json:
        print_json({"file": str(out), "choices": len(built.space), "frozen": len(built.trace.frozen)})
        return
    print(f"{out}: {words.counted(len(built.space), 'choice')}, {len(built.trace.frozen)} frozen")
    print(f"\nautoprune check {out}     # all of it\nautoprune search {out}    # go")


def _lines(built: Study, folder: Path) -> Iterator[str]:
    """The file, line by line."""
    yield f"# Search space of {built.name}, begun by `autoprune init`. `autoprune plugins NAME` explains every setting."
    yield "#"
    yield "# What was found in the network (`autoprune check` has all of it):"
    yield from (f"#   {harmless(line).replace(chr(10), ' ')}" for line in _seen(built))
    yield from ("", "[task]")
    yield from (f"{key} = {json.dumps(value)}" for key, value in _task(built, folder).items())
    yield from _limits(built)
    (name, why), (maker, because), (trials, enough) = (
        advised(built) for advised in (advice.evaluator, advice.controller, advice.trials)
    )
    yield from ("", "[evaluator]             # how a pruned network recovers before it is judged on the holdout")
    yield _set("use", name, why)
    yield from ("", "[controller]            # who proposes policies; `autoprune plugins` lists all")
    yield _set("use", maker, because)
    yield from ("", "[search]", _set("trials", trials, enough), "seed = 0")
    yield from ("", "[finetune]              # of the winner and of the baselines, once, after the search")
    if built.task.trains:
        yield _set("epochs", 4, "passes over the training split; 0 trains nothing")
        yield _set("lr", 0.02, "a tenth to a half of what the network was trained with")
    else:
        yield _set("epochs", 0, "there is no training split")


def _limits(built: Study) -> Iterator[str]:
    """What may vary, and the ceilings."""
    timed = "latency" in built.costs
    cost = "latency" if timed else built.traded
    yield from ("", "[space]                 # what may vary, for every choice above")
    yield _set("max_sparsity", 0.8, "the largest fraction of a choice that may be removed")
    if timed:
        yield _set("step", "auto", f"channels stay in multiples that the target is fast with; {built.step} here")
    else:
        yield _set("step", 1, 'channels stay in multiples of this; "auto" finds by timing what [target] is fast with')
    if len(built.space):
        yield f"# exclude = [{json.dumps(built.space.choices[0].name)}]  (choices that stay as they are; globs, too)"
    share, why = advice.budget(built, cost)
    yield from ("", "[budget]                # ceilings, never exceeded", _set(cost, f"{share:.0%}", why))
    if timed:
        yield from (
            "",
            "[target]                # where latency is measured",
            f"use = {json.dumps(built.config.target.use)}",
        )


def _set(key: str, value: object, why: str) -> str:
    return f"{f'{key} = {json.dumps(value)}':<23} # {why}"


def _task(built: Study, folder: Path) -> dict[str, object]:
    """The table [task]; a Python file is found from the folder of the file that is written."""
    settings = built.config.task.settings
    if (file := file_of(built.config.task.use)) is None:
        return settings
    return {**settings, "use": f"{os.path.relpath(file, folder)}:{built.config.task.use.rpartition(':')[2]}"}


def _seen(built: Study) -> Iterator[str]:
    thinnest = built.space.thinnest()
    for name, cost in built.costs.items():
        least = cost.predict(thinnest) / built.dense[name]
        dense = words.valued(built.dense[name], cost.unit)
        yield f"{words.label(name)}: {dense} dense, {least:.1%} of that with every choice at its least"
    yield f"{words.counted(len(built.space), 'choice')}, of units that go together:"
    for choice in built.space.choices[:_LISTED]:
        yield f"  {choice.name}: {choice.dense} {choice.kind}s, at least {choice.levels[0]} stay"
    if (more := len(built.space) - _LISTED) > 0:
        yield f"  and {more} more"
    if frozen := built.trace.frozen:
        yield f"{len(frozen)} frozen, such as {frozen[0].name}, which {frozen[0].reason}"
