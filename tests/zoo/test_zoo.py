"""On about 150 networks: each is traced, priced to the last MAC, runs at another size, and leaves no layer out."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn

from autoprune import inputs
from autoprune.costs.arithmetic import Macs, Params
from autoprune.errors import ModelError
from autoprune.structure.accounts import unaccounted
from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from tests.zoo import NETWORKS, Case

POLICIES = 3
NOTHING = "timm/nf_resnet26"  # its weights are normalised over the channels that they read: nothing can be pruned
NAMES = [
    name if one.light else pytest.param(name, marks=pytest.mark.slow)
    for name, one in NETWORKS.items()
    if name != NOTHING
]


@cache
def case(name: str) -> Case:
    if not NETWORKS[name].is_here:
        pytest.skip(f"{NETWORKS[name].needs} is not installed")
    return Case(NETWORKS[name])


def test_there_are_at_least_ninety() -> None:
    assert len(NETWORKS) >= 90


@pytest.mark.parametrize("name", NAMES)
class TestEveryNetwork:
    def test_every_layer_with_parameters_is_in_a_choice_or_frozen_with_a_reason(self, name: str) -> None:
        one = case(name)
        assert not unaccounted(one.model, one.space, one.trace.frozen)
        assert all(frozen.reason for frozen in one.trace.frozen)
        counted = sum(op.count([c.dense for c in one.space]) for op in one.trace.parameters)
        assert counted == sum(p.numel() for p in one.model.parameters())

    def test_costs_of_random_policies_are_those_of_the_pruned_network(self, name: str) -> None:
        one = case(name)
        costs: list[Macs | Params] = [Params(one.space)]
        if one.trace.unpriced:
            with pytest.raises(ModelError, match="are not known"):
                Macs(one.space)
        else:
            costs.append(Macs(one.space))
        for seed in range(POLICIES):
            policy = one.policy(seed)
            pruned = prune(one.model, one.trace, one.units(policy, seed))
            assert [cost.predict(policy) for cost in costs] == [cost.measure(pruned, one.example) for cost in costs]

    def test_a_pruned_network_runs_in_another_number_and_size(self, name: str) -> None:
        one = case(name)
        pruned = prune(one.model, one.trace, one.units(one.policy(1), 1))
        other = one.network.other()
        with torch.no_grad():
            dense, found = (inputs.tensors(inputs.call(net, other)) for net in (one.model, pruned))
        assert [tensor.shape for tensor in found] == [tensor.shape for tensor in dense]
        assert all(bool(tensor.isfinite().all()) for tensor in found if tensor.is_floating_point())

    def test_the_dense_network_stays_as_it_was(self, name: str) -> None:
        one = case(name)
        before = copy.deepcopy(one.model.state_dict())
        prune(one.model, one.trace, one.units(one.policy(2), 2))
        assert all(torch.equal(tensor, before[key]) for key, tensor in one.model.state_dict().items())


@pytest.mark.slow
def test_where_nothing_can_be_pruned_that_is_said_with_the_reasons() -> None:
    with pytest.raises(ModelError, match=r"nothing in this network can be pruned: .*stem\.conv: "):
        case(NOTHING).trace  # noqa: B018


def test_the_walk_would_see_a_layer_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    found = trace(model, torch.randn(2, 4))
    assert unaccounted(model, found.choices, ()) == []
    assert unaccounted(model, (), found.frozen) == ["0"]
