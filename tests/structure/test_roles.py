"""Roles of the choices of real architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import inputs
from autoprune.controllers.rules import shaped
from autoprune.models.resnet import ResNet
from autoprune.structure.prune import keep_first, prune
from autoprune.structure.roles import roles
from autoprune.structure.trace import trace
from autoprune.testing.surrogate import half
from autoprune.values.roles import Placed, Role, carried
from autoprune.values.space import SearchSpace
from tests.making import small_bert


def found(model: nn.Module, example: object) -> dict[str, Role]:
    traced = trace(model, example)  # type: ignore[arg-type]
    return {c.name: role for c, role in zip(traced.choices, roles(traced, model), strict=True)}


def placed(of: dict[str, Role], step: float = 0.0) -> list[Placed]:
    return [Placed(name, "channel", role, step * at) for at, (name, role) in enumerate(of.items())]


def test_a_resnet_says_stages_rows_strides_and_its_stream() -> None:
    of = found(ResNet(20), torch.zeros(1, 3, 32, 32))
    assert of["conv1"].shared
    assert not of["layer1.0.conv1"].shared
    assert [of[f"layer{n}.1.conv1"].stage for n in (1, 2, 3)] == [0, 1, 2]
    assert [of[f"layer1.{n}.conv1"].position for n in range(3)] == [0.0, 0.5, 1.0]
    assert [of[f"layer2.{n}.conv1"].stride for n in range(3)] == [2, 1, 1]
    assert of["layer3.2.conv1"] == Role("conv", False, 2, 1.0, 1.0, 1.0, 64, 3, 1)


def test_a_deeper_resnet_of_another_data_set_takes_all_of_a_shallow_one() -> None:
    shallow = placed(found(ResNet(20, channels=1), torch.zeros(1, 1, 28, 28)), 0.05)
    deep = placed(found(ResNet(56), torch.zeros(1, 3, 32, 32)))
    by_name = {one.name: one for one in carried(shallow, deep)}
    assert not [one for one in by_name.values() if one.why]
    for name in ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"):
        assert by_name[name].sources == (name,)
    assert by_name["layer3.8.conv1"].sources == ("layer3.2.conv1",)
    assert by_name["layer1.2.conv1"].sources == ("layer1.0.conv1", "layer1.1.conv1")


def test_an_encoder_of_more_layers_keeps_attention_and_hidden_units_apart() -> None:
    short, long = (found(*small_bert(num_hidden_layers=layers)) for layers in (2, 4))
    for one in carried(placed(short), placed(long)):
        assert not one.why
        ends = {source.rpartition(".layer.")[2].partition(".")[2] for source in one.sources}
        assert ends == {one.name.rpartition(".layer.")[2].partition(".")[2]}


def test_depthwise_and_linear_layers_are_kinds_of_their_own() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip
    of = found(model, torch.zeros(1, 3, 8, 8))
    assert [role.layer for role in of.values()] == ["conv", "conv", "linear"]
    assert [role.stage for role in of.values()] == [0, 0, 1]
    assert [role.kernel for role in of.values()][2] == 1


def vgg(convolutions: tuple[int, ...]) -> nn.Module:
    """A VGG of an eighth of the width, with as many convolutions in each stage. Simonyan and Zisserman 2015."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, count in zip((8, 16, 32, 64, 64), convolutions, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))


def encoder(layers: int) -> tuple[nn.Module, object]:
    return small_bert(num_hidden_layers=layers)


IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        pytest.param(lambda: (vgg((2, 2, 3, 3, 3)), IMAGE), lambda: (vgg((2, 2, 4, 4, 4)), IMAGE), id="vgg 16 to 19"),
        pytest.param(lambda: encoder(2), lambda: encoder(4), id="encoder 2 to 4"),
        pytest.param(lambda: encoder(6), lambda: encoder(12), id="encoder 6 to 12", marks=pytest.mark.slow),
        pytest.param(lambda: (ResNet(20), IMAGE), lambda: (ResNet(110), IMAGE), id="20 to 110", marks=pytest.mark.slow),
        pytest.param(lambda: (ResNet(56), IMAGE), lambda: (ResNet(110), IMAGE), id="56 to 110", marks=pytest.mark.slow),
    ],
)
def test_a_deeper_network_with_random_weights_is_pruned_and_runs(
    short: Callable[[], tuple[nn.Module, Any]], long: Callable[[], tuple[nn.Module, Any]]
) -> None:
    source = placed(found(*short()), 0.01)
    model, example = long()
    traced = trace(model, example)
    wanted = placed({c.name: role for c, role in zip(traced.choices, roles(traced, model), strict=True)})
    got = carried(source, wanted)
    assert not [one for one in got if one.why]
    space = SearchSpace("long", traced.choices, traced.ops, traced.parameters)
    policy = shaped(space, half(space, 0.6), np.array([0.2 + one.sparsity for one in got]))
    assert half(space, 0.6).admits(policy)
    thin = prune(model, traced, keep_first([np.arange(c.dense) for c in traced.choices], policy.levels))
    inputs.call(thin.eval(), example)
