"""What Python users call: search, resume, and the result of both. The command line calls the same functions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune import config
from autoprune.errors import ConfigError
from autoprune.files import disk
from autoprune.files.export import load
from autoprune.protocols import Learns, Watch, silent
from autoprune.report.facts import Report
from autoprune.runs import firsts, journal, loop, machine, rungs, study
from autoprune.runs.course import Ladder, Straight
from autoprune.runs.deliver import finish, finished
from autoprune.runs.journal import Run
from autoprune.runs.rehearsal import rehearse
from autoprune.runs.study import Study
from autoprune.task import Task
from autoprune.trust import named, remember, restored
from autoprune.values.space import Policy

RUNS = Path("runs")


@dataclass(frozen=True)
class Result:
    """What came out of a search.

    Attributes:
        policy: the best one found, or a baseline's where that was better on the holdout after the finetune.
        model: the network pruned by it and finetuned.
        report: what `report.json` holds.
        directory: of the run; everything lies there.
    """

    policy: Policy
    model: nn.Module
    report: Report
    directory: Path


def search(
    task: Task | str | Path,
    budget: Mapping[str, str | float] | None = None,
    controller: str | Mapping[str, Any] = "",
    trials: int | None = None,
    seed: int | None = None,
    time: str | float | None = None,
    out: str | Path = RUNS,
    **tables: Any,
) -> Result:
    """Search, finetune the winner, export it and write a report.

    Args:
        task: a Task; the name of a built-in one; "file.py:function", which returns one; or a search space's .toml file.
        budget: ceilings by name of the cost: {"macs": 0.5} is half of dense, {"params": 1e5} is absolute.
        controller: its name, or a table such as {"use": "evolution", ...} with its settings.
        trials: policies to evaluate.
        seed: of everything random.
        time: how long to search, in seconds or as "10m", in place of `trials`.
        out: the folder in which the run makes its own.
        tables: further tables of a search space, such as finetune={"epochs": 2}.
    """
    over: dict[str, Any] = dict(tables)
    if budget is not None:
        over["budget"] = dict(budget)
    if controller:
        over["controller"] = {"use": controller} if isinstance(controller, str) else dict(controller)
    said = {"trials": trials, "seed": seed, "time": time}
    over |= {f"search.{key}": value for key, value in said.items() if value is not None}
    given = task if isinstance(task, Task) else None
    if given:
        asked = config.parse({"name": given.name, "task": {"use": study.GIVEN}}, f"task {given.name!r}", over)
    else:
        asked = config.find(str(task), over)
    built = study.build(asked, task=given)
    with begin(built, Path(out)) as opened:
        return complete(built, opened)


def resume(
    directory: str | Path,
    *,
    trials: int = 0,
    time: str | float = 0.0,
    task: Task | None = None,
    trust: Sequence[str] = (),
    lr: float = 0.0,
) -> Result:
    """Go on with a run as if it had never stopped, to `trials` trials (0: as many as were asked for).

    `time` is how long is searched in all, in seconds or as "10m", of a run that was begun with one.

    With `lr`, a peak learning rate, what was found is finetuned at that, once more if that was done.
    `trust` are addresses of code in its config.json that may be run, from now on. Raises Untrusted for others, unless
    the run was begun by this user.
    """
    built, opened = reopen(Path(directory), trials=trials, time=time, task=task, trust=trust, lr=lr)
    with opened:
        return complete(built, opened, again=lr > 0)


def begin(built: Study, root: Path) -> Run:
    """A new run of a study, in a new folder below `root`. Nothing is written if the study cannot work."""
    built.require_end()
    rehearse(built)
    asked = built.config
    remember(named(asked))
    directory = journal.place(root, built.name, asked.controller.use, built.seed, datetime.now(UTC))
    found = {**_machine(built), **firsts.found(built), **rungs.planned(built)}
    return Run(directory, asked.plain(), built.space, found, costs=built.costs, limits=built.budget.limits)


def reopen(
    directory: Path,
    *,
    trials: int = 0,
    time: str | float = 0.0,
    task: Task | None = None,
    watch: Watch = silent,
    trust: Sequence[str] = (),
    lr: float = 0.0,
) -> tuple[Study, Run]:
    """The study and the run that lie in `directory`, on the threads and in the precision that they were begun with.

    `lr` is the learning rate of the finetune in place of the run's, whose config stays as it is.
    """
    source = str(directory / "config.json")
    if 0 < trials < (held := journal.count(directory)):
        raise ConfigError(f"{directory} holds {held} trials already; write --trials {held} or more")
    written = journal.stored(directory, "config.json")
    if time and not written.get("search", {}).get("time"):
        raise ConfigError(f"time = {time!r}: {directory} was begun with so many trials; --trials N goes on with it")
    over = {f"search.{key}": value for key, value in (("trials", trials), ("time", time)) if value}
    asked = restored(written, source, over, trust=trust)
    found = machine.read(directory)
    if "threads" in found:
        torch.set_num_threads(found["threads"])
    rated = restored(written, source, {**over, "finetune.lr": lr}, trust=trust) if lr else asked
    built = study.build(rated, task=task, found=found, watch=watch)
    now = asked.plain()
    compared, limits = _as_written(written, now), built.budget.limits
    return built, Run(directory, now, built.space, compared=compared, costs=built.costs, limits=limits)


def complete(
    built: Study,
    opened: Run,
    *,
    watch: loop.Watch = lambda trial: None,
    stage: Watch = silent,
    again: bool = False,
) -> Result:
    """Search until the run holds what was asked for, then finetune, export and report; `again` if that was done.

    `watch` sees every trial; `stage` hears how far the work before and after the search has come.
    """
    if again or finished(opened) is None:
        built.prepare(opened.directory, stage)
    first, steps = firsts.known(opened.machine), rungs.known(opened.machine)
    judged = [loop.remembering(each, opened, rung) for rung, each in enumerate(rungs.attempts(built, steps))]
    course = Ladder(steps, built.controller, first, stage) if steps[1:] else Straight(built.controller(), first)
    asked = built.config.search
    seconds = asked.time - opened.machine.get(rungs.SPENT, 0.0) if asked.time else math.inf
    loop.follow(course, judged, opened, trials=asked.trials, seconds=seconds, watch=watch)
    with disk.refused(opened.directory):
        report = finish(built, opened, stage, again=again)
    return Result(Policy(report.final.kept), load(opened.directory, model=built.task.model), report, opened.directory)


def _as_written(before: Any, now: Any) -> Any:
    """`now` without the settings that there were not yet when `before` was written; they are at their defaults."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: _as_written(before[key], value) for key, value in now.items() if key in before}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [_as_written(one, other) for one, other in zip(before, now, strict=True)]
    return now


def _machine(built: Study) -> dict[str, Any]:
    """What a resumed run goes on with, and what a reader wants to know."""
    versions = {name: importlib.metadata.version(name) for name in ("autoprune", "torch", "numpy")}
    return {
        "precision": built.arithmetic.score,
        "training": built.arithmetic.training,
        "because": built.arithmetic.because,
        "step": built.step,
        "shortcuts": built.shortcuts,
        "draws": "stratified",
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count() or 1,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "costs": {name: dict(cost.state()) for name, cost in built.costs.items() if isinstance(cost, Learns)},
        **versions,
    }
