"""On real architectures: what is predicted is what a pruned network has, to the last MAC and parameter."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory, Size
from autoprune.evaluators.pruningnet import Generator, widths_about
from autoprune.evaluators.shared.subnets import Subnets
from autoprune.structure.accounts import unaccounted
from autoprune.structure.prune import prune
from tests.zoo import NETWORKS, Case

POLICIES = 200


GROUPS = {  # of networks of `tests.zoo`, how many groups each has
    "autoprune/resnet20-A": 10,
    "autoprune/resnet20-B": 12,
    "torchvision/resnet50": 37,
    "torchvision/vgg16_bn": 15,
    "torchvision/mobilenet_v2": 25,
    "torchvision/densenet121": 120,
    "torchvision/efficientnet_b0": 40,
    "torchvision/resnext50_32x4d": 21,
    "torchvision/shufflenet_v2_x1_0": 19,
    "torchvision/vit_b_16": 25,
}
LONG = ("torchvision/mobilenet_v2", "torchvision/shufflenet_v2_x1_0")  # whose policies take half a minute each
LIGHT = [name for name in GROUPS if NETWORKS[name].light and name not in LONG]  # the others take minutes: -m slow
NAMES = [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in GROUPS]


@cache
def case(name: str) -> Case:
    return Case(NETWORKS[name])


@pytest.mark.parametrize("name", NAMES)
class TestZoo:
    def test_finds_the_groups(self, name: str) -> None:
        assert len(case(name).trace.choices) == GROUPS[name]
        assert all(f.reason and f.name for f in case(name).trace.frozen)
        hidden = name == "torchvision/vit_b_16"  # a LayerNorm mixes the channels of its residual stream
        assert Counter(case(name).trace.proofs)["shapes"] == hidden

    def test_accounts_for_every_layer_and_operator(self, name: str) -> None:
        one = case(name)
        assert not unaccounted(one.model, one.trace.choices, one.trace.frozen)
        assert not one.trace.unpriced

    def test_prices_every_policy_exactly(self, name: str) -> None:
        one = case(name)
        macs, params = Macs(one.space), Params(one.space)
        hollow, inputs = copy.deepcopy(one.model).to("meta"), one.example.to("meta")  # shapes without numbers
        for seed in range(POLICIES):
            policy = one.policy(seed)
            pruned = prune(hollow, one.trace, one.units(policy, seed))
            assert macs.predict(policy) == macs.measure(pruned, inputs)
            assert params.predict(policy) == params.measure(pruned, inputs)

    def test_knows_the_memory_of_every_policy_exactly(self, name: str) -> None:
        one = case(name)
        memory, size = Memory(one.space, one.trace), Size(one.space, one.trace)
        for seed in range(3):
            policy = one.policy(seed)
            pruned = prune(one.model, one.trace, one.units(policy, seed))
            assert memory.predict(policy) == memory.measure(pruned, one.example)
            assert size.predict(policy) == size.measure(pruned, one.example)

    def test_pruned_networks_run(self, name: str) -> None:
        one = case(name)
        pruned = prune(one.model, one.trace, one.units(one.policy(7), 7))
        with torch.no_grad():
            out = pruned(one.example)
        assert out.isfinite().all()
        assert out.shape == one.model(one.example).shape


@pytest.mark.parametrize("name", NAMES)
def test_a_pruningnet_generates_its_kernels(name: str) -> None:
    """Every kernel that is pruned, with the widths that the trace says are shared; its gradients reach both layers."""
    one = case(name)
    net = copy.deepcopy(one.model).requires_grad_(True)
    seen = widths_about(net, one.trace, one.space)
    generator = Generator(net, [np.arange(g.dense) for g in one.space], seen, hidden=2)
    subnets = Subnets(generator, one.trace, one.space)
    for seed in range(2):
        policy = one.policy(seed)
        model = subnets.network(policy).model
        assert Params(one.space).measure(model, one.example) == Params(one.space).predict(policy)
        outputs = subnets.outputs(policy.levels, one.example)
        assert outputs.shape == one.model(one.example).shape
        outputs.square().sum().backward()
    learnt = [p for n, p in generator.named_parameters() if n.startswith("_second")]
    assert len(learnt) == len(seen)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)


@pytest.mark.parametrize("name", LIGHT)
def test_agrees_with_fvcore(name: str) -> None:
    one = case(name)
    for seed in range(3):
        policy = one.policy(seed)
        pruned = prune(one.model, one.trace, one.units(policy, seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counted = FlopCountAnalysis(pruned, one.example[:1]).unsupported_ops_warnings(False).by_operator()
        assert Macs(one.space).predict(policy) == counted["conv"] + counted["linear"]


def test_ten_thousand_policies_are_priced_at_once() -> None:
    one = case("autoprune/resnet20-A")
    rng = np.random.default_rng(0)
    kept = np.stack([rng.integers(1, g.dense + 1, 10_000) for g in one.space], axis=1)
    prices = Macs(one.space).predict_many(kept)
    assert prices.shape == (10_000,)
    for row in (0, 17, 9_999):
        assert prices[row] == sum(op.count(kept[row].tolist()) for op in one.space.ops)
