"""Of very many trials those that a report lists and draws: a page of 100,000 points would be 33 MB that show no more.

Kept are the front of every cost, every trial that was the best so far, the winner, the first and the last one, and of
all others an even sample over the search. The journal has every trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autoprune.report.facts import LeftOut, Report, TrialFacts

MOST = 2000  # trials in a list, unless more than that must be kept


def thinned(report: Report) -> Report:
    """`report` with no more trials than its page shows, and how many were left out. Of random ones no policies."""
    trials, left = report.trials, report.left_out
    if len(trials) > MOST:
        fronts = {trial.number for cost in report.units for trial in report.front(cost)}
        trials = _sampled(trials, fronts | {report.best})
    random = tuple(dataclasses.replace(trial, kept=()) for trial in _sampled(report.random_trials, set()))
    failed = _failed(report.trials) - _failed(trials)
    gone = len(report.trials) - len(trials), failed, len(report.random_trials) - len(random)
    more = LeftOut(left.trials + gone[0], left.failed + gone[1], left.random + gone[2])
    return dataclasses.replace(report, trials=trials, random_trials=random, left_out=more)


def _sampled(trials: Sequence[TrialFacts], wanted: set[int]) -> tuple[TrialFacts, ...]:
    """The trials with the `wanted` numbers, those that were the best so far, the ends, and an even sample of others."""
    if len(trials) <= MOST:
        return tuple(trials)
    kept = wanted | {trials[0].number, trials[-1].number, *_records(trials)}
    others = [trial.number for trial in trials if trial.number not in kept]
    room = max(MOST - len(kept), 0)
    kept |= {others[at * len(others) // room] for at in range(min(room, len(others)))}
    return tuple(trial for trial in trials if trial.number in kept)


def _records(trials: Sequence[TrialFacts]) -> list[int]:
    """The numbers of the trials with a larger reward than all before them."""
    best, found = float("-inf"), list[int]()
    for trial in trials:
        if trial.reward is not None and trial.reward > best:
            best = trial.reward
            found.append(trial.number)
    return found


def _failed(trials: Sequence[TrialFacts]) -> int:
    return sum(trial.metric is None for trial in trials)
