"""The command line: one function a command, here or in a file beside this one.

What a person got wrong is one line on stderr and exit status 2; what stops it (Ctrl-C, SIGTERM, SIGHUP) is one line
with the command that goes on, and 128 + the signal's number.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autoprune import __version__
from autoprune.addresses import is_theirs, told
from autoprune.command import arguments, ending, terminal
from autoprune.command.events import Events
from autoprune.command.shared import bars, print_json, print_table, study_of
from autoprune.command.terminal import show as print
from autoprune.errors import AutopruneError, ClusterLost, ConfigError, FileError

if TYPE_CHECKING:
    from autoprune.runs.journal import Run
    from autoprune.runs.study import Study
    from autoprune.runs.warm import Warm
    from autoprune.runs.workers import Crew

NOTHING: Mapping[str, Any] = MappingProxyType({})


def main(given: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    asked = argparse.Namespace(verbose=False, told=Events())
    try:
        with ending.stoppable() as stops:
            asked = arguments.parser().parse_args(given, argparse.Namespace(stops=stops, told=Events()))
            asked.told = Events(asked.events)
            asked.told.tell("began", command=asked.command, version=__version__)
            _done(asked)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `| head` has; Python is not to complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a process that SIGPIPE ends
    except AutopruneError as wrong:
        return _refused(asked, wrong, str(wrong))
    except (Exception, SystemExit) as wrong:  # whatever code raises that is not ours; a mistake of ours shows itself
        if is_theirs(wrong):
            return _refused(asked, wrong, told(wrong))
        if isinstance(wrong, OSError):
            return _ended(asked, ending.unsaid(wrong), told(wrong))
        raise
    except KeyboardInterrupt as stopped:
        said = str(stopped) or "stopped; nothing was written"
        print(f"\nautoprune: {said}", file=sys.stderr)
        return _ended(asked, ending.status(stopped), said)
    return _ended(asked, 0, "")


def _done(asked: argparse.Namespace) -> None:
    """Do what is asked: here, or in the file of the command."""
    place, _, name = _COMMANDS[asked.command].rpartition(":")
    found = importlib.import_module(f"autoprune.command.{place}") if place else sys.modules[__name__]
    getattr(found, name)(asked)


def _refused(asked: argparse.Namespace, wrong: BaseException, said: str) -> int:
    """One line on what is wrong; the traceback before it, if that was asked for."""
    if asked.verbose:
        print("".join(traceback.format_exception(wrong)), file=sys.stderr)
    print(f"autoprune: error: {said}", file=sys.stderr)
    return _ended(asked, 2, said)


def _ended(asked: argparse.Namespace, status: int, error: str) -> int:
    with contextlib.suppress(FileError):  # that was what went wrong
        asked.told.tell("ended", status=status, error=error)
    asked.told.close()
    return status


# search and resume


def _search(asked: argparse.Namespace) -> None:
    from autoprune.runs import warm

    built = study_of(asked)
    _begin(built, asked, warm.start(built, asked.warm_start))


def _transfer(asked: argparse.Namespace) -> None:
    from autoprune.command import reuse
    from autoprune.runs import transfer, warm

    built = study_of(asked, change=lambda made: transfer.of_source(made, asked.policy))
    found = warm.proposed(built, asked.policy)
    if not asked.json:
        reuse.show_mapping(built.space, found)
    _begin(built, asked, warm.Warm((str(asked.policy),), (found.policy,)), reuse.mapping(built.space, found))


def _begin(built: Study, asked: argparse.Namespace, known: Warm, more: Mapping[str, Any] = NOTHING) -> None:
    """Begin a run with what is known, and bring it to its end; `more` is shown with its report, as JSON."""
    from autoprune.runs import lifecycle, workers

    with workers.hired(built.config.workers) as crew:
        with bars(asked) as shown:
            shown.stage("trying everything once, small", 0, 1)
            opened = lifecycle.begin(built, asked.out, known, crew)
        with opened:
            _complete(built, opened, crew, asked, more=more)


def _resume(asked: argparse.Namespace) -> None:
    from autoprune.runs import lifecycle, workers

    with bars(asked) as shown:
        given = {"trials": asked.trials, "time": asked.time, "trust": asked.trust, "lr": asked.lr}
        staff = {"local": asked.workers} if asked.workers else {"cluster": asked.cluster} if asked.cluster else None
        built, opened = lifecycle.reopen(asked.directory, watch=shown.stage, staff=staff, **given)
    with opened, workers.hired(built.config.workers) as crew:
        _complete(built, opened, crew, asked, again=asked.lr > 0)


def _complete(
    built: Study,
    opened: Run,
    crew: Crew | None,
    asked: argparse.Namespace,
    *,
    again: bool = False,
    more: Mapping[str, Any] = NOTHING,
) -> None:
    from autoprune.command.progress import Progress
    from autoprune.runs import journal, lifecycle

    limits = [limit.sentence() for limit in built.budget.limits]
    asked.told.tell("run", directory=str(opened.directory), budget=limits, trials=built.config.search.trials)
    if not asked.quiet:
        print("\n".join([str(opened.directory), *limits]), file=sys.stderr)
    try:
        with asked.stops.heard(), Progress(built, opened, bars(asked), crew) as shown:
            watch, stage = asked.stops.between(shown.trial), asked.stops.between(shown.stage)
            lifecycle.complete(built, opened, crew, watch=watch, stage=stage, again=again)
    except KeyboardInterrupt as stopped:
        stopped.args = (f"stopped; go on with: {journal.resuming(opened.directory)}",)
        raise
    except (ClusterLost, FileError) as wrong:
        said = f"{wrong}; once that is mended, go on with: {journal.resuming(opened.directory)}"
        raise type(wrong)(said) from wrong
    _show_report(opened.directory, asked.json, more)


# check


def _check(asked: argparse.Namespace) -> None:
    if asked.fidelity:
        _check_fidelity(asked)
        return
    if asked.advise:
        from autoprune.command import advise

        advise.show(asked)
        return
    if (asked.policies, asked.steps) != arguments.FIDELITY:
        raise ConfigError("--policies and --steps are for --fidelity; write that, too")
    from autoprune.command.check import facts, lines

    found = facts(study_of(asked, anew=asked.calibrate))
    if asked.json:
        print_json(found)
        return
    print("\n".join(lines(found)))


def _check_fidelity(asked: argparse.Namespace) -> None:
    from autoprune.runs import fidelity

    built = study_of(asked)
    with bars(asked) as shown:
        found = fidelity.measure(built, policies=asked.policies, steps=asked.steps, watch=shown.stage)
    if asked.json:
        print_json({"name": built.name, "evaluator": built.config.evaluator.use, **found.plain()})
        return
    head, *rows = found.table()
    print(f"{built.name}: how true the score of evaluator {built.config.evaluator.use} is\n")
    print_table(head, rows)
    print("\n" + "\n".join(found.remarks()))


# report


def _report(asked: argparse.Namespace) -> None:
    from autoprune.report import page
    from autoprune.runs import journal

    if not (asked.directory / "report.json").exists() and (asked.directory / "config.json").exists():
        raise ConfigError(f"{asked.directory} is not finished; `{journal.resuming(asked.directory)}` goes on with it")
    page.write_html(asked.directory)
    _show_report(asked.directory, asked.json)


def _show_report(directory: Path, as_json: bool, more: Mapping[str, Any] = NOTHING) -> None:
    """The summary of a finished run and where its files are."""
    from autoprune.report import facts, words

    found = facts.read(directory)
    if as_json:
        print_json({"directory": str(directory), **found.plain(), **more})
        return
    head, *rows = words.table(found)
    print(f"{words.sentence(found)}\n")
    print_table(head, rows)
    warned = [f"Warning: {warning}" for warning in found.detail.warnings]
    if remarks := [*warned, *words.remarks(found, shlex.quote(str(directory)))]:
        print("\n" + "\n".join(remarks))
    files = [
        path.name
        for path in sorted(directory.iterdir())
        if path.name.startswith(("agent", "policy", "model", "report"))
    ]
    print(f"\n{directory}/\n  " + "\n  ".join(files))


# worker and plugins


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

        print_json({"plugins": [dataclasses.asdict(plugin) for plugin in described]})
    elif asked.name:
        for plugin in described:
            _print_plugin(plugin)
    else:
        print_table(["kind", "name", "what it is"], [[p.kind, p.name, p.summary] for p in described])


def _print_plugin(plugin: Any) -> None:
    print(f"{plugin.kind} {plugin.name}: {plugin.summary}\n")
    if not plugin.settings:
        print("It has no settings.\n")
        return
    rows = [[s.name, s.type, s.range, s.default, s.meaning] for s in plugin.settings]
    print_table(["setting", "type", "range", "default", "meaning"], rows)
    print()


_COMMANDS = {  # where each is done: a function here, or in a file of its own, which is imported then
    "search": "_search",
    "resume": "_resume",
    "init": "init:command",
    "check": "_check",
    "latency": "latency:command",
    "report": "_report",
    "compare": "compare:command",
    "apply": "applied:command",
    "worker": "worker:command",
    "policy": "reuse:policy",
    "transfer": "_transfer",
    "learn": "reuse:learn",
    "plugins": "_plugins",
    "completion": "completion:command",
}
