"""What the default controller keeps, beginning with rankings: far above random search, on few trials and many."""

from __future__ import annotations

import statistics
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from autoprune import plugins
from autoprune.config import Config
from autoprune.protocols import Controller
from autoprune.testing.controllers import asked, drive
from autoprune.testing.fitted import Fitted, read
from autoprune.testing.surrogate import half, metric, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import SearchSpace
from tests import ASSETS

TABLES = [ASSETS / "landscapes" / f"cifar10_{name}.json" for name in ("resnet20", "resnet56")]
DEFAULT = Config.model_fields["controller"].default.use


def made(space: SearchSpace, budget: Budget, seed: int = 0, name: str = DEFAULT) -> Controller:
    controller: Controller = plugins.build("controller", {"use": name}, space=space, budget=budget, seed=seed)
    return controller


def best(landscape: Fitted, name: str, seed: int, trials: int) -> list[float]:
    """The best score after each trial; random search does without rankings."""
    controller, first = made(landscape.space, landscape.budget, seed, name), landscape.first * (name != "random")
    rewards = []
    for number in range(trials):
        trial = landscape.judge(number, first[number] if number < len(first) else controller.ask())
        controller.tell(trial)
        rewards.append(trial.reward or 0.0)
    return np.maximum.accumulate(rewards).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_it_beats_random_search_on_real_scores(table: Path) -> None:
    """p < 0.01 at 50, 100 and 200 trials; random search's best of 400 within 40 (median of ten seeds)."""
    landscape = read(table)
    ours = [best(landscape, DEFAULT, seed, 200) for seed in range(10)]
    chance = [best(landscape, "random", seed, 400) for seed in range(10)]
    for trials in (50, 100, 200):
        found, others = ([run[trials - 1] for run in runs] for runs in (ours, chance))
        assert mannwhitneyu(found, others, alternative="greater", method="exact").pvalue < 0.01
    goal = statistics.median(run[-1] for run in chance)
    assert statistics.median(int(np.searchsorted(run, goal)) + 1 for run in ours) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_a_thousand_trials_are_better_than_two_hundred(table: Path) -> None:
    found = best(read(table), DEFAULT, 0, 1000)
    assert found[999] > found[199] > found[19]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_with_few_choices_it_finds_the_best_and_ends_or_repeats(depth: int) -> None:
    space = toy_space(depth=depth, step=4)
    every = half(space).every(1000)
    assert every
    trials = list(islice(asked(made(space, half(space)), space), len(every)))
    assert {trial.policy for trial in trials} == set(every)
    assert max(trial.reward or 0.0 for trial in trials) == max(metric(space, policy) for policy in every)


def test_with_a_hundred_choices_it_is_never_below_uniform_and_soon_above() -> None:
    space = toy_space(depth=100, step=4)
    rewards = [trial.reward or 0.0 for trial in drive(made(space, half(space)), 40, space=space)]
    assert max(rewards) > rewards[0] + 0.001  # the first is the uniform policy
