"""The command line: search, resume, check, latency, report, apply, plugins. The only file that prints.

What a person got wrong is one line on stderr and exit status 2; what stops it (Ctrl-C, SIGTERM, SIGHUP) is one line
with the command that goes on, and 128 + the signal's number.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.addresses import is_theirs, told
from autoprune.command import arguments, ending, terminal
from autoprune.command.terminal import show as print
from autoprune.errors import AutopruneError, ConfigError, FileError

if TYPE_CHECKING:
    from autoprune.runs.apply import Applied
    from autoprune.runs.journal import Run
    from autoprune.runs.study import Study

_OVER = {
    "trials": "search.trials",
    "time": "search.time",
    "seed": "search.seed",
    "device": "search.device",
    "target": "target",
}


def main(given: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    asked = argparse.Namespace(verbose=False)
    try:
        with ending.stoppable() as stops:
            asked = arguments.parser().parse_args(given, argparse.Namespace(stops=stops))
            _COMMANDS[asked.command](asked)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `| head` has; Python is not to complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a process that SIGPIPE ends
    except AutopruneError as wrong:
        if asked.verbose:
            print("".join(traceback.format_exception(wrong)), file=sys.stderr)
        print(f"autoprune: error: {wrong}", file=sys.stderr)
        return 2
    except (Exception, SystemExit) as wrong:  # whatever code raises that is not ours; a mistake of ours shows itself
        if not is_theirs(wrong):
            if isinstance(wrong, OSError):
                return ending.unsaid(wrong)
            raise
        if asked.verbose:
            print("".join(traceback.format_exception(wrong)), file=sys.stderr)
        print(f"autoprune: error: {told(wrong)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print("\nautoprune: " + (str(stopped) or "stopped; nothing was written"), file=sys.stderr)
        return ending.status(stopped)
    return 0


# search and resume


def _search(asked: argparse.Namespace) -> None:
    from autoprune.command.progress import Bars
    from autoprune.runs import lifecycle

    built = _study(asked)
    with Bars() as bars:
        bars.stage("trying everything once, small", 0, 1)
        opened = lifecycle.begin(built, asked.out)
    with opened:
        _complete(built, opened, asked)


def _resume(asked: argparse.Namespace) -> None:
    from autoprune.command.progress import Bars
    from autoprune.runs import lifecycle

    with Bars() as bars:
        given = {"trials": asked.trials, "time": asked.time, "trust": asked.trust, "lr": asked.lr}
        built, opened = lifecycle.reopen(asked.directory, watch=bars.stage, **given)
    with opened:
        _complete(built, opened, asked, again=asked.lr > 0)


def _complete(built: Study, opened: Run, asked: argparse.Namespace, *, again: bool = False) -> None:
    from autoprune.command.progress import Progress
    from autoprune.runs import journal, lifecycle

    print(f"{opened.directory}", file=sys.stderr)
    for limit in built.budget.limits:
        print(limit.sentence(), file=sys.stderr)
    try:
        with Progress(built, opened) as shown:
            watch, stage = asked.stops.between(shown.trial), asked.stops.between(shown.stage)
            lifecycle.complete(built, opened, watch=watch, stage=stage, again=again)
    except KeyboardInterrupt as stopped:
        stopped.args = (f"stopped; go on with: {journal.resuming(opened.directory)}",)
        raise
    except FileError as wrong:
        raise FileError(f"{wrong}; once that is mended, go on with: {journal.resuming(opened.directory)}") from wrong
    _show_report(opened.directory, asked.json)


# check


def _check(asked: argparse.Namespace) -> None:
    if asked.fidelity:
        _check_fidelity(asked)
        return
    if (asked.policies, asked.steps) != arguments.FIDELITY:
        raise ConfigError("--policies and --steps are for --fidelity; write that, too")
    from autoprune.command.check import facts, lines

    found = facts(_study(asked, anew=asked.calibrate))
    if asked.json:
        _print_json(found)
        return
    print("\n".join(lines(found)))


def _check_fidelity(asked: argparse.Namespace) -> None:
    from autoprune.command.progress import Bars
    from autoprune.runs import fidelity

    built = _study(asked)
    with Bars() as bars:
        found = fidelity.measure(built, policies=asked.policies, steps=asked.steps, watch=bars.stage)
    if asked.json:
        _print_json({"name": built.name, "evaluator": built.config.evaluator.use, **found.plain()})
        return
    head, *rows = found.table()
    print(f"{built.name}: how true the score of evaluator {built.config.evaluator.use} is\n")
    _print_table(head, rows)
    print("\n" + "\n".join(found.remarks()))


# latency


def _latency(asked: argparse.Namespace) -> None:
    from autoprune.files import disk
    from autoprune.report import words

    built = _study(asked, latency=True)
    cost: Any = built.costs["latency"]
    layers = {name: cost.dense * share for name, share in cost.fit.by_layer().items()}
    if asked.plot:
        from autoprune.report import latency_plots

        title = f"{built.name} on {cost.target.key['runtime']}"
        disk.write_text(asked.plot, latency_plots.draw(cost.points, layers, title))
    facts = {"name": built.name, "target": dict(cost.target.key), "dense_ms": cost.dense, "layers_ms": layers}
    if asked.json:
        accuracy = {name: getattr(cost.accuracy, name) for name in cost.accuracy.__slots__}
        learnt = {"blocks": cost.fit.work.blocks._asdict(), "build_seconds": cost.building, "margin": cost.margin}
        _print_json({**facts, **learnt, **accuracy})
        return
    print(f"{built.name}, dense: {cost.dense:.4g} ms\n")
    rows = [[name or "whatever is pruned", ms, f"{ms / cost.dense:.1%}"] for name, ms in layers.items()]
    _print_table(["layer", "ms", "share"], rows)
    print(f"\n{words.begun(cost.sentence())}.")
    print(f"A ceiling on it keeps policies to predictions that are {cost.margin:.1%} lower.")
    for note in cost.notes:
        print(note)


# report and apply


def _report(asked: argparse.Namespace) -> None:
    from autoprune.report import page
    from autoprune.runs import journal

    if not (asked.directory / "report.json").exists() and (asked.directory / "config.json").exists():
        raise ConfigError(f"{asked.directory} is not finished; `{journal.resuming(asked.directory)}` goes on with it")
    page.write_html(asked.directory)
    _show_report(asked.directory, asked.json)


def _apply(asked: argparse.Namespace) -> None:
    from autoprune import plugins
    from autoprune.command.progress import Bars
    from autoprune.runs import apply

    recipe = _recipe(asked)
    _refuse_unwritable(asked.out)
    data = str(Path(asked.data).absolute()) if asked.data else ""
    task = plugins.build("task", {"use": asked.task, **({"data": data} if data else {})}) if asked.task else None
    if asked.at:
        with Bars() as bars:
            options = {"data": data, "trust": asked.trust, "watch": bars.stage, **recipe}
            point = apply.apply_point(asked.policy, _ceilings(asked.at), task, **options)
        trial = point.trial
        shares = ", ".join(f"{share:.1%} of the {name}" for name, share in point.shares.items())
        facts = {"run": str(asked.policy), "trial": trial.number, "metric": point.metric, "shares": dict(point.shares)}
        _show_applied(asked, point.applied, facts, f"trial {trial.number}: {shares}, {point.said} in the search\n")
        return
    with Bars() as bars:
        made = apply.applied_policy(asked.policy, task, data=data, trust=asked.trust, watch=bars.stage, **recipe)
    _show_applied(asked, made, {"policy": str(asked.policy)}, "")


def _recipe(asked: argparse.Namespace) -> dict[str, Any]:
    """How a network is to be finetuned, as `apply_policy` takes it."""
    other = {key: value for key in ("epochs", "lr") if (value := getattr(asked, key)) is not None}
    if asked.no_finetune and other:
        raise ConfigError(f"--no-finetune and --{next(iter(other))}: one of them is right")
    return {"finetune": not asked.no_finetune, "recipe": other}


def _show_applied(asked: argparse.Namespace, made: Applied, facts: Mapping[str, Any], said: str) -> None:
    """Write the network, and show what it is: `facts` as JSON, or what was `said` before the table."""
    from autoprune.command import applied
    from autoprune.files import export
    from autoprune.report import words

    export.save(made.model, asked.out, rebuild=made.rebuild)
    if asked.json:
        _print_json({**facts, "model": str(asked.out), **applied.facts(made)})
        return
    if said:
        print(said)
    head, *rows = applied.rows(made)
    _print_table(head, rows)
    print(f"\n{applied.sentence(made)}\n\n{asked.out} ({words.size(asked.out.stat().st_size)})")


def _show_report(directory: Path, as_json: bool) -> None:
    """The summary of a finished run and where its files are."""
    from autoprune.report import facts, words

    found = facts.read(directory)
    if as_json:
        _print_json({"directory": str(directory), **found.plain()})
        return
    head, *rows = words.table(found)
    print(f"{words.sentence(found)}\n")
    _print_table(head, rows)
    if remarks := words.remarks(found, shlex.quote(str(directory))):
        print("\n" + "\n".join(remarks))
    files = [path.name for path in sorted(directory.iterdir()) if path.name.startswith(("policy", "model", "report"))]
    print(f"\n{directory}/\n  " + "\n  ".join(files))


# plugins


def _plugins(asked: argparse.Namespace) -> None:
    from autoprune import plugins
    from autoprune.command.describe import describe

    places = [(kind, name) for kind in plugins.OURS for name in plugins.names(kind)]
    if ":" in asked.name:
        raise ConfigError(
            f"{asked.name!r} is an address; `autoprune plugins` knows names: {terminal.joined(n for _, n in places)}"
        )
    chosen = [place for place in places if asked.name in ("", place[1])]
    if not chosen:
        hint = plugins.meant(asked.name, (name for _, name in places)) or "; `autoprune plugins` lists them"
        raise ConfigError(f"no plugin is called {asked.name!r}{hint}")
    described = [describe(kind, name) for kind, name in chosen]
    if asked.json:
        import dataclasses

        _print_json({"plugins": [dataclasses.asdict(plugin) for plugin in described]})
    elif asked.name:
        for plugin in described:
            _print_plugin(plugin)
    else:
        _print_table(["kind", "name", "what it is"], [[p.kind, p.name, p.summary] for p in described])


def _print_plugin(plugin: Any) -> None:
    print(f"{plugin.kind} {plugin.name}: {plugin.summary}\n")
    if not plugin.settings:
        print("It has no settings.\n")
        return
    rows = [[s.name, s.type, s.range, s.default, s.meaning] for s in plugin.settings]
    _print_table(["setting", "type", "range", "default", "meaning"], rows)
    print()


# shared


def _study(asked: argparse.Namespace, *, latency: bool = False, anew: bool = False) -> Study:
    from autoprune import config
    from autoprune.command.progress import Bars
    from autoprune.runs import study

    over: dict[str, Any] = {
        key: {"use": value} if word == "target" else value
        for word, key in _OVER.items()
        if (value := getattr(asked, word, None)) is not None
    }
    over |= dict(asked.set or ())
    if asked.data:
        over["task.data"] = str(Path(asked.data).absolute())  # a resumed run may be started from elsewhere
    if asked.budget:
        over["budget"] = _ceilings(asked.budget)
    made = config.find(asked.space, over)
    controller = getattr(asked, "controller", None)
    if controller and controller != made.controller.use:
        made = config.find(asked.space, {"controller": {"use": controller}, **over})
    extra = ("latency",) if latency else ()
    with Bars() as bars:
        return study.build(made, watch=bars.stage, costs=extra, anew=anew)


def _ceilings(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Ceilings by name of the cost, each given once."""
    found: dict[str, str] = {}
    for name, value in given:
        if name in found:
            raise ConfigError(f"two ceilings on {name}, {found[name]} and {value}; one is right")
        found[name] = value
    return found


def _refuse_unwritable(path: Path) -> None:
    """Refuse a place where no file can be written, before any work."""
    if os.path.isdir(path) or not path.name:
        raise ConfigError(f"--out {path}: that is a folder; the name of a file is right")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it first")


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("\n".join(terminal.table(head, rows)))


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "search": _search,
    "resume": _resume,
    "check": _check,
    "latency": _latency,
    "report": _report,
    "apply": _apply,
    "plugins": _plugins,
}
