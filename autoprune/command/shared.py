"""What commands share: how a study is made of what was asked, and how results are shown."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.command import terminal
from autoprune.command.terminal import show as print
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.command.progress import Bars
    from autoprune.config import Config
    from autoprune.runs.study import Study

_OVER = {
    "trials": "search.trials",
    "time": "search.time",
    "workers": "workers.local",
    "cluster": "workers.cluster",
    "seed": "search.seed",
    "device": "search.device",
    "target": "target",
    "epochs": "finetune.epochs",
}


def bars(asked: argparse.Namespace) -> Bars:
    """The progress of a command: on stderr unless --quiet was asked for, and in the file of --events."""
    from autoprune.command.progress import Bars

    return Bars(quiet=asked.quiet, events=asked.told)


def study_of(
    asked: argparse.Namespace,
    *,
    latency: bool = False,
    anew: bool = False,
    change: Callable[[Config], Config] = lambda made: made,
) -> Study:
    """The study of a search space with what the command line says on top, after a `change` of that."""
    from autoprune import config
    from autoprune.runs import study

    over = _said(asked)
    made = config.find(asked.space, over)
    controller = getattr(asked, "controller", None)
    if controller and controller != made.controller.use:
        made = config.find(asked.space, {"controller": {"use": controller}, **over})
    extra = ("latency",) if latency else ()
    with bars(asked) as shown:
        return study.build(change(made), watch=shown.stage, costs=extra, anew=anew)


def _said(asked: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of a search space, as `config.find` takes it."""
    from autoprune.search_config import in_place_of_trials

    over: dict[str, Any] = {
        key: {"use": value} if word == "target" else value
        for word, key in _OVER.items()
        if (value := getattr(asked, word, None)) is not None
    }
    if getattr(asked, "no_finetune", False):
        refuse_both(asked, "epochs")
        over["finetune.epochs"] = 0
    over |= dict(asked.set or ())
    if asked.data:
        over["task.data"] = str(Path(asked.data).absolute())  # a resumed run may be started from elsewhere
    if asked.budget:
        over["budget"] = ceilings(asked.budget)
    return in_place_of_trials(over)


def refuse_both(asked: argparse.Namespace, *words: str) -> None:
    """Refuse one of `words`, such as "epochs", beside --no-finetune."""
    if asked.no_finetune and (both := [word for word in words if getattr(asked, word) is not None]):
        raise ConfigError(f"--no-finetune and --{both[0]}: one of them is right")


def ceilings(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Ceilings by name of the cost, each given once."""
    found: dict[str, str] = {}
    for name, value in given:
        if name in found:
            raise ConfigError(f"two ceilings on {name}, {found[name]} and {value}; one is right")
        found[name] = value
    return found


def refuse_unwritable(path: Path) -> None:
    """Refuse a place where no file can be written, before any work."""
    if os.path.isdir(path) or not path.name:
        raise ConfigError(f"--out {path}: that is a folder; the name of a file is right")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it first")


def print_json(value: Mapping[str, Any]) -> None:
    """One object on stdout."""
    print(json.dumps(value, indent=2))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell."""
    print("\n".join(terminal.table(head, rows)))
