"""The portable policy file: its schema, its roles, and the same in the words of Torch-Pruning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import PolicyError
from autoprune.files import policy_file
from autoprune.files.policy_file import ModelEntry, PolicyFile
from autoprune.files.ratios import pruning_ratios
from autoprune.models.resnet import ResNet
from autoprune.structure.prune import keep_first, prune
from autoprune.structure.roles import roles
from autoprune.structure.trace import Trace, trace
from autoprune.values.roles import carried
from autoprune.values.space import Policy, SearchSpace
from tests import ASSETS
from tests.making import small_bert

ROOT = ASSETS.parents[1]


def file_of(model: nn.Module, traced: Trace, policy: Policy) -> PolicyFile:
    space = SearchSpace("s", traced.choices)
    return PolicyFile(
        schema_version=3,
        task={"use": "mine"}, model=ModelEntry(architecture="a", weights="w"), space="s",
        choices=policy_file.entries(space, policy, roles(traced, model)),
        criterion={}, evaluator={}, budget={}, costs={}, seed=0, versions={},
    )  # fmt: skip


def drawn(traced: Trace, seed: int) -> Policy:
    dice = torch.Generator().manual_seed(seed)
    return Policy.of(int(torch.randint(1, c.dense + 1, (1,), generator=dice)) for c in traced.choices)


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for width in (7, 19, 23, 49):  # sizes of which shares are rounded
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 30), nn.ReLU(), nn.Linear(30, 10))


def test_the_published_schema_is_that_of_the_model() -> None:
    written = json.loads((ROOT / "docs" / "policy.schema.json").read_text())
    assert written == policy_file.schema()
    assert written["$defs"]["Role"]["properties"]["depth"] == {
        "maximum": 1, "minimum": 0, "title": "Depth", "type": "number",
    }  # fmt: skip


def test_roles_come_back_and_stand_for_the_choices(tmp_path: Path) -> None:
    model = ResNet(20)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    made = file_of(model, traced, drawn(traced, 0))
    policy_file.write(tmp_path / "policy.json", made)
    back = policy_file.read(tmp_path)
    assert back == made
    assert [one.role for one in back.placed()] == list(roles(traced, model))
    assert [one.sparsity for one in back.placed()] == [entry.sparsity for entry in made.choices]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"depth": 2.0}, "choices.0.role.depth: a number from 0 to 1 is right"),
        ({"stage": -1}, "choices.0.role.stage: a whole number from 0 to"),
        ({"surprise": 1}, "choices.0.role.surprise"),
        ({"layer": 3}, "choices.0.role.layer"),
        ({"shared": 0}, "choices.0.role.shared"),
    ],
)
def test_a_role_that_is_none_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    model = ResNet(20)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    plain = file_of(model, traced, drawn(traced, 0)).model_dump(mode="json")
    plain["choices"][0]["role"] |= change
    (tmp_path / "policy.json").write_text(json.dumps(plain))
    with pytest.raises(PolicyError, match=told):
        policy_file.read(tmp_path)


def test_a_file_says_its_version(tmp_path: Path) -> None:
    model = ResNet(20)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    plain = file_of(model, traced, drawn(traced, 0)).model_dump(mode="json")
    del plain["schema_version"]
    (tmp_path / "policy.json").write_text(json.dumps(plain))
    with pytest.raises(PolicyError, match="schema_version"):
        policy_file.read(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_earlier_versions_are_read_and_say_that_they_have_no_roles(version: int, tmp_path: Path) -> None:
    model = ResNet(20)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    made = file_of(model, traced, drawn(traced, 0))
    plain = made.model_dump(mode="json")
    for choice in plain["choices"]:
        del choice["producers"]
        choice["role"] = [0.25, 0.5, 1.0, 1.0, 0.5, 1.0]
    old = {**plain, "schema_version": 2}
    if version == 1:
        groups = [{w: v for w, v in one.items() if w not in ("kind", "role")} for one in old.pop("choices")]
        old |= {"schema_version": 1, "groups": groups}
    (tmp_path / "policy.json").write_text(json.dumps(old))
    read = policy_file.read(tmp_path)
    assert read.policy(traced.choices) == made.policy(traced.choices)
    with pytest.raises(PolicyError, match="does not say where in its network the choice 'conv1' is"):
        read.placed()


def torch_pruned(model: nn.Module, example: Any, ratios: dict[str, float]) -> nn.Module:
    tp = pytest.importorskip("torch_pruning")
    by_module = {model.get_submodule(name): ratio for name, ratio in ratios.items()}
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.0,
        pruning_ratio_dict=by_module,
    )  # fmt: skip
    pruner.step()
    return model


@pytest.mark.parametrize("make", [vgg, lambda: ResNet(20, option="B")], ids=["vgg", "resnet"])
@pytest.mark.parametrize("seed", range(3))
def test_torch_pruning_makes_the_same_widths_of_the_ratios(make: Callable[[], nn.Module], seed: int) -> None:
    model, example = make().eval(), torch.zeros(1, 3, 16, 16)
    traced = trace(model, example)
    policy = drawn(traced, seed)
    ours = prune(model, traced, keep_first([torch.arange(c.dense).numpy() for c in traced.choices], policy.levels))
    theirs = torch_pruned(model, example, pruning_ratios(file_of(model, traced, policy)))
    shapes = [{name: tuple(p.shape) for name, p in one.named_parameters()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_what_torch_pruning_has_no_ratio_for_is_refused() -> None:
    model, example = small_bert()
    traced = trace(model, example)
    with pytest.raises(
        PolicyError,
        match=r"torch-pruning has no ratio for choice '.*embeddings': it keeps 1 of 32 units of embedding layers",
    ):
        pruning_ratios(file_of(model, traced, SearchSpace("s", traced.choices).thinnest()))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 4, 1))
    traced = trace(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(PolicyError, match="torch-pruning has no ratio for choice '0': it keeps 1 of"):
        pruning_ratios(file_of(model, traced, SearchSpace("s", traced.choices).thinnest()))


@pytest.mark.parametrize("name", ["resnet20_fashion_mnist", "resnet20_cifar10", "resnet56_cifar10"])
def test_policies_that_are_kept_are_read_and_say_roles(name: str) -> None:
    kept = policy_file.read(ASSETS / "policies" / f"{name}.json")
    assert kept.budget["macs"].asked == "50%"
    assert kept.costs["macs"].counted <= kept.budget["macs"].most
    assert len(kept.placed()) == len(kept.choices) == (28 if "56" in name else 10)


def test_kept_policies_serve_one_another() -> None:
    kept = {path.stem: policy_file.read(path).placed() for path in (ASSETS / "policies").glob("*.json")}
    for source in kept.values():
        for target in kept.values():
            found = carried(source, target)
            assert not [one for one in found if one.why]
            assert source is not target or [one.sparsity for one in found] == [one.sparsity for one in source]
