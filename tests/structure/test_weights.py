"""Layers whose weights are computed: by weight_norm, spectral_norm, a pruning mask, or fake quantisation."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune as torch_prune

from autoprune.copies import copied
from autoprune.costs.arithmetic import Macs, Params
from autoprune.structure.accounts import unaccounted
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_trace import IMAGE, named

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the old style is deprecated, and what old networks have
    import torch.ao.nn.qat as qat
    import torch.ao.quantization as quantization

Change = Callable[[nn.Conv2d], nn.Module]


def _old_weight_norm(layer: nn.Conv2d) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def _masked(layer: nn.Conv2d) -> nn.Module:
    masked: nn.Module = torch_prune.l1_unstructured(layer, "weight", 0.3)
    return masked


def _rounded(layer: nn.Conv2d) -> nn.Module:
    """Quantisation-aware, with scales for each channel that have seen the weight once and stay."""
    config = quantization.QConfig(
        activation=quantization.default_fake_quant, weight=quantization.default_per_channel_weight_fake_quant
    )
    made = qat.Conv2d(layer.in_channels, layer.out_channels, 3, qconfig=config)
    made(torch.randn(1, layer.in_channels, 8, 8))
    made.apply(quantization.disable_observer)
    return made


PRUNABLE: dict[str, Change] = {
    "weight_norm of old": _old_weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "a pruning mask": _masked,
    "fake quantisation": _rounded,
}
FROZEN: dict[str, Change] = {
    "spectral_norm of old": nn.utils.spectral_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


def network(first: Change, second: Change) -> nn.Module:
    torch.manual_seed(0)
    layers = first(nn.Conv2d(3, 6, 3)), nn.ReLU(), second(nn.Conv2d(6, 5, 3)), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(80, 3)).eval()


def plain(layer: nn.Conv2d) -> nn.Module:
    return layer


def agrees(model: nn.Module, found: Trace) -> None:
    """What a thinner network is predicted to cost is what it costs, and it runs and is copied."""
    space = SearchSpace("net", found.choices, found.ops, found.parameters)
    policy = Policy(tuple(max(1, choice.dense // 2) for choice in found.choices))
    pruned = prune(model, found, [np.arange(kept) for kept in policy.levels])
    assert pruned(IMAGE).shape == model(IMAGE).shape
    for cost in (Macs(space), Params(space)):
        assert cost.measure(pruned, IMAGE) == cost.predict(policy)
    assert pruned(IMAGE).equal(copied(pruned)(IMAGE))


@pytest.mark.parametrize("how", PRUNABLE)
@pytest.mark.parametrize("second", [True, False], ids=["everywhere", "on the first layer only"])
def test_a_layer_whose_weight_is_computed_does_not_vanish(how: str, second: bool) -> None:
    """It was in no list, was called `0.parametrizations.weight`, or ended in a KeyError on a mask."""
    model = network(PRUNABLE[how], PRUNABLE[how] if second else plain)
    found = trace(model, IMAGE)
    assert named(found) == {"0": 6, "2": 5}
    assert [choice.layers[:2] for choice in found.choices] == [("0", "2"), ("2", "5")]
    assert set(found.proofs) == {"exact"}
    assert not unaccounted(model, found.choices, found.frozen)
    agrees(model, found)


@pytest.mark.parametrize("how", FROZEN)
def test_a_layer_under_spectral_norm_is_frozen_by_name(how: str) -> None:
    """Its norm is one of the whole weight: every channel scales all others."""
    model = network(FROZEN[how], plain)
    found = trace(model, IMAGE)
    assert named(found) == {"2": 5}
    reason = next(entry.reason for entry in found.frozen if entry.name == "0")
    assert reason == "is part of a norm of the whole weight in the Conv2d `0`"
    assert not unaccounted(model, found.choices, found.frozen)
    agrees(model, found)


@pytest.mark.parametrize("how", FROZEN)
def test_a_layer_under_spectral_norm_reads_what_is_pruned(how: str) -> None:
    model = network(plain, FROZEN[how])
    found = trace(model, IMAGE)
    assert named(found) == {"0": 6}
    agrees(model, found)


def test_a_network_that_keeps_its_computed_weights_is_copied() -> None:
    """Right after weight_norm of old, or a step of training, the weight is a tensor that torch refuses to copy."""
    model = network(_old_weight_norm, plain)
    model(IMAGE).sum().backward()
    assert not model[0].weight.is_leaf
    assert named(trace(model, IMAGE)) == {"0": 6, "2": 5}
    assert not model[0].weight.is_leaf, "the network stays as it was"


def test_pruned_layers_say_their_new_sizes() -> None:
    for how in (_old_weight_norm, parametrizations.weight_norm, _masked):
        model = network(how, how)
        pruned = prune(model, trace(model, IMAGE), [np.arange(3), np.arange(2)])
        assert (pruned[0].out_channels, pruned[2].in_channels, pruned[2].out_channels) == (3, 3, 2)
        assert tuple(pruned[2].weight.shape) == (2, 3, 3, 3)
