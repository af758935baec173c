"""Networks in wrappers, in other precisions and layouts, and programs that are no networks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import autoprune
from autoprune import config
from autoprune.command.check import facts
from autoprune.errors import ModelError
from autoprune.files import export, programs
from autoprune.runs import study
from autoprune.runs.adapted import adapted, changes
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.wrappers import bare, precisions, wrappers


class Net(nn.Module):
    """Three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def inside() -> nn.Module:
    model = net()
    model.b = nn.DataParallel(model.b)  # type: ignore[assignment]
    return model


WRAPPED = {
    "torch.compile": lambda: torch.compile(net()),
    "DataParallel": lambda: nn.DataParallel(net()),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(net()),
    "a layer in DataParallel": inside,
    "twice": lambda: nn.DataParallel(nn.DataParallel(net())),
}
IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def data(dtype: torch.dtype) -> Dataset[tuple[Tensor, ...]]:
    return TensorDataset(IMAGES.to(dtype), torch.arange(32) % 4)


def task(model: nn.Module, dtype: torch.dtype = torch.float32) -> Task:
    splits = (data(dtype), data(dtype), data(dtype))
    return Task(model, IMAGES[:2].to(dtype), *splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", WRAPPED)
class TestWrapped:
    def test_what_is_wrapped_is_found_with_its_own_tensors_and_names(self, how: str) -> None:
        model = WRAPPED[how]()
        found, before = bare(model), [name for name, _ in model.named_modules()]
        assert list(found.state_dict()) == list(net().state_dict())
        assert {id(p) for p in found.parameters()} == {id(p) for p in model.parameters()}
        assert [name for name, _ in model.named_modules()] == before, "the user's network is not changed"
        assert wrappers(model)
        assert not wrappers(found)

    def test_it_traces_like_the_network_inside(self, how: str) -> None:
        assert trace(WRAPPED[how](), IMAGES[:2]).choices == trace(net(), IMAGES[:2]).choices


def test_a_plain_network_is_handed_on_as_it_is() -> None:
    model = net()
    assert bare(model) is model
    given = task(model)
    assert adapted(given, "cpu") is given
    assert changes(model) == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_in_another_precision_is_searched_in_float32(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    found = adapted(task(model, dtype), "cpu")
    assert not precisions(found.model)
    assert {found.example.dtype, *(batch.dtype for batch, _ in found.holdout.batches(8))} == {torch.float32}
    assert found.metric(found.model, found.holdout) >= 0
    assert {p.dtype for p in model.parameters()} == {dtype}, "the user's network is not changed"
    (said,) = changes(model)
    assert str(dtype).removeprefix("torch.") in said


def test_samples_in_float64_fit_a_network_in_float32() -> None:
    found = adapted(task(net(), torch.float64), "cpu")
    assert {batch.dtype for batch, _ in found.train.shuffled(8, torch.Generator())} == {torch.float32}


@pytest.mark.parametrize("how", ["bfloat16", "DataParallel"])
def test_check_says_what_was_done_to_the_network(how: str) -> None:
    given = task(net().bfloat16(), torch.bfloat16) if how == "bfloat16" else task(nn.DataParallel(net()))
    built = study.build(config.parse({"name": "mine", "task": {"use": study.GIVEN}}, "test"), task=given)
    assert how in facts(built)["remarks"][0]


@pytest.mark.parametrize("how", ["bfloat16", "DataParallel"])
def test_a_search_exports_without_prefixes_in_float32(how: str, tmp_path: Path) -> None:
    model = net().bfloat16() if how == "bfloat16" else nn.DataParallel(net())
    given = task(model, torch.bfloat16 if how == "bfloat16" else torch.float32)
    result = autoprune.search(given, {"macs": 0.6}, "random", trials=2, out=tmp_path, finetune={"epochs": 0})
    assert how in result.report.notes[0]
    assert all((result.directory / name).exists() for name in (export.WEIGHTS, programs.PROGRAM, programs.ONNX))
    with safetensors.safe_open(result.directory / export.WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(net().state_dict())
    loaded = autoprune.load(result.directory, model=model)
    assert not precisions(loaded)
    assert loaded(IMAGES).shape == (32, 4)


def test_a_channels_last_network_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    """In the plain layout the same weights gave other outputs: sums run in another order."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 16, 1), nn.Flatten()).eval()
    saved = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    export.save(saved, tmp_path / "m.safetensors")
    loaded = export.load(tmp_path / "m.safetensors", model)
    assert [p.stride() for p in loaded.parameters()] == [p.stride() for p in saved.parameters()]
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), saved(IMAGES))


class TestPrograms:
    def test_a_scripted_network_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"the network is scripted.*hand over the torch\.nn\.Module"):
            trace(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))), torch.randn(2, 4))

    def test_a_scripted_module_is_named(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 2)))
        with pytest.raises(ModelError, match="its module '1' is scripted"):
            trace(model, torch.randn(2, 4))

    @pytest.mark.parametrize("what", ["program", "module"])
    def test_an_exported_network_is_refused(self, what: str) -> None:
        program = torch.export.export(net(), (IMAGES[:2],))
        with pytest.raises(ModelError, match=r"torch\.export.*has its sizes written in"):
            adapted(task(program if what == "program" else program.module()), "cpu")  # type: ignore[arg-type]
