"""What a search is compared with is scored by whoever evaluated for the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autoprune import config
from autoprune.protocols import silent
from autoprune.runs import firsts, lifecycle, loop, study
from autoprune.runs.baselines import Baselines
from autoprune.runs.study import Study
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Trial
from tests import ASSETS
from tests.assets.mine import make


@pytest.fixture
def built() -> Study:
    tables = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, "search": {"trials": 4},
              "evaluator": {"use": f"{ASSETS / 'mine.py'}:Careful"}}  # fmt: skip
    return study.build(config.parse(tables, "a test"), task=make())


class Elsewhere(ThreadPoolExecutor):
    """Three at once, in another thread; `deadly` ends whoever evaluates it."""

    staff = 3

    def __init__(self, deadly: Policy | None = None) -> None:
        super().__init__(1)
        self.deadly, self.sent = deadly, list[Policy]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        number, policy = args
        self.sent.append(policy)
        if policy == self.deadly:
            return super().submit(
                lambda: Trial(number, policy, Failure("2 workers died while they evaluated it", {}), {})
            )
        return super().submit(fn, *args, **kwargs)


def timeless(trials: Any) -> list[Trial]:
    return [dataclasses.replace(trial, seconds={}) for trial in trials]


def test_are_the_same_whoever_scores_them_and_each_is_scored_once(built: Study, tmp_path: Path) -> None:
    with lifecycle.begin(built, tmp_path) as run:
        loop.search(built.controller(), built.attempt, run, trials=4, first=firsts.known(run.machine))
        here = Baselines.scored(built, run, silent)
        with Elsewhere() as executor:
            there = Baselines.scored(built, run, silent, executor)
        assert timeless(here.random) == timeless(there.random)
        assert timeless(here.rules.values()) == timeless(there.rules.values())
        assert list(here.rules) == list(there.rules)
        searched = {trial.policy for trial in run}
    assert executor.sent
    assert len(set(executor.sent)) == len(executor.sent)
    assert searched.isdisjoint(executor.sent)


def test_a_policy_that_ends_whoever_evaluates_it_is_left_out_and_not_tried_here(built: Study, tmp_path: Path) -> None:
    """With workers, the search went on after such a policy; scored by the search itself afterwards it ended that."""
    with lifecycle.begin(built, tmp_path) as run:
        loop.search(built.controller(), built.attempt, run, trials=4, first=firsts.known(run.machine))
        with Elsewhere() as executor:
            Baselines.scored(built, run, silent, executor)
        deadly = executor.sent[0]
        with Elsewhere(deadly) as executor:
            found = Baselines.scored(built, run, silent, executor)
    of_it = [trial for trial in (*found.random, *found.rules.values()) if trial.policy == deadly]
    assert of_it
    assert all(trial.error.startswith("2 workers died") for trial in of_it)
    chosen = found.chosen(built, run.best().policy, [])
    assert deadly not in (chosen.get("rule"), chosen.get("random"))
