"""What was asked is not asked again, and what takes its place is near it."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest

from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace
from tests.making import failed

SPACE = toy_space(depth=8)  # more policies than are listed
BUDGET = half(SPACE)
WISH = BUDGET.fit(SPACE.cube.policy([0.5] * 8))


def many(asks: Asks, count: int) -> list[Policy]:
    found = []
    for _ in range(count):
        asks.dice()
        found.append(asks.fresh(WISH))
    return found


def test_one_wish_again_and_again_gives_ever_other_policies_about_it() -> None:
    found = many(Asks(BUDGET, 0), 200)
    assert found[0] == WISH
    assert len(set(found)) == 200
    assert all(BUDGET.admits(policy) and SPACE.contains(policy) for policy in found)
    assert all(BUDGET.fit(policy) == policy for policy in found), "the budget is used up"
    far = [np.abs(SPACE.cube.point(p) - SPACE.cube.point(WISH)).mean() for p in found]
    assert np.mean(far[1:20]) < 0.1
    assert np.mean(far[1:20]) < np.mean(far[150:])


def test_what_takes_a_wish_s_place_is_the_seed_s_and_the_number_s() -> None:
    whole, other = many(Asks(BUDGET, 0), 20), many(Asks(BUDGET, 1), 20)
    assert whole == many(Asks(BUDGET, 0), 20)
    assert whole[1:] != other[1:]
    resumed = Asks(BUDGET, 0)
    for number, policy in enumerate(whole[:12]):
        resumed.tell(judge(SPACE, number, policy))
    assert many(resumed, 8) == whole[12:]


def test_who_throws_no_dice_is_helped_as_well() -> None:
    asks, found = Asks(BUDGET, 0), list[Policy]()
    for number in range(20):
        found.append(asks.fresh(WISH))
        asks.tell(judge(SPACE, number, found[-1]))
    assert len(set(found)) == 20


@pytest.mark.parametrize("trial", [judge(SPACE, 0, WISH), failed(0, WISH)], ids=["scored", "failed"])
def test_what_was_told_counts_as_asked_but_of_another_rung(trial) -> None:
    asks = Asks(BUDGET, 0)
    asks.tell(dataclasses.replace(trial, rung=2))
    assert many(asks, 1) == [WISH]
    again = Asks(BUDGET, 0)
    again.tell(trial)
    assert many(again, 1) != [WISH]


def test_all_policies_are_those_that_fit_leaves_alone() -> None:
    for space in (toy_space(depth=4, step=8), toy_space(depth=4, step=4)):
        plain = [Policy(levels) for levels in product(*(choice.levels for choice in space))]
        for budget in (half(space), half(space, 0.3), Budget(space, half(space).limits, fill=False), Budget(space)):
            every = budget.every(10_000)
            assert every is not None
            assert set(every) == {policy for policy in plain if budget.fit(policy) == policy}
            assert len(every) == len(set(every))


def test_many_policies_are_not_listed() -> None:
    assert BUDGET.every(1000) is None


def test_a_budget_that_leaves_hardly_anything_is_listed_in_any_space() -> None:
    """All but the dense network, and a unit less somewhere, are below a ceiling of 99.99 %; few use it up."""
    every = half(SPACE, 0.9999).every(1000)
    assert every is not None
    assert len(every) == 8
    assert all(SPACE.dense().levels != policy.levels for policy in every)


def test_what_a_skipped_block_holds_makes_no_second_policy() -> None:
    inner = Choice("inner", (1, 2, 3), within="block")
    space = SearchSpace("gated", (Choice("block", (0, 1), kind="block"), inner))
    every = Budget(space).every(100)
    assert every is not None
    assert len(every) == len(set(every)) == 4


def test_ties_are_asked_together() -> None:
    plain = toy_space(depth=4, step=4)
    space = SearchSpace("tied", plain.choices, plain.ops, plain.parameters, ties=((0, 1),))
    every = half(space).every(1000)
    assert every is not None
    assert all(space.contains(policy) and half(space).admits(policy) for policy in every)
