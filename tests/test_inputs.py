"""What a network takes may be a tensor, a tuple, a mapping, or nests of them."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune import inputs
from autoprune.costs.arithmetic import Macs, Params
from autoprune.criteria import group_norm
from autoprune.engine import precision
from autoprune.errors import DataError, ModelError
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.files.compared import compare
from autoprune.task import Batch, Images, Task
from autoprune.testing.evaluators import toy_task
from tests.making import bench, metric

ONE, TWO = torch.arange(6.0).reshape(3, 2), torch.arange(3)
NESTS: list[Any] = [ONE, (ONE, TWO), {"x": ONE, "ids": TWO}, (ONE, {"more": [TWO, ONE]}, 7, None)]


@pytest.mark.parametrize("nest", NESTS)
class TestNests:
    def same(self, one: object, other: object) -> bool:
        """Whether two nests have equal tensors, of one type, in the same places."""
        pairs = zip(inputs.tensors(one), inputs.tensors(other), strict=True)
        return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)

    def test_have_a_size(self, nest: Any) -> None:
        assert inputs.size(nest) == 3
        assert inputs.nbytes(nest) == sum(t.nbytes for t in inputs.tensors(nest))

    def test_are_sliced_and_joined_sample_by_sample(self, nest: Any) -> None:
        head, tail = inputs.first(nest, 2), inputs.picked(nest, torch.tensor([2]))
        assert (inputs.size(head), inputs.size(tail)) == (2, 1)
        assert self.same(inputs.joined(head, tail), nest)

    def test_repeat_their_first_sample(self, nest: Any) -> None:
        found = inputs.repeated(nest, 4)
        assert inputs.size(found) == 4
        assert self.same(found, inputs.picked(nest, torch.zeros(4, dtype=torch.long)))

    def test_move_and_keep_whole_numbers_whole(self, nest: Any) -> None:
        half = inputs.moved(nest, torch.bfloat16)
        pairs = zip(inputs.tensors(nest), inputs.tensors(half), strict=True)
        assert all(b.dtype == (torch.bfloat16 if a.is_floating_point() else a.dtype) for a, b in pairs)
        assert self.same(inputs.moved(nest, "cpu"), nest)

    def test_keep_what_is_no_tensor(self, nest: Any) -> None:
        found = inputs.mapped(nest, lambda tensor: tensor + 1)
        assert type(found) is type(nest)
        if isinstance(nest, tuple) and len(nest) > 2:
            assert found[2:] == (7, None)

    def test_say_their_shapes(self, nest: Any) -> None:
        assert inputs.shapes(nest).startswith("(3, 2)")


@pytest.mark.parametrize("kind", [UserDict, MappingProxyType])
def test_any_mapping_is_one(kind: Callable[[dict[str, object]], Any]) -> None:
    """A tokeniser gives a UserDict, which pytree takes for a leaf."""
    nest = kind({"x": ONE, "more": (TWO,)})
    assert inputs.size(nest) == 3
    assert torch.equal(inputs.first(nest, 2)["x"], ONE[:2])
    assert inputs.size(inputs.joined(nest, (nest, nest)[0])) == 6
    assert torch.equal(inputs.call(lambda x, more: x + more[0][:, None], inputs.first(nest, 1)), ONE[:1])


@pytest.mark.parametrize("nothing", [(), {}, "text", ("a", 3)])
def test_inputs_without_a_tensor_are_refused(nothing: Any) -> None:
    with pytest.raises(DataError, match="without a tensor"):
        inputs.size(nothing)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(1, ((1,), {})), ((1, 2), ((1, 2), {})), ([1, 2], ((1, 2), {})), ({"b": 1, "a": 2}, ((), {"b": 1, "a": 2}))],
)
def test_a_model_is_called_by_place_or_by_name(given: Any, wanted: Any) -> None:
    assert inputs.call(lambda *placed, **named: (placed, named), given) == wanted


@dataclasses.dataclass(frozen=True)
class Pair:
    """A user's own type of inputs."""

    x: Tensor
    scale: float
    boxes: list[dict[str, Tensor]]


BOXES = [{"boxes": torch.full((count, 4), float(count))} for count in (2, 0, 1)]


class TestBoxesOfEachImage:
    """A list of mappings has one mapping a sample, each with as many rows as it likes."""

    batch: dict[str, Any] = {"x": ONE, "labels": BOXES, "temperature": torch.tensor(2.0)}  # noqa: RUF012

    def counts(self, batch: Any) -> list[int]:
        return [len(one["boxes"]) for one in batch["labels"]]

    def test_stay_with_their_samples(self) -> None:
        assert inputs.size({"labels": BOXES}) == inputs.size(self.batch) == 3
        assert self.counts(inputs.first(self.batch, 2)) == [2, 0]
        assert self.counts(inputs.picked(self.batch, torch.tensor([2, 0]))) == [1, 2]
        assert self.counts(inputs.repeated(self.batch, 2)) == [2, 2]
        assert self.counts(inputs.joined(self.batch, inputs.first(self.batch, 1))) == [2, 0, 1, 2]
        assert inputs.moved(self.batch, torch.bfloat16)["labels"][0]["boxes"].dtype == torch.bfloat16

    def test_one_number_is_of_all_samples(self) -> None:
        for found in (
            inputs.first(self.batch, 1),
            inputs.repeated(self.batch, 5),
            inputs.joined(self.batch, self.batch),
        ):
            assert torch.equal(found["temperature"], self.batch["temperature"])

    def test_mappings_that_are_arguments_are_no_samples(self) -> None:
        pair = [{"ids": TWO}, {"ids": TWO + 1}]  # as a DataLoader gives a tuple of two
        assert inputs.size(pair) == 3
        assert [len(side["ids"]) for side in inputs.first(pair, 2)] == [2, 2]

    def test_a_dataclass_keeps_its_type(self) -> None:
        found = inputs.first(Pair(ONE, 0.5, BOXES), 2)
        assert isinstance(found, Pair)
        assert (len(found.x), found.scale, len(found.boxes)) == (2, 0.5, 2)
        assert [tuple(t.shape) for t in inputs.tensors(found)] == [(2, 2), (2, 4), (0, 4)]
        assert list(inputs.by_name(found)) == ["x", "boxes.0.boxes", "boxes.1.boxes"]


