"""Rules of thumb: one policy each, by depth or by the sizes of tensors; and policies of a given shape."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from autoprune import plugins
from autoprune.controllers.rules import RULES, erk, keeping, shaped, smart_ratio, uniform
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


def mixed(widths: int, blocks: int, floor: int = 1) -> SearchSpace:
    """Widths of 100, and blocks of which each takes as much; the cost is their sum."""
    every = [Choice(f"w{n}", tuple(range(floor, 101))) for n in range(widths)]
    every += [Choice(f"b{n}", (0, 1), kind="block") for n in range(blocks)]
    ops = [Op(f"o{n}", 1 if n < widths else 100, (Extent(0, ((n, 1),)),)) for n in range(widths + blocks)]
    return SearchSpace("mixed", tuple(every), tuple(ops))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_blocks_leave_evenly_where_there_is_nothing_else(share: float) -> None:
    """They left all at once, and what the budget still held was filled up from one end."""
    space = mixed(0, 20)
    kept = np.array(uniform(space, half(space, share)).levels)
    assert kept.sum() == round(share * 20)
    gaps = np.diff(np.flatnonzero(kept == (1 if share < 0.5 else 0)))
    assert gaps.max(initial=0) - gaps.min(initial=20) <= 1 or len(gaps) < 2


def test_blocks_stay_while_widths_suffice() -> None:
    space = mixed(4, 4, floor=10)
    *widths, b0, b1, b2, b3 = uniform(space, half(space, 0.6)).levels
    assert (b0, b1, b2, b3) == (1, 1, 1, 1)
    assert max(widths) - min(widths) <= 1
    *widths, b0, b1, b2, b3 = uniform(space, half(space, 0.4)).levels  # of 800 blocks take 400, and widths 40 at least
    assert 0 < b0 + b1 + b2 + b3 < 4
    assert sum(widths) >= 40


def test_a_rule_says_which_end_loses_its_blocks() -> None:
    space = mixed(0, 20)
    gone = {name: np.flatnonzero(np.array(RULES[name](space, half(space)).levels) == 0).mean() for name in RULES}
    assert gone["shallow"] < gone["uniform"] < gone["deep"]
