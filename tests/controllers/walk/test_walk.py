"""One axis at a time: inside the budget whatever is decided, and AMC's eleven features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from autoprune.controllers.walk.walk import Prefix, Walk
from autoprune.costs.arithmetic import Macs, Params
from autoprune.errors import PolicyError
from autoprune.models.resnet import ResNet
from autoprune.structure.trace import trace
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Budget, Limit, limits
from autoprune.values.space import Policy, SearchSpace

SPACES = {step: toy_space(depth=7, step=step, width=64) for step in (1, 8, 32)}
shares = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=7, max_size=7)


def tight(space: SearchSpace, fill: bool = False) -> Budget:
    """Two limits at once, of which now this one binds and now that."""
    costs = {"macs": Macs(space), "params": Params(space)}
    return Budget(space, limits({"macs": "40%", "params": "30%"}, costs, space), fill)


def walked(walk: Walk, decisions: list[float]) -> list[Prefix]:
    prefixes = [walk.start()]
    for share in decisions:
        prefixes.append(walk.decide(prefixes[-1], share))
    return prefixes


@pytest.mark.parametrize("step", SPACES)
@pytest.mark.parametrize("fill", [False, True])
@given(shares)
@settings(max_examples=60, deadline=None)
def test_no_walk_leaves_the_budget(step: int, fill: bool, decisions: list[float]) -> None:
    space = SPACES[step]
    walk = Walk(space, tight(space, fill))
    *_, end = walked(walk, decisions)
    assert walk.over(end)
    assert walk.budget.admits(space.cube.settled(end))  # before anything is fitted
    policy = walk.policy(end)
    assert space.contains(policy)
    assert walk.budget.admits(policy)
    assert fill or policy == space.cube.settled(end)


@pytest.mark.parametrize("step", SPACES)
@given(shares, st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_the_wall_is_where_one_step_more_would_exceed(step: int, decisions: list[float], here: int) -> None:
    space = SPACES[step]
    budget = tight(space)
    prefix = walked(Walk(space, budget), decisions)[here]
    places, thin = range(len(space.choices[here].levels)), [0] * (6 - here)
    fits = [place for place in places if budget.admits(space.cube.settled([*prefix, place, *thin]))]
    assert budget.most(prefix) == max(fits)


def test_the_wall_of_a_cost_that_is_only_monotone() -> None:
    class Stairs(Macs):
        """Rises in a few large steps, as a latency does."""

        def predict_many(self, rows):
            return np.ceil(8 * super().predict_many(rows) / super().predict_many(rows * 0 + self.widest))

        widest = np.array([c.dense for c in SPACES[1]])

    space = SPACES[1]
    budget = Budget(space, (Limit("stairs", Stairs(space), 4.0), *tight(space).limits), fill=False)
    rng = np.random.default_rng(0)
    for _ in range(20):
        *_, end = walked(Walk(space, budget), rng.random(7).tolist())
        assert budget.admits(space.cube.settled(end))


def test_without_a_limit_there_is_no_wall_and_overspending_leaves_the_fewest() -> None:
    space = SPACES[8]
    last = [len(choice.levels) - 1 for choice in space]
    assert Budget(space).most(()) == last[0]
    assert tight(space).most(last[:-1]) == 0


def test_what_is_replayed_is_what_was_seen() -> None:
    space = SPACES[8]
    walk = Walk(space, tight(space))
    for seed in range(20):
        prefixes = walked(walk, np.random.default_rng(seed).random(7).tolist())
        episode = walk.replay(walk.policy(prefixes[-1]))
        assert episode.observations.tobytes() == np.stack([walk.observe(p) for p in prefixes]).tobytes()
        executed = [walk.executed(prefixes[-1], i) for i in range(7)]
        assert episode.shares.tolist() == pytest.approx(executed)
        assert walked(Walk(space, Budget(space)), episode.shares.tolist())[-1] == prefixes[-1]


def test_any_policy_can_be_replayed() -> None:
    space = SPACES[1]
    walk = Walk(space, tight(space))
    for policy in (space.dense(), space.thinnest(), Policy((1,) * 7)):
        observations, executed = walk.replay(policy)
        assert observations.shape == (8, 7)
        for facts in (observations, executed):
            assert facts.min() >= 0.0
            assert facts.max() <= 1.0


def test_what_has_one_level_is_passed_over() -> None:
    toy = toy_space(depth=6)
    stuck = [dataclasses.replace(c, levels=(c.dense,)) if i in (0, 2, 3, 5) else c for i, c in enumerate(toy)]
    space = SearchSpace("toy", tuple(stuck), toy.ops, toy.parameters)
    walk = Walk(space, Budget(space))
    assert len(walk) == 2
    prefixes = walked(walk, [1.0, 0.0])
    policy = walk.policy(prefixes[-1])
    assert [s > 0 for s in space.sparsity(policy)] == [False, True, False, False, False, False]
    assert walk.replay(policy).shares.tolist() == [1.0, 0.0]
    assert walk.replay(policy).observations.tolist() == [walk.observe(p).tolist() for p in prefixes]


def test_tied_choices_are_one_decision() -> None:
    toy = toy_space(depth=6, step=8, width=64)
    space = SearchSpace("tied", toy.choices, toy.ops, toy.parameters, ties=((0, 1), (2, 3)))
    walk = Walk(space, tight(space))
    assert len(walk) == 4
    *_, end = walked(walk, [0.7, 0.3, 0.5, 0.9])
    policy = space.cube.settled(end)
    assert walk.budget.admits(policy)
    assert policy.levels[0] == policy.levels[1]
    assert walk.replay(policy).shares.tolist() == pytest.approx([walk.executed(end, axis) for axis in range(4)])
    both = Macs(space).predict(space.dense()) - Macs(space).predict(Policy((0, 0, *space.dense().levels[2:])))
    alone = Walk(toy, Budget(toy)).observe(())[-4]
    assert Walk(space, Budget(space)).observe(())[-4] > alone  # MACs that the decision gives a size to
    assert both > 0


def test_features_of_a_chain_worked_out_by_hand() -> None:
    """Two convolutions of one pixel: 3 -> 4 -> 8 -> 2 channels, 12 + 32 + 16 = 60 MACs."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1, stride=2), nn.Flatten(), nn.Linear(8, 2))
    found = trace(model, torch.randn(2, 3, 1, 1))
    space = SearchSpace("chain", found.choices, found.ops, found.parameters)
    walk = Walk(space, Budget(space))
    static = [[0.0, 0.5, 0.75, 1.0, 1.0, 0.5, 1.0, 44 / 48], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    thinnest = 3 + 1 + 2
    assert walk.observe(()).tolist() == pytest.approx([*static[0], 0.0, (60 - thinnest) / 60, 0.0])
    prefix = walk.decide((), 2 / 3)  # removes 2 of 4: 6 + 16 + 16 MACs are left
    assert space.cube.leaders[0].levels[prefix[0]] == 2
    assert walk.observe(prefix).tolist() == pytest.approx([*static[1], 22 / 60, (38 - 6 - 2 - 2) / 60, 0.5])
    end = walk.decide(prefix, 0.0)
    assert walk.observe(end).tolist() == pytest.approx([*static[1], 22 / 60, 0.0, 0.0])


def test_coupled_layers_are_the_mean_of_those_that_produce() -> None:
    """ResNet-20, option B: the second stage's stream is made by a 1x1 of stride 2 and by three 3x3."""
    found = trace(ResNet(20, option="B").eval(), torch.randn(2, 3, 32, 32))
    stream = next(g for g in found.choices if g.name == "layer2.0.conv2")
    channels, inputs = 32 / 64, (16 + 3 * 32) / 4 / 64
    assert stream.role == pytest.approx((channels, inputs, 20 / 32, 20 / 32, (2 + 3) / 4 / 2, (1 + 3 * 3) / 4 / 3))


def test_a_space_without_roles_shows_the_other_five_features() -> None:
    toy = toy_space()
    bare = SearchSpace("bare", tuple(dataclasses.replace(c, role=()) for c in toy), toy.ops, toy.parameters)
    assert Walk(bare, half(bare)).observe(()).shape == (5,)
    nothing = SearchSpace("nothing", bare.choices)
    assert Walk(nothing, Budget(nothing)).observe(()).tolist() == [0.0] * 5
    ragged = SearchSpace("ragged", (bare.choices[0], *toy.choices[1:]), toy.ops)
    with pytest.raises(PolicyError, match="roles of different lengths"):
        Walk(ragged, Budget(ragged)).observe(())
