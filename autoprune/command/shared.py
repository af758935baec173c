"""What several commands do: build a study of what was asked, refuse what cannot be written, print tables and JSON."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.command import terminal
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.config import Config
    from autoprune.runs.study import Study

_OVER = {"trials": "search.trials", "seed": "search.seed", "device": "search.device", "target": "target"}


def config_of(asked: argparse.Namespace, source: str) -> Config:
    """The config of the search space `source`, with what the command line sets besides."""
    from autoprune import config

    over: dict[str, Any] = {
        key: {"use": value} if word == "target" else value
        for word, key in _OVER.items()
        if (value := getattr(asked, word, None)) is not None
    }
    over |= dict(asked.set or ())
    if asked.data:
        over["task.data"] = str(Path(asked.data).absolute())  # a resumed run may be started from elsewhere
    if asked.budget:
        over["budget"] = ceilings(asked.budget)
    made = config.find(source, over)
    controller = getattr(asked, "controller", None)
    if controller and controller != made.controller.use:
        made = config.find(source, {"controller": {"use": controller}, **over})
    return made


def study_of(asked: argparse.Namespace, *, latency: bool = False, anew: bool = False) -> Study:
    """The study of the search space that was asked for."""
    from autoprune.command.progress import Bars
    from autoprune.runs import study

    made = config_of(asked, asked.space)
    extra = ("latency",) if latency else ()
    with Bars() as bars:
        return study.build(made, watch=bars.stage, costs=extra, anew=anew)


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
    """One JSON object."""
    terminal.show(json.dumps(value, indent=2))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in columns."""
    terminal.show("\n".join(terminal.table(head, rows)))
