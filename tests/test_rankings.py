"""Policies that one order of all units gives."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.rankings import by_lamp, by_max, by_mean, by_norm, ranked, spread
from autoprune.testing.controllers import raisable
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Policy

SPACE = toy_space(depth=6, step=1, width=16)


def scores(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(choice.dense) + 0.01 for choice in SPACE]


@pytest.mark.parametrize("alike", [by_max, by_mean, by_norm, by_lamp])
class TestRanked:
    def test_uses_the_budget_up_and_never_exceeds_it(self, alike):
        policy = ranked(half(SPACE), scores(), alike)
        assert half(SPACE).admits(policy)
        assert not raisable(SPACE, half(SPACE), policy)

    def test_does_not_depend_on_the_size_of_one_layers_scores(self, alike):
        larger = [of * 1000 if at == 2 else of for at, of in enumerate(scores())]
        assert ranked(half(SPACE), larger, alike) == ranked(half(SPACE), scores(), alike)

    def test_is_dense_without_a_budget(self, alike):
        assert ranked(Budget(SPACE), scores(), alike) == SPACE.dense()

    def test_takes_scores_that_are_all_zero(self, alike):
        assert half(SPACE).admits(ranked(half(SPACE), [np.zeros(choice.dense) for choice in SPACE], alike))


def test_lamp_is_a_square_against_those_that_are_not_smaller():
    """Lee et al. 2021, equation 3."""
    assert by_lamp(np.array([2.0, 1.0, 3.0])) == pytest.approx([4 / 13, 1 / 14, 1.0])


def test_a_choice_of_few_units_that_matter_is_pruned_hardest():
    even = [1.0 - 0.5 * np.linspace(0, 1, choice.dense) for choice in SPACE]
    peaked = [*even[:3], np.where(np.arange(SPACE.choices[3].dense) < 3, 1.0, 0.01), *even[4:]]
    sparsity = SPACE.sparsity(ranked(half(SPACE), peaked, by_max))
    assert max(range(len(SPACE)), key=lambda at: sparsity[at]) == 3


class TestSpread:
    POLICIES = tuple(SPACE.snap([share] * len(SPACE)) for share in (0.0, 0.1, 0.5, 0.45, 0.9))

    def test_takes_those_that_differ_most(self):
        first, *others = self.POLICIES
        assert spread(first, others, 2, half(SPACE)) == [first, self.POLICIES[4], self.POLICIES[3]]

    def test_takes_none_twice(self):
        first, *others = self.POLICIES
        found = spread(first, [first, *others, *others], 9, half(SPACE))
        assert len(found) == len(set(found)) == 5

    def test_is_the_first_alone_where_nothing_else_is_wanted(self):
        assert spread(self.POLICIES[0], self.POLICIES[1:], 0, half(SPACE)) == [self.POLICIES[0]]


def test_policies_are_plain_values():
    assert isinstance(ranked(half(SPACE), scores(), by_max), Policy)
