"""Whole numbers for every kind of choice: levels, ties, blocks that leave, and the unit cube that controllers see."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from autoprune.costs.arithmetic import Macs
from autoprune.errors import ConfigError, PolicyError
from autoprune.testing.surrogate import toy_space
from autoprune.values.budget import Budget, Limit
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.terms import Extent, Floats, Op, Rows


def size(choice: int, elements: int = 1) -> Extent:
    return Extent(0, ((choice, elements),))


MIXED = SearchSpace(
    "mixed",
    (
        Choice("conv1", tuple(range(4, 17))),
        Choice("conv2", levels_of(32, 8, 8)),
        Choice("block", (0, 1), "block"),
        Choice("inner", (4, 8, 16), "hidden", within="block"),
        Choice("heads", (2, 4, 6, 8), "head"),
        Choice("fc", (1, 2, 4), "n_of_m"),
        Choice("conv1.bits", (4, 8, 16), "bits"),
        Choice("conv2.bits", (4, 8, 16), "bits"),
        Choice("stem", (3,)),
    ),
    (
        Op("conv1", 64, (Extent(27), size(0), size(6))),
        Op("conv2", 16, (size(0, 9), size(1), size(7))),
        Op("inner", 16, (size(2), size(3), size(1, 9), Extent(16))),
        Op("qkv", 8, (size(4, 24), size(1), Extent(16))),
        Op("fc", 1, (size(1), Extent(64), size(5), Extent(4))),
    ),
    ties=((6, 7),),
)
points = st.lists(st.floats(0, 1), min_size=len(MIXED.cube), max_size=len(MIXED.cube))


class TestChoice:
    @pytest.mark.parametrize("levels", [(), (4, 2), (2, 2), (-1, 4), (0,)])
    def test_refuses_levels_that_are_not_ascending_from_nothing(self, levels: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match=r"choice 'a' has the levels .*; ascending whole numbers from 0 on"):
            Choice("a", levels)

    @pytest.mark.parametrize(
        ("arguments", "levels"),
        [((4,), (1, 2, 3, 4)), ((16, 5, 4), (8, 12, 16)), ((10, 1, 4), (4, 8, 10)), ((4, 4), (4,)), ((5, 1, 8), (5,))],
    )
    def test_of_channels_takes_multiples_and_all(self, arguments: tuple[int, ...], levels: tuple[int, ...]) -> None:
        assert levels_of(*arguments) == levels

    @given(st.sets(st.integers(0, 64), min_size=1).filter(any), st.floats(0, 1))
    def test_finds_the_nearest_level(self, levels: set[int], sparsity: float) -> None:
        one = Choice("a", tuple(sorted(levels)))
        wanted = one.dense * (1 - sparsity)
        found = one.levels[one.nearest(sparsity)]
        assert abs(found - wanted) == min(abs(level - wanted) for level in one.levels)

    @pytest.mark.parametrize(("level", "place"), [(0, 0), (4, 0), (7.9, 0), (8, 1), (11, 1), (99, 2)])
    def test_finds_the_level_below(self, level: float, place: int) -> None:
        assert Choice("a", (4, 8, 12)).below(level) == place

    def test_says_what_its_levels_remove(self) -> None:
        one = Choice("block", (0, 1), "block")
        assert (one.dense, one.reach, one.sparsity(1)) == (1, 1.0, 0.0)


class TestSpace:
    def test_ties_move_together(self) -> None:
        for policy in (MIXED.snap([0.5] * 7 + [0.0, 0.0]), MIXED.thinnest(), MIXED.dense()):
            assert policy.levels[6] == policy.levels[7]
        assert MIXED.contains(MIXED.dense())
        untied = Policy((*MIXED.dense().levels[:6], 4, 16, 3))
        assert not MIXED.contains(untied)

    def test_of_ties_the_mean_is_snapped(self) -> None:
        assert MIXED.snap([0, 0, 0, 0, 0, 0, 1.0, 0, 0]).levels[6:8] == (8, 8)

    def test_what_lies_in_a_block_that_leaves_is_dense(self) -> None:
        out = MIXED.snap([0, 0, 1, 0.75, 0, 0, 0, 0, 0])
        assert out.levels[2:4] == (0, 16)
        assert MIXED.snap([0, 0, 0, 0.75, 0, 0, 0, 0, 0]).levels[2:4] == (1, 4)
        assert MIXED.contains(out)
        assert not MIXED.contains(Policy((16, 32, 0, 4, 8, 4, 16, 16, 3)))
        assert MIXED.canonical(Policy((16, 32, 0, 4, 8, 4, 16, 16, 3))) == out

    def test_blocks_may_lie_within_blocks(self) -> None:
        names = ("outer", ""), ("inner", "outer"), ("unit", "inner")
        space = SearchSpace("nest", tuple(Choice(name, (0, 1), "block", within) for name, within in names))
        found = {space.canonical(Policy.of(levels)).levels for levels in itertools.product((0, 1), repeat=3)}
        assert found == {(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)}
        assert all(space.cube.policy(space.cube.point(Policy(levels))).levels == levels for levels in found)

    @pytest.mark.parametrize("levels", [(1, 2, 50), (1, 100, 100), (0, 100, 50), (0, 100, 1), (1, 3, 99)])
    def test_ties_of_different_levels_come_back_as_they_were(self, levels: tuple[int, ...]) -> None:
        choices = (
            Choice("block", (0, 1), "block"),
            Choice("a", (1, 2, 3, 100), within="block"),
            Choice("b", (1, 50, 99, 100)),
        )
        space, policy = SearchSpace("tied", choices, ties=((1, 2),)), Policy(levels)
        assert space.contains(policy)
        assert space.snap(space.sparsity(policy)) == policy
        assert space.cube.policy(space.cube.point(policy)) == policy

    def test_says_what_a_policy_removes(self) -> None:
        assert MIXED.sparsity(Policy((8, 32, 0, 16, 6, 1, 4, 4, 3))) == (0.5, 0, 1, 0, 0.25, 0.75, 0.75, 0.75, 0)

    @pytest.mark.parametrize(
        ("levels", "allowed"),
        [((5, 32), True), ((16, 8), True), ((17, 8), False), ((-1, 8), False), ((0, 8), False), ((16,), False)],
    )
    def test_refuses_what_the_network_cannot_have(self, levels: tuple[int, ...], allowed: bool) -> None:
        space = SearchSpace("two", MIXED.choices[:2])
        if allowed:
            space.require(Policy(levels))
        else:
            with pytest.raises(PolicyError, match=r"1 to 16 can stay|two has 2 choices, but 1 numbers"):
                space.require(Policy(levels))

    @pytest.mark.parametrize(
        ("choices", "ties", "message"),
        [
            (MIXED.choices[:2], ((0, 1),), "have different numbers of levels"),
            (MIXED.choices[:2], ((0, 2),), "each choice, by position, in one tie is right"),
            (MIXED.choices[6:8], ((0, 1), (1,)), "each choice, by position, in one tie is right"),
            (MIXED.choices[3:5], (), "'inner' lies within 'block', which x has not as a choice with level 0"),
        ],
    )
    def test_refuses_what_makes_no_sense(
        self, choices: tuple[Choice, ...], ties: tuple[tuple[int, ...], ...], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            SearchSpace("x", choices, ties=ties)


class TestCube:
    def test_has_an_axis_for_each_tie_and_none_for_what_leaves_no_choice(self) -> None:
        assert MIXED.cube.axes == ((0,), (1,), (2,), (3,), (4,), (5,), (6, 7))
        assert len(MIXED.cube) == len(MIXED.cube.reach) == 7

    def test_begins_dense_and_ends_thin(self) -> None:
        assert MIXED.cube.policy([0.0] * 7) == MIXED.dense()
        assert MIXED.cube.policy([1.0] * 7) == MIXED.thinnest()

    @given(points)
    def test_holds_every_policy_and_nothing_else(self, point: list[float]) -> None:
        policy = MIXED.cube.policy(point)
        assert MIXED.contains(policy)
        assert MIXED.cube.policy(MIXED.cube.point(policy)) == policy
        assert MIXED.cube.settled(MIXED.cube.places(policy)) == policy

    @given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
    def test_is_the_sparsities_of_channels_against_the_largest(self, point: list[float]) -> None:
        space = toy_space()
        policy = space.cube.policy(point)
        reach = [choice.reach for choice in space]
        assert policy == space.snap([x * r for x, r in zip(point, reach, strict=True)])
        assert space.cube.point(policy) == pytest.approx(np.array(space.sparsity(policy)) / reach)

    def test_puts_what_lies_outside_on_its_face(self) -> None:
        assert MIXED.cube.point(Policy((1, 32, 1, 16, 8, 4, 16, 16, 3)))[0] == 1.0

    def test_prices_many_at_once(self) -> None:
        places = np.array([[0, 0, 0, 2, 0, 0, 0], [12, 3, 1, 2, 3, 2, 2]])
        assert [tuple(row) for row in MIXED.cube.rows(places).tolist()] == [
            MIXED.thinnest().levels,
            MIXED.dense().levels,
        ]


class TestBudget:
    """Channels, heads, blocks, N:M and bits under one ceiling."""

    def raised(self, policy: Policy) -> list[Policy]:
        """The policies with one axis a level higher."""
        cube, places = MIXED.cube, np.array(MIXED.cube.places(policy))
        steps = np.eye(len(cube), dtype=np.int64)
        last = [len(choice.levels) - 1 for choice in cube.leaders]
        return [cube.settled((places + step).tolist()) for step in steps if ((places + step) <= last).all()]

    def test_two_thousand_fits_are_in_the_space_below_it_and_waste_nothing(self) -> None:
        rng, cost, seen = np.random.default_rng(0), Macs(MIXED), set[Policy]()
        for _ in range(2000):
            most = rng.uniform(0.15, 1) * cost.predict(MIXED.dense())
            budget = Budget(MIXED, (Limit("macs", cost, most),))
            fitted = budget.fit(MIXED.cube.policy(rng.random(7)))
            assert MIXED.contains(fitted)
            assert cost.predict(fitted) <= most
            assert not [p for p in self.raised(fitted) if p != fitted and budget.admits(p)]
            seen.add(fitted)
        assert len(seen) > 500
        assert {policy.levels[2] for policy in seen} == {0, 1}
        assert {policy.levels[4] for policy in seen} == {2, 4, 6, 8}

    def test_costs_are_asked_only_for_what_the_space_holds(self) -> None:
        class Asked(Macs):
            def predict_many(self, rows: Rows) -> Floats:
                assert all(MIXED.canonical(Policy.of(row)) == Policy.of(row) for row in rows)
                return super().predict_many(rows)

        cost, rng = Asked(MIXED), np.random.default_rng(1)
        budget = Budget(MIXED, (Limit("macs", cost, 0.4 * cost.predict(MIXED.dense())),))
        for _ in range(50):
            assert budget.admits(budget.fit(MIXED.cube.policy(rng.random(7))))

    @settings(deadline=None)
    @given(points, st.floats(0.15, 1))
    def test_whoever_decides_axis_by_axis_stays_below_it(self, point: list[float], share: float) -> None:
        cost = Macs(MIXED)
        budget = Budget(MIXED, (Limit("macs", cost, share * cost.predict(MIXED.dense())),))
        wanted, decided = MIXED.cube.places(MIXED.cube.policy(point)), list[int]()
        for place in wanted:
            decided.append(min(place, budget.most(decided)))
        assert budget.admits(MIXED.cube.settled(decided))