def test_packed_sequences_are_refused_in_one_line() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    for nest in (packed, (packed, TWO), {"x": packed}):
        for use in (inputs.size, lambda it: inputs.first(it, 1)):
            with pytest.raises(DataError, match=r"inputs hold a PackedSequence, .* hand over the padded tensor"):
                use(nest)


class WithLoss(nn.Module):
    """Gives a loss besides what it computes, where labels are given, as transformers' networks do."""

    def forward(self, x: Tensor, labels: Tensor | None = None, needed: Tensor | None = None) -> Any:
        assert not self.training
        return (x, (x - labels).mean()) if labels is not None else x + needed


def test_labels_are_no_input_of_a_network_in_use() -> None:
    model, batch = WithLoss().train(), {"x": ONE, "labels": ONE, "needed": ONE}
    assert list(inputs.in_use(model, batch)) == ["x", "needed"]
    assert model.training
    assert list(inputs.in_use(model, {"x": ONE, "labels": ONE})) == ["x", "labels"]  # it fails without
    assert inputs.in_use(model, (ONE, ONE)) == (ONE, ONE)


class TwoSided(nn.Module):
    """A network of an image and of a number for each class, which is added."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = self.inner(image) + bias
        return found


@dataclasses.dataclass
class Both:
    """The same images, each with zeros, as what a two-sided network takes."""

    images: Images
    wrap: Callable[[Tensor, Tensor], Any]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Batch]:
        yield from map(self.wrapped, self.images.batches(size))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield from map(self.wrapped, self.images.shuffled(size, generator))

    def head(self, count: int) -> Both:
        return Both(self.images.head(count), self.wrap)

    def wrapped(self, batch: Batch) -> Batch:
        images, labels = batch
        return self.wrap(images, torch.zeros(len(images), 4)), labels


WRAPS: list[Callable[[Tensor, Tensor], Any]] = [lambda x, b: (x, b), lambda x, b: {"bias": b, "image": x}]


@pytest.fixture(params=WRAPS, ids=["tuple", "mapping"])
def two_sided(request: pytest.FixtureRequest) -> Task:
    """A task whose network takes two tensors."""
    task, wrap = toy_task(), request.param
    splits = {name: Both(getattr(task, name), wrap) for name in ("train", "holdout", "test")}
    example = wrap(task.example, torch.zeros(len(task.example), 4))
    return dataclasses.replace(task, model=TwoSided(task.model), example=example, **splits)


class Talkative(nn.Module):
    """Gives, besides logits, a number for the whole batch, which of them are large, and nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.inner(image)
        return found, found.mean(), found > 100, found[:, :0]


def test_outputs_need_not_be_alike() -> None:
    plain = toy_task()
    task = dataclasses.replace(plain, model=Talkative(plain.model).eval(), metric=lambda model, split: 0.5)
    ground = bench(task, group_norm)
    assert len(ground.space) == len(bench(plain, group_norm).space)
    assert precision.choose(task.model, next(task.holdout.batches(64))[0], lambda *ways: 2.0).score in ("fp32", "bf16")
    candidate = ground.pruned(ground.space.snap([0.5] * len(ground.space)))
    compare(candidate.model, candidate.model, Path(__file__), task.example, 0)
    with pytest.raises(ModelError, match="does not compute what the pruned network does"):
        compare(candidate.model, task.model, Path(__file__), task.example, 0)


class TestModels:
    def test_of_several_inputs_are_traced_pruned_and_priced(self, two_sided: Task) -> None:
        plain, both = bench(toy_task(), group_norm), bench(two_sided, group_norm)
        assert [(c.dense, c.levels) for c in both.space] == [(c.dense, c.levels) for c in plain.space]
        policy = both.space.snap([0.5] * len(both.space))
        candidate = both.pruned(policy)
        for cost in (Macs(both.space), Params(both.space)):
            assert cost.measure(candidate.model, two_sided.example) == cost.predict(policy)

    @pytest.mark.parametrize("kind", [Recalibrate, Reconstruct])
    def test_of_several_inputs_are_scored_as_those_of_one(self, two_sided: Task, kind: Any) -> None:
        plain, both = (bench(task, group_norm, shortcuts=False) for task in (toy_task(), two_sided))
        policy = both.space.snap([0.4] * len(both.space))
        one_of_200 = 0.005  # sums come in another order on one thread
        assert metric(kind(both), policy) == pytest.approx(metric(kind(plain), policy), abs=1.01 * one_of_200)
