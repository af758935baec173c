"""What leaves the house: saved networks come back the same, and a file that is wrong is never called written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, PolicyError
from autoprune.files import export, policy_file
from autoprune.files.policy_file import ChoiceEntry, PolicyFile, fingerprint
from autoprune.models import FACTORIES, build
from autoprune.values.space import Choice, Policy
from tests.making import REBUILD, group, thinner


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return thinner()


@pytest.fixture
def saved(model: nn.Module, tmp_path: Path) -> Path:
    export.save(model, tmp_path / export.WEIGHTS, rebuild=REBUILD, task="fashion_mnist")
    return tmp_path / export.WEIGHTS


def test_every_factory_builds_and_an_unknown_one_is_named() -> None:
    assert all(isinstance(build(name), nn.Module) for name in FACTORIES)
    with pytest.raises(ModelError, match="'mnist:lenet'; there are fashion_mnist:resnet20"):
        build("mnist:lenet")


def test_a_saved_network_comes_back_from_file_and_directory(model: nn.Module, saved: Path, images: Tensor) -> None:
    for path in (saved, saved.parent):
        back = export.load(path)
        assert not back.training
        assert back.layer1[0].conv1.out_channels == 8
        assert torch.equal(back(images), model(images))
    assert {p.name for p in saved.parent.iterdir()} == {export.WEIGHTS}


def test_a_channels_last_network_comes_back_in_its_layout(tmp_path: Path, images: Tensor) -> None:
    model = thinner().to(memory_format=torch.channels_last)
    export.save(model, tmp_path / "m.safetensors", rebuild=REBUILD)
    back = export.load(tmp_path / "m.safetensors")
    assert back.conv1.weight.stride() == model.conv1.weight.stride()
    assert torch.equal(back(images), model(images))
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_another_network_needs_its_dense_one_which_stays(tmp_path: Path) -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))

    small, dense, path = net(5), net(9), tmp_path / "m.safetensors"
    export.save(small, path)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    with pytest.raises(ModelError, match="hand over the dense one"):
        export.load(path)
    back, x = export.load(path, dense), torch.randn(6, 4)
    assert torch.equal(back(x), small(x))
    assert back[1].normalized_shape == (5,)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


class Backbone(nn.Module):
    """Has what layers call their sizes, for other things, as the backbones of transformers do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.num_features = [8, 16]
        self.normalized_shape = ["stage1"]

    @property
    def out_features(self) -> list[str]:
        return ["stage4"]

    @property
    def in_channels(self) -> int:
        return 3

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(1)  # type: ignore[no-any-return]


def test_a_detr_whose_backbone_calls_its_stages_out_features_comes_back(tmp_path: Path) -> None:
    small, path, x = Backbone(5), tmp_path / "m.safetensors", torch.randn(3, 4)
    export.save(small, path)
    back = export.load(path, Backbone(9))
    assert torch.equal(back(x), small(x))
    assert (back.layer.out_features, back.num_features, back.normalized_shape) == (5, [8, 16], ["stage1"])


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model, path = Tied(), tmp_path / "m.safetensors"
    export.save(model, path)
    back = export.load(path, Tied())
    assert back.a.weight is back.b.weight
    assert torch.equal(back(torch.ones(1, 3)), model(torch.ones(1, 3)))


def _rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **about: str | None) -> None:
    """Write other tensors, or other metadata; what is None is left out."""
    with safetensors.safe_open(path, "pt") as file:
        old = file.metadata()
    new = {word: said for word, said in {**old, **about}.items() if said is not None}
    safetensors.torch.save_file(tensors or safetensors.torch.load_file(path), path, new)


def test_a_file_that_does_not_belong_is_refused_by_name(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    with pytest.raises(ModelError, match=r"does not belong .*no layer|does not belong .*lacks|is no part of"):
        export.load(saved, nn.Sequential(nn.Linear(2, 2)))
    _rewrite(saved, {**tensors, "linear.weight": torch.zeros(10, 65)})
    with pytest.raises(ModelError, match=r"'linear.weight' has shape \(10, 65\), which is no part of \(10, 64\)"):
        export.load(saved)
    _rewrite(saved, {**tensors, "linear.weight": torch.zeros(10, 63)})
    with pytest.raises(ModelError, match=r"'linear' is \(10, 64\) by its sizes, but its weight is \(10, 63\)"):
        export.load(saved)
    _rewrite(saved, {name: t for name, t in tensors.items() if name != "linear.bias"})
    with pytest.raises(ModelError, match=r"lacks 'linear\.bias'"):
        export.load(saved)


def test_damaged_files_are_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    for word, content in (("sizes", "{"), ("skipped", "null"), ("skipped", '{"a": 3}'), ("rebuild", None)):
        damaged = Path(shutil.copy(saved, tmp_path / "damaged.safetensors"))
        _rewrite(damaged, **{word: content})
        with pytest.raises(ModelError, match="damaged metadata"):
            export.load(damaged)
    _rewrite(saved, sizes='{"conv1": {"class": "Conv2d", "groups": true}}')
    with pytest.raises(ModelError, match="it says groups = True of the layer 'conv1', the dense network's is 1"):
        export.load(saved)
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="was not written by this autoprune"):
        export.load(tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ModelError, match="is no safetensors file"):
        export.load(tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match="does not exist"):
        export.load(tmp_path / "absent")


