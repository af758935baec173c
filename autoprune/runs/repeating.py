"""The command line that makes a like run."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from autoprune import config
from autoprune.runs.differences import differences
from autoprune.runs.study import GIVEN, Study

_SAID = re.compile(r"(controller|search|ladder|finetune|report)\.[^.]+$")  # what is written beside a task


def command(study: Study) -> str:
    """The command line that makes a like run, where one can."""
    asked = study.config
    task, seed, trials = asked.task.use, study.seed, asked.search.trials
    if task == GIVEN:
        return "autoprune.search(task, ...) in Python"
    over = {"budget": dict(asked.budget), "controller": {"use": asked.controller.use}, "search.trials": trials}
    usual, plain = config.find(task, {**over, "search.seed": seed}).plain(), asked.plain()
    others = {place: _at(plain, place) for place in differences(usual, plain)}
    short = all(_SAID.match(place) and isinstance(value, str | int | float) for place, value in others.items())
    by_itself = study.name == usual["name"] and short  # else a file says what is looked for, and is named
    words = ["autoprune", "search", task if by_itself else f"{study.name}.toml", "--controller", asked.controller.use]
    for name, ceiling in asked.budget.items():
        words += ["--budget", f"{name}={ceiling}"]
    words += ["--trials", str(trials), "--seed", str(seed)]
    for place, value in others.items() if by_itself else ():
        words += ["--set", f"{place}={json.dumps(value)}"]
    return shlex.join(words)


def _at(plain: Any, place: str) -> Any:
    """What stands at a dotted place."""
    for key in place.split("."):
        plain = plain[int(key)] if isinstance(plain, list) else plain.get(key)
    return plain
