"""Projection onto a budget: never above, and nothing left that a choice could use."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from autoprune.costs.arithmetic import Flops, Macs, Params
from autoprune.errors import BudgetError, ConfigError
from autoprune.values.budget import Budget, Limit, ceiling, limits
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Extent, Op
from tests.making import group


def chain(widths: list[int], step: int = 1) -> SearchSpace:
    """A chain of 3x3 convolutions of these widths, on ever smaller images."""
    choices = tuple(group(f"conv{i}", w, lowest=max(1, w // 8), step=step) for i, w in enumerate(widths))
    sizes = [Extent(3), *(Extent(0, ((i, 1),)) for i in range(len(widths))), Extent(10)]
    pairs = list(pairwise(sizes))
    ops = tuple(Op(f"op{i}", 9 * (32 >> i // 2) ** 2, pair) for i, pair in enumerate(pairs))
    return SearchSpace("chain", choices, ops, tuple(Op(f"w{i}", 9, pair) for i, pair in enumerate(pairs)))


SPACES = {step: chain([64, 64, 128, 128, 256, 256], step) for step in (1, 8, 32)}
sparsities = st.lists(st.floats(0, 1), min_size=6, max_size=6)


def budget(space: SearchSpace, fill: bool = True, **asked: str) -> Budget:
    costs = {"macs": Macs(space), "flops": Flops(space), "params": Params(space)}
    return Budget(space, limits(asked, costs, space), fill)


def wasteful(one: Budget, kept: tuple[int, ...], most: tuple[int, ...]) -> list[str]:
    """Choices that could keep a level more and still fit."""
    found = []
    for i, choice in enumerate(one.space):
        higher = [level for level in choice.levels if kept[i] < level <= most[i]]
        if higher and one.admits(Policy.of([*kept[:i], higher[0], *kept[i + 1 :]])):
            found.append(choice.name)
    return found


@pytest.mark.parametrize("step", SPACES)
@given(sparsities)
@settings(max_examples=150, deadline=None)
def test_fit_never_overshoots_and_wastes_nothing(step: int, wanted: list[float]) -> None:
    space = SPACES[step]
    one = budget(space, macs="50%", params="60%")
    fitted = one.fit(space.snap(wanted))
    assert one.admits(fitted)
    assert space.contains(fitted)
    assert not wasteful(one, fitted.levels, tuple(g.dense for g in space))
    assert one.fit(fitted) == fitted


@given(sparsities)
@settings(max_examples=100, deadline=None)
def test_a_ceiling_alone_leaves_what_fits_and_never_adds(wanted: list[float]) -> None:
    space = SPACES[1]
    one = budget(space, fill=False, macs="50%")
    asked = space.snap(wanted)
    fitted = one.fit(asked)
    assert one.admits(fitted)
    assert all(f <= a for f, a in zip(fitted.levels, asked.levels, strict=True))
    assert not wasteful(one, fitted.levels, asked.levels)
    assert (fitted == asked) == one.admits(asked)


def test_an_impossible_budget_is_refused_with_the_smallest_reachable() -> None:
    space = SPACES[8]
    least = Macs(space).predict(space.thinnest())
    with pytest.raises(BudgetError, match=f"smallest reachable is {least:,.0f} MAC"):
        budget(space, macs="1%")


def test_flops_are_twice_macs() -> None:
    space = SPACES[1]
    assert Flops(space).predict(space.dense()) == 2 * Macs(space).predict(space.dense())
    half = budget(space, flops="50%").fit(space.dense())
    assert half == budget(space, macs="50%").fit(space.dense())


def test_many_at_once_are_as_one_by_one() -> None:
    space = SPACES[1]
    rng = np.random.default_rng(0)
    kept = np.stack([rng.integers(1, g.dense + 1, 50) for g in space], axis=1)
    for cost, ops in ((Macs(space), space.ops), (Params(space), space.parameters)):
        assert cost.predict_many(kept).tolist() == [sum(op.count(row) for op in ops) for row in kept.tolist()]


@pytest.mark.parametrize(
    ("written", "means"), [("50%", 500), (0.5, 500), ("0.5", 500), ("2e2", 200), (100, 100), ("100%", 1000)]
)
def test_how_a_ceiling_is_written(written: str | float, means: float) -> None:
    assert ceiling(written, dense=1000) == means


@pytest.mark.parametrize(
    "written", ["half", "-5%", "0%", "101%", "nan", "inf", "1e300", str(10**30), "0", "-1", "", "%"]
)
def test_what_is_no_ceiling(written: str) -> None:
    with pytest.raises(ConfigError, match="budget of"):
        ceiling(written, dense=1000)


def test_a_budget_on_an_unknown_cost() -> None:
    with pytest.raises(ConfigError, match="'watts'"):
        budget(SPACES[1], watts="50%")


@pytest.mark.parametrize(
    ("asked", "hint"), [("50", True), ("100", True), ("0.5", False), ("1e3", False), ("5%", False)]
)
def test_a_share_without_its_sign_is_guessed(asked: str, hint: bool) -> None:
    space = SPACES[8]
    limit = Limit("macs", Macs(space), 1.0, asked)
    assert (f"(macs={asked}% is a share)" in limit.unmet(space)) is hint


def test_a_ceiling_above_the_dense_network_says_that_it_is_none() -> None:
    assert Limit("macs", Macs(SPACES[8]), 2e9, dense=3e4).sentence() == (
        "macs at most 2,000,000,000 MAC, which is no limit: the dense network has 30,000 MAC"
    )
