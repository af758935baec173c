"""Rules of thumb: one policy each, by depth or by the sizes of tensors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from autoprune import plugins
from autoprune.controllers.rules import RULES, erk, keeping, smart_ratio, uniform
from autoprune.testing.controllers import raisable
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace
from autoprune.values.terms import Extent, Op

SPACE = toy_space(step=1, width=64)


@pytest.mark.parametrize("name", RULES)
class TestEveryRule:
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1.0])
    def test_uses_the_budget_up(self, name: str, share: float):
        policy = RULES[name](SPACE, half(SPACE, share))
        assert half(SPACE, share).admits(policy)
        assert not raisable(SPACE, half(SPACE, share), policy)

    def test_is_a_controller(self, name: str):
        made = plugins.build("controller", {"use": name}, space=SPACE, budget=half(SPACE), seed=0)
        assert made.ask() == RULES[name](SPACE, half(SPACE))

    def test_is_dense_without_a_budget(self, name: str):
        assert RULES[name](SPACE, Budget(SPACE)) == SPACE.dense()


def test_rules_differ():
    assert len({rule(SPACE, half(SPACE)) for rule in RULES.values()}) == len(RULES)


def test_what_is_kept_goes_with_densities_up_to_all_of_it():
    every = Op("sum", 1, (Extent(0, ((0, 1), (1, 1), (2, 1))),))
    space = SearchSpace("three", tuple(Choice(name, tuple(range(1, 101))) for name in "abc"), (every,))
    assert keeping(space, half(space, 0.6), np.array([1.0, 2.0, 4.0])) == Policy((27, 53, 100))


def test_erk_keeps_less_of_larger_tensors():
    """Of a tensor of o x i x 9 elements a share as (o + i + 9 + 2 k) / (o i 9), with k = 1 for no kernel."""
    kept = 1 - np.array(SPACE.sparsity(erk(SPACE, half(SPACE))))
    assert kept[0] == 1
    small, large = ((2 * of + 9 + 2) / (of * of * 9) for of in (128, 256))
    assert kept[7] == pytest.approx(kept[4] * large / small, rel=0.06)


def test_erk_is_uniform_where_nothing_is_known_of_tensors():
    space = SearchSpace("bare", SPACE.choices, SPACE.ops)
    assert erk(space, half(space)) == uniform(space, half(space))


def test_smart_ratio_keeps_ever_less():
    sparsity = SPACE.sparsity(smart_ratio(SPACE, half(SPACE)))
    assert all(after >= before - 0.01 for before, after in pairwise(sparsity))
    assert sparsity[0] == 0
