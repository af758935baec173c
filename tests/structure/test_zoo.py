"""On real architectures: what is predicted is what a pruned network has, to the last MAC and parameter."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory, Size
from autoprune.evaluators.pruningnet import Generator, widths_about
from autoprune.evaluators.shared.subnets import Subnets
from autoprune.structure.accounts import unaccounted
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.zoo import ZOO, example

POLICIES = 200


@dataclass(frozen=True)
class Case:
    model: nn.Module
    inputs: Tensor
    trace: Trace
    space: SearchSpace

    def random_kept(self, seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        if seed == 0:
            return [g.levels[0] for g in self.space]
        return [int(rng.choice(g.levels)) for g in self.space]

    def random_units(self, kept: list[int], seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng((seed, 1))
        return [np.sort(rng.permutation(g.dense)[:k]) for g, k in zip(self.space, kept, strict=True)]


@cache
def case(name: str) -> Case:
    make, side, _ = ZOO[name]
    model, inputs = make(), example(side)
    found = trace(model, inputs)
    return Case(model, inputs, found, SearchSpace(name, found.choices, found.ops, found.parameters))


LIGHT = {"resnet20-A", "resnet20-B", "mobilenet_v2", "shufflenet_v2_x1_0"}  # the others take minutes: -m slow
NAMES = [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]


@pytest.mark.parametrize("name", NAMES)
class TestZoo:
    def test_finds_the_groups(self, name: str) -> None:
        assert len(case(name).trace.choices) == ZOO[name][2]
        assert all(f.reason and f.name for f in case(name).trace.frozen)
        assert set(case(name).trace.proofs) == {"exact"}

    def test_accounts_for_every_layer_and_operator(self, name: str) -> None:
        one = case(name)
        assert not unaccounted(one.model, one.trace.choices, one.trace.frozen)
        assert not one.trace.unpriced

    def test_prices_every_policy_exactly(self, name: str) -> None:
        one = case(name)
        macs, params = Macs(one.space), Params(one.space)
        hollow, inputs = copy.deepcopy(one.model).to("meta"), one.inputs.to("meta")  # shapes without numbers
        for seed in range(POLICIES):
            kept = one.random_kept(seed)
            pruned = prune(hollow, one.trace, one.random_units(kept, seed))
            policy = Policy.of(kept)
            assert macs.predict(policy) == macs.measure(pruned, inputs)
            assert params.predict(policy) == params.measure(pruned, inputs)

    def test_knows_the_memory_of_every_policy_exactly(self, name: str) -> None:
        one = case(name)
        memory, size = Memory(one.space, one.trace), Size(one.space, one.trace)
        for seed in range(3):
            kept = one.random_kept(seed)
            pruned = prune(one.model, one.trace, one.random_units(kept, seed))
            policy = Policy.of(kept)
            assert memory.predict(policy) == memory.measure(pruned, one.inputs)
            assert size.predict(policy) == size.measure(pruned, one.inputs)

    def test_pruned_networks_run(self, name: str) -> None:
        one = case(name)
        kept = one.random_kept(7)
        pruned = prune(one.model, one.trace, one.random_units(kept, 7))
        with torch.no_grad():
            out = pruned(one.inputs)
        assert out.isfinite().all()
        assert out.shape == one.model(one.inputs).shape


@pytest.mark.parametrize("name", NAMES)
def test_a_pruningnet_generates_its_kernels(name: str) -> None:
    """Every kernel that is pruned, with the widths that the trace says are shared; its gradients reach both layers."""
    one = case(name)
    net = copy.deepcopy(one.model).requires_grad_(True)
    seen = widths_about(net, one.trace, one.space)
    generator = Generator(net, [np.arange(g.dense) for g in one.space], seen, hidden=2)
    subnets = Subnets(generator, one.trace, one.space)
    for seed in range(2):
        kept = one.random_kept(seed)
        model = subnets.network(Policy.of(kept)).model
        assert Params(one.space).measure(model, one.inputs) == Params(one.space).predict(Policy.of(kept))
        outputs = subnets.outputs(kept, one.inputs)
        assert outputs.shape == one.model(one.inputs).shape
        outputs.square().sum().backward()
    learnt = [p for n, p in generator.named_parameters() if n.startswith("_second")]
    assert len(learnt) == len(seen)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_agrees_with_fvcore(name: str) -> None:
    one = case(name)
    for seed in range(3):
        kept = one.random_kept(seed)
        pruned = prune(one.model, one.trace, one.random_units(kept, seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counted = FlopCountAnalysis(pruned, one.inputs[:1]).unsupported_ops_warnings(False).by_operator()
        assert Macs(one.space).predict(Policy.of(kept)) == counted["conv"] + counted["linear"]


def test_ten_thousand_policies_are_priced_at_once() -> None:
    one = case("resnet20-A")
    rng = np.random.default_rng(0)
    kept = np.stack([rng.integers(1, g.dense + 1, 10_000) for g in one.space], axis=1)
    prices = Macs(one.space).predict_many(kept)
    assert prices.shape == (10_000,)
    for row in (0, 17, 9_999):
        assert prices[row] == sum(op.count(kept[row].tolist()) for op in one.space.ops)
