"""Landscapes that were fitted to recorded scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autoprune.costs.arithmetic import Macs
from autoprune.testing.fitted import Fitted, Kernel, read, table_of
from autoprune.testing.surrogate import half, metric, toy_space
from autoprune.values.space import Policy

TABLES = Path(__file__).parent.parent / "assets" / "landscapes"
NAMES = {"cifar10_resnet20": (0.96, 0.88), "cifar10_resnet56": (0.98, 0.84), "fashion_resnet20": (0.93, 0.73)}


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def landscape(name: str) -> Fitted:
    return read(TABLES / f"{name}.json")


def test_every_table_is_here():
    assert {path.stem for path in TABLES.iterdir()} == set(NAMES)


class TestRealScores:
    def test_scores_are_foretold_from_others(self, landscape: Fitted, name: str):
        """R2 of all, and of the better half, which is what a search is about."""
        every, better = NAMES[name]
        assert landscape.explained() > every
        assert landscape.explained(float(np.median(landscape.scores))) > better

    def test_the_budget_and_what_is_asked_first_are_the_networks(self, landscape: Fitted):
        space = landscape.space
        assert len(landscape.first) == 6
        assert all(space.contains(policy) and landscape.budget.admits(policy) for policy in landscape.first)
        assert landscape.budget.limits[0].most == landscape.share * Macs(space).predict(space.dense())

    def test_it_is_written_as_it_was_read(self, landscape: Fitted, name: str):
        assert json.loads(json.dumps(table_of(landscape))) == json.loads((TABLES / f"{name}.json").read_text())


@pytest.fixture
def small() -> Fitted:
    """Of scores that are known."""
    space, rng = toy_space(step=1), np.random.default_rng(0)
    policies = tuple(space.snap(rng.random(len(space))) for _ in range(60))
    scores = np.array([metric(space, policy) for policy in policies])
    return Fitted(space, 0.5, policies[:1], policies, scores, Kernel(3.0, 0.5, 0.5, 0.3, 0.01))


class TestProcess:
    def test_what_was_recorded_comes_back(self, small: Fitted):
        found = [small.metric(policy) for policy in small.policies]
        assert np.abs(found - small.scores).max() < 0.01

    def test_explained_is_what_leaving_each_out_gives(self, small: Fitted):
        """Mean and deviation of log-odds aside, which are of all; so of a process without them."""
        covariance = small.kernel(small._points, small._points) + 0.01**2 * np.eye(60)
        foretold = []
        for out in range(60):
            rest = np.delete(np.arange(60), out)
            weights = np.linalg.solve(covariance[np.ix_(rest, rest)], small._odds[rest])
            foretold.append(covariance[out, rest] @ weights)
        missed = small.scores - small._score(np.array(foretold))
        expected = 1 - np.square(missed).sum() / np.square(small.scores - small.scores.mean()).sum()
        assert small.explained() == pytest.approx(expected, abs=1e-6)

    def test_roughness_is_the_same_for_the_same_policy(self, small: Fitted):
        policy = half(small.space).fit(small.space.dense())
        assert small.metric(policy, rough=1.0) == small.metric(policy, rough=1.0) != small.metric(policy)

    def test_a_score_stays_within_0_and_1(self, small: Fitted):
        for policy in (small.space.dense(), small.space.thinnest(), Policy((1,) * len(small.space))):
            assert 0 <= small.metric(policy, rough=50.0) <= 1

    def test_a_trial_is_priced(self, small: Fitted):
        policy = small.policies[3]
        trial = small.judge(7, policy)
        assert trial.number == 7
        assert trial.reward == trial.metric == small.metric(policy)
        assert trial.costs["macs"] == Macs(small.space).predict(policy)
