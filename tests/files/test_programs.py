"""Programs that need no autoprune: any inputs and outputs, by name, and nothing that computes something else."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.files import programs
from autoprune.inputs import call, first, in_use, tensors
from tests.making import Recommender, Siamese, small_bert, thinner


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return thinner()


def test_programs_stand_alone_with_any_batch(
    model: nn.Module, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program, onnx = tmp_path / programs.PROGRAM, tmp_path / programs.ONNX
    written = [programs.export_program(model, program, images), programs.export_onnx(model, onnx, images)]
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    assert {p.name for p in tmp_path.iterdir()} == {programs.PROGRAM, programs.ONNX}
    assert [w.bytes for w in written] == [program.stat().st_size, onnx.stat().st_size]
    assert all(w.difference < 1e-4 and w.images == 32 for w in written)
    wanted = model(images[:7]).detach()
    assert torch.allclose(torch.export.load(program).module()(images[:7]), wanted, atol=1e-3)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"input": images[:7].numpy()})[0], wanted.numpy(), atol=1e-3)


class Branching(nn.Module):
    """What no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


@pytest.mark.parametrize("write", [programs.export_program, programs.export_onnx])
def test_what_cannot_be_exported_leaves_no_file(write: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"out\.bin cannot be written for this network"):
        write(Branching(), tmp_path / "out.bin", torch.ones(4, 3))  # type: ignore[operator]
    assert not list(tmp_path.iterdir())


def test_a_program_that_computes_something_else_gets_no_name(
    model: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_session", lambda *_: lambda x: model(x) * 1.01)
    with pytest.raises(ModelError, match=r"model\.onnx does not compute what the pruned network does"):
        programs.export_onnx(model, tmp_path / programs.ONNX, images)
    assert not list(tmp_path.iterdir())


class Opened:
    """An ONNX file as its user sees it."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value.shape for value in self.session.get_inputs()}
        self.outputs = {value.name: value.shape for value in self.session.get_outputs()}

    def __call__(self, **given: Tensor) -> dict[str, Tensor]:
        found = self.session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}


def written(model: nn.Module, folder: Path, inputs: Any) -> Opened:
    """Both programs, the first run on one sample, and the second opened."""
    programs.export_program(model, folder / programs.PROGRAM, inputs)
    program = torch.export.load(folder / programs.PROGRAM).module()
    one = first(in_use(model, inputs), 1)
    for wanted, found in zip(tensors(call(model, one)), tensors(call(program, one)), strict=True):
        assert torch.allclose(wanted, found, atol=1e-4)
    programs.export_onnx(model, folder / programs.ONNX, inputs)
    return Opened(folder / programs.ONNX)


def test_a_siamese_networks_mapping_names_the_inputs_and_outputs(tmp_path: Path) -> None:
    model = Siamese().eval()
    sides = {"right": torch.randn(5, 1, 8, 8), "left": torch.randn(5, 1, 8, 8)}
    found = written(model, tmp_path, sides)
    assert found.inputs == {"right": ["batch", 1, 8, 8], "left": ["batch", 1, 8, 8]}
    assert found.outputs == {"distance": ["batch"], "sides.0": ["batch", 8], "sides.1": ["batch", 8]}
    assert torch.allclose(found(**sides)["distance"], model(**sides)["distance"], atol=1e-4)


def test_a_recommenders_ids_and_floats_have_the_names_of_its_arguments(tmp_path: Path) -> None:
    model, ids, numbers = Recommender().eval(), torch.randint(0, 10, (6, 3)), torch.randn(6, 4)
    found = written(model, tmp_path, (ids, numbers))
    assert (found.inputs, found.outputs) == ({"ids": ["batch", 3], "numbers": ["batch", 4]}, {"output": ["batch"]})
    assert torch.allclose(found(ids=ids, numbers=numbers)["output"], model(ids, numbers), atol=1e-4)


def test_a_hugging_face_batch_with_labels_is_exported_without_them_and_with_any_length(tmp_path: Path) -> None:
    model, batch = small_bert()
    found = written(model, tmp_path, {**batch, "labels": torch.zeros(len(batch["input_ids"]), dtype=torch.long)})
    assert found.inputs == {"input_ids": ["batch", "length"], "attention_mask": ["batch", "length"]}
    assert found.outputs == {"logits": ["batch", 3]}
    ids = torch.randint(0, 40, (3, 17))
    wanted = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(found(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"], wanted, atol=1e-4)


class Point(NamedTuple):
    """Outputs with names."""

    mean: Tensor
    most: Tensor


@dataclasses.dataclass
class Answer:
    """Outputs of a user's own type, with a field that is empty."""

    point: Point
    parts: list[Tensor]
    mask: Tensor
    x: Tensor
    nothing: Tensor | None = None
    cache: object = None


class Odd(nn.Module):
    """Takes nests with what is no tensor, and gives a nest with an input, one tensor twice, infinity and an object."""

    def forward(self, pair: tuple[Tensor, dict[str, Tensor]], *more: Any) -> Answer:
        x, (number, nothing) = pair[0] + pair[1]["y"], more
        assert nothing is None
        hidden = torch.where(x > 0, x, -torch.inf)
        return Answer(Point(x.mean(1) * number, x.amax(1)), [x * 2, x * 2], x > 0, hidden, cache=object())


def test_nests_of_any_kind_are_exported(tmp_path: Path) -> None:
    inputs = ((torch.randn(4, 3), {"y": torch.randn(4, 3)}), 3, None)
    found = written(Odd(), tmp_path, inputs)
    assert set(found.inputs) == {"pair.0", "pair.1.y"}
    assert list(found.outputs) == ["point.mean", "point.most", "parts.0", "parts.1", "mask", "x"]
    (x, more), *_ = inputs
    assert torch.equal(found(**{"pair.0": x, "pair.1.y": more["y"]})["mask"], x + more["y"] > 0)


class Echo(nn.Module):
    """Gives back what it takes, under the same name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x, "twice": x * 2}


def test_an_output_with_the_name_of_an_input_is_told_apart(tmp_path: Path) -> None:
    assert list(written(Echo(), tmp_path, {"x": torch.randn(4, 3)}).outputs) == ["output_x", "twice"]


class Tabular(nn.Module):
    """Takes just three ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, 4), nn.Linear(12, 2)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.last(self.table(ids).flatten(1))
        return found, found.argmax(1)


def test_a_length_that_the_network_needs_is_kept_and_places_name_outputs(tmp_path: Path) -> None:
    found = written(Tabular(), tmp_path, torch.randint(0, 9, (4, 3)))
    assert found.inputs == {"input": ["batch", 3]}
    assert found.outputs == {"output_0": ["batch", 2], "output_1": ["batch"]}


def test_one_sample_is_enough_to_export_from(tmp_path: Path) -> None:
    assert written(Echo(), tmp_path, {"x": torch.randn(1, 3)}).inputs == {"x": ["batch", 3]}
