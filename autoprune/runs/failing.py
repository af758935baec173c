"""Failures of a search that are said while they happen, through the logger `autoprune`: see `report.warnings`."""

from __future__ import annotations

from autoprune.report import warnings
from autoprune.runs import loop, spoken
from autoprune.runs.details import chance
from autoprune.runs.study import Study
from autoprune.values.space import Policy
from autoprune.values.trial import FIRST, Trial


def watching(study: Study, watch: loop.Watch) -> loop.Watch:
    """`watch`, which warns once where the best of the first ten trials is hardly better than a guess."""
    guess, best = chance(study.task), float("-inf")

    def told(trial: Trial) -> None:
        nonlocal best
        if trial.metric is not None and not trial.rung:  # what was finetuned on a ladder is no guess
            best = max(best, trial.metric)
        if guess is not None and trial.number + 1 == FIRST and best > float("-inf"):
            for line in warnings.near_chance(study.task.judge.name, best, 1.0, guess):
                spoken.warn(line)
        watch(trial)

    return told


def of_winner(study: Study, policy: Policy) -> None:
    """Warn of what is wrong with the policy that is taken, before it is finetuned."""
    choices = study.space.choices
    for line in warnings.of_policy([c.name for c in choices], policy.levels, [c.dense for c in choices]):
        spoken.warn(line)
