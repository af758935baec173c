"""What the logger `autoprune` is told of a run: nothing is printed, whoever uses the library decides what is shown.

Trials and stages are INFO; what a person should look into is a WARNING.
"""

from __future__ import annotations

import logging

from autoprune.protocols import Watch
from autoprune.report import warnings, words
from autoprune.report.facts import Report
from autoprune.runs import loop
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.trial import Trial

NAME = "autoprune"


def begins(study: Study, run: Run) -> None:
    """A run is begun, or goes on."""
    said = "; ".join(limit.sentence() for limit in study.budget.limits) or "no budget"
    asked = study.config.search
    span = f"{len(run)} trials of {words.duration(asked.time)}"
    wanted = span if asked.time else f"{len(run)} of {asked.trials} trials"
    _log().info("%s: %s, %s", run.directory, wanted, said)


def trials(study: Study, watch: loop.Watch) -> loop.Watch:
    """`watch`, which tells the logger of each trial, too."""
    judge = study.task.judge

    def told(trial: Trial) -> None:
        if trial.metric is None:
            _log().info("trial %d failed: %s", trial.number, trial.error)
        else:
            metric = words.number(judge.known(trial.metric), percent=judge.percent)
            shares = ", ".join(f"{name} {cost / study.dense[name]:.1%}" for name, cost in trial.costs.items())
            _log().info("trial %d: %s %s, reward %.6g, %s", trial.number, judge.name, metric, trial.reward, shares)
        watch(trial)

    return told


def stages(watch: Watch) -> Watch:
    """`watch`, which tells the logger of each stage once, too."""
    last = ""

    def told(what: str, done: int, of: int) -> None:
        nonlocal last
        if what != last:
            last = what
            _log().info("%s", what)
        watch(what, done, of)

    return told


def ends(report: Report, run: Run) -> None:
    """A run is done."""
    for note in report.notes:
        _log().info("%s", note)
    for line in warnings.of_end(report):
        warn(line)
    _log().info("%s %s", words.sentence(report), run.directory)


def warn(text: str) -> None:
    """Something that a person should look into."""
    _log().warning("%s", text)


def _log() -> logging.Logger:
    return logging.getLogger(NAME)
