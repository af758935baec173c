"""Policies of a given shape, as hard as a budget asks for."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.controllers.rules import shaped, uniform
from autoprune.testing.controllers import raisable
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Budget


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_shape_meets_a_budget_and_uses_it_up(share: float) -> None:
    space = toy_space(width=64)
    budget = half(space, share)
    drawn = np.random.default_rng(0).random(len(space)) * 0.9
    policy = shaped(space, budget, drawn)
    assert budget.admits(policy)
    assert not raisable(space, budget, policy)
    kept = np.log1p(-np.array(space.sparsity(policy)))
    assert np.corrcoef(kept, np.log1p(-drawn))[0, 1] > 0.95


def test_what_was_dense_stays_dense_while_the_budget_can_be_met() -> None:
    space = toy_space(width=64)
    shape = np.array([0.0, 0.3, 0.6, 0.0, 0.3, 0.3, 0.6, 0.3])
    policy = shaped(space, half(space, 0.6), shape)
    assert [policy.levels[at] for at in (0, 3)] == [space.choices[at].dense for at in (0, 3)]
    tight = half(space, 0.05)
    assert tight.admits(shaped(space, tight, shape))  # not with them dense, so they give, too


def test_a_flat_shape_is_uniform_and_a_dense_one_is_fitted() -> None:
    space = toy_space(width=64)
    budget = half(space)
    assert shaped(space, budget, np.full(len(space), 0.4)) == uniform(space, budget)
    assert budget.admits(shaped(space, budget, np.zeros(len(space))))


def test_without_a_budget_the_shape_is_taken_as_it_is() -> None:
    space = toy_space(width=64, step=1)
    shape = np.linspace(0.1, 0.8, len(space))
    assert shaped(space, Budget(space), shape) == space.snap(shape)