def test_a_saved_file_of_another_network_is_removed(saved: Path, images: Tensor) -> None:
    assert export.check_saved(thinner(0), saved, images).difference < 1e-5
    with pytest.raises(ModelError, match="does not compute what the pruned network does"):
        export.check_saved(thinner(1), saved, images)
    assert not saved.exists()


def _policy_file(model: nn.Module) -> PolicyFile:
    return PolicyFile(
        schema_version=3,
        task={"use": "fashion_mnist", "model": "resnet20"},
        model=fingerprint(model, REBUILD),
        space="demo",
        choices=(
            ChoiceEntry(name="b", layers=("b", "c"), kept=24, of=64, sparsity=0.625),
            ChoiceEntry(name="a", layers=("a",), kept=16, of=16, sparsity=0.0),
        ),
        criterion={"use": "l1"},
        evaluator={"use": "recalibrate"},
        budget={"macs": policy_file.LimitEntry(asked="50%", most=1.5e7)},
        costs={"macs": policy_file.CostEntry(unit="MAC", dense=3e7, predicted=1.4e7, counted=1.4e7)},
        seed=3,
        versions={"autoprune": "0.1.0"},
    )


CHOICES = (group("a", 16), group("b", 64))


def test_a_policy_file_comes_back_in_the_order_of_the_space(model: nn.Module, tmp_path: Path) -> None:
    written = _policy_file(model)
    policy_file.write(tmp_path / policy_file.NAME, written)
    assert policy_file.read(tmp_path) == policy_file.read(tmp_path / policy_file.NAME) == written
    assert written.policy(CHOICES) == Policy((16, 24))
    assert json.loads((tmp_path / policy_file.NAME).read_text())["schema_version"] == 3


def test_a_policy_may_call_heads_channels_as_policies_did(model: nn.Module) -> None:
    heads = Choice("b", tuple(range(1, 65)), "head")
    assert _policy_file(model).policy((group("a", 16), heads)) == Policy((16, 24))


def test_a_policy_file_of_version_1_is_read_for_ever(model: nn.Module, tmp_path: Path) -> None:
    """Its choices were called groups and had no kind."""
    written = _policy_file(model)
    plain = json.loads(written.model_dump_json())
    groups = [{key: one[key] for key in ("name", "layers", "kept", "of", "sparsity")} for one in plain.pop("choices")]
    (tmp_path / policy_file.NAME).write_text(json.dumps({**plain, "schema_version": 1, "groups": groups}))
    assert policy_file.read(tmp_path) == written


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (CHOICES[:1], "has the choice 'b'"),
        ((*CHOICES, group("z", 4)), "has no choice 'z'"),
        (
            (group("a", 16), group("b", 32)),
            "'b' has 64 channel units in the policy and 32 channel units in the network",
        ),
        ((group("a", 16), Choice("b", (1, 64), "block")), "64 channel units in the policy and 64 block units"),
    ],
)
def test_a_policy_for_other_choices_names_what_differs(
    model: nn.Module, choices: tuple[Choice, ...], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        _policy_file(model).policy(choices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 4}, "schema_version"),
        ({"schema_version": 1}, "schema_version"),
        ({"seed": "x"}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"choices": [{"name": "a", "layers": [], "kept": 5, "of": 4, "sparsity": 0}]}, "keeps 5 of 4"),
        (
            {"choices": [{"name": "a", "layers": [], "kept": 0, "of": 4, "sparsity": 1}]},
            "keeps 0 of 4; 1 to 4 can stay",
        ),
        (
            {"choices": [{"name": "a", "layers": [], "kept": 2, "of": 4, "sparsity": 0.2}]},
            "a sparsity of 0.5000, not 0.2",
        ),
    ],
)
def test_a_wrong_policy_file_says_where(
    model: nn.Module, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**json.loads(_policy_file(model).model_dump_json()), **change}))
    with pytest.raises(PolicyError, match=message) as caught:
        policy_file.read(path)
    assert "\n" not in str(caught.value)


def test_an_unreadable_policy_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        policy_file.read(tmp_path / "absent.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(PolicyError, match="is no policy file"):
        policy_file.read(tmp_path / "p.json")


def test_fingerprints_tell_architecture_from_weights() -> None:
    one, same, other = thinner(0), thinner(0), thinner(1)
    file = _policy_file(one)
    policy_file.require_same(file, same, weights=True)
    policy_file.require_same(file, other, weights=False)
    with pytest.raises(PolicyError, match="other weights of this network"):
        policy_file.require_same(file, other, weights=True)
    with pytest.raises(PolicyError, match="for another network"):
        policy_file.require_same(file, build(REBUILD), weights=False)
