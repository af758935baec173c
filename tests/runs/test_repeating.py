"""The command line that makes a like run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from autoprune import config
from autoprune.command import arguments, shared
from autoprune.runs import repeating, study
from tests import ASSETS

MINE = ASSETS / "mine.py"


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"finetune.epochs": 0.1, "report.random_trials": 3},
        {"controller": {"use": "evolution", "brood": 5}, "search.first": "none"},
    ],
)
def test_what_it_says_is_the_same_config(over: dict[str, Any]) -> None:
    """A run of a task with --epochs was to be repeated by a file that nobody had written."""
    asked = config.find(f"{MINE}:make", {"budget": {"macs": "50%"}, "search.trials": 8, "search.seed": 3, **over})
    words = shlex.split(repeating.command(study.build(asked)))
    given = arguments.parser().parse_args(words[1:])
    assert config.find(given.space, {"controller": {"use": given.controller}, **shared._said(given)}).plain() == (
        asked.plain()
    )


def test_a_file_is_named_where_it_says_more(tmp_path: Path) -> None:
    more = '[[space.group]]\nmatch = "0"\nfloor = 4\n'
    (tmp_path / "mine.toml").write_text(f'[task]\nuse = "{MINE}:make"\n[budget]\nmacs = "50%"\n{more}')
    asked = config.find(str(tmp_path / "mine.toml"))
    assert repeating.command(study.build(asked)).startswith("autoprune search mine.toml --controller evolution")
