"""Roles of the choices of real architectures."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.models.resnet import ResNet
from autoprune.structure.roles import roles
from autoprune.structure.trace import trace
from autoprune.values.roles import Placed, Role, carried
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
