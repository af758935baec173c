"""Whatever holds samples is a split, and a part of it is a seeded draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from autoprune.datasets import DatasetSplit, IterableSplit, divided
from autoprune.errors import ConfigError
from autoprune.splits import Batch, Images, Split, draw, places
from autoprune.task import Task

CLASSES = torch.arange(10).repeat_interleave(100)  # a holdout that is sorted by class


class Bare:
    """A split of a user: all that was ever asked for."""

    def __len__(self) -> int:
        return len(CLASSES)

    def batches(self, size: int) -> Iterator[Batch]:
        for labels in CLASSES.split(size):
            yield labels[:, None].float(), labels

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield from self.batches(size)

    def head(self, count: int) -> Split:
        raise AssertionError("the first ones are no draw")


class Boxes(Bare):
    """One whose targets are lists."""

    def batches(self, size: int) -> Iterator[Batch]:
        for inputs, labels in super().batches(size):
            yield inputs, [{"box": label} for label in labels]


class Iterable(IterableDataset[Any]):
    """Samples that come one after the other."""

    def __iter__(self) -> Iterator[Any]:
        yield from ((label[None].float(), int(label)) for label in CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)


def as_split(data: Any, example: Any = None, **more: Any) -> Any:
    example = torch.zeros(1, 1) if example is None else example
    return Task(nn.Identity(), example, data, data, data, **more).holdout


def images() -> Images:
    return Images(CLASSES.to(torch.uint8).view(-1, 1, 1, 1), CLASSES, (0.0,), (1.0,))


def numbers(split: Split, size: int = 64) -> list[int]:
    return [int(label) for _, labels in split.batches(size) for label in labels]


def pairs() -> TensorDataset:
    return TensorDataset(CLASSES[:, None].float(), CLASSES)


class TestADraw:
    @pytest.mark.parametrize("make", [images, pairs])
    def test_of_a_holdout_sorted_by_class_sees_all_classes_alike(self, make: Any) -> None:
        found = draw(as_split(make()), 400, seed=0)
        assert len(found) == 400
        assert Counter(numbers(found)) == dict.fromkeys(range(10), 40)

    @pytest.mark.parametrize("make", [Bare, Iterable, lambda: list(zip(CLASSES[:, None].float(), CLASSES))])
    def test_of_what_does_not_tell_its_classes_is_random(self, make: Any) -> None:
        found = draw(as_split(make()), 400, seed=0)
        assert len(found) == len(numbers(found)) == 400
        assert all(20 <= count <= 60 for count in Counter(numbers(found)).values())
        assert len(set(numbers(found))) == 10

    @pytest.mark.parametrize("make", [images, pairs, Bare, Iterable])
    def test_is_the_same_for_the_same_seed_and_in_order(self, make: Any) -> None:
        one, same = (numbers(draw(as_split(make()), 57, 0)) for _ in range(2))
        assert one == same == sorted(one)

    @pytest.mark.parametrize("classes", [(), CLASSES])
    def test_is_another_for_another_seed(self, classes: Any) -> None:
        one, same, other = (places(57, 1000, seed, classes) for seed in (0, 0, 1))
        assert (one == same).all()
        assert (one != other).any()

    def test_of_all_is_the_split(self) -> None:
        split = as_split(pairs())
        assert draw(split, 1000, 0) is split

    def test_keeps_targets_that_are_no_tensors_with_their_inputs(self) -> None:
        found = list(draw(Boxes(), 30, 0).batches(8))
        assert sum(len(targets) for _, targets in found) == 30
        assert all(
            int(x) == int(box["box"]) for inputs, targets in found for x, box in zip(inputs, targets, strict=True)
        )

    def test_of_rare_classes_is_of_the_size_that_was_asked_for(self) -> None:
        labels = torch.tensor([0] * 990 + [1] * 10)
        found = draw(as_split(TensorDataset(torch.zeros(1000, 1), labels)), 100, seed=3)
        assert Counter(numbers(found)) == {0: 99, 1: 1}


class TestALoader:
    def test_gives_its_data_set_and_collation(self) -> None:
        def doubled(samples: list[Any]) -> Any:
            return torch.stack([2 * x for x, _ in samples]), torch.stack([y for _, y in samples])

        split = as_split(DataLoader(pairs(), batch_size=7, collate_fn=doubled))
        inputs, labels = next(split.batches(50))
        assert len(labels) == 50
        assert torch.equal(inputs[:, 0], 2.0 * labels)

    def test_gives_its_weighted_sampler_to_training_alone(self) -> None:
        weights = (CLASSES == 7).double().tolist()
        split = as_split(DataLoader(pairs(), sampler=WeightedRandomSampler(weights, 500)))
        first, again = (list(split.shuffled(50, torch.Generator().manual_seed(1))) for _ in range(2))
        assert len(first) == 10
        assert {int(label) for _, labels in first for label in labels} == {7}
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
        assert len(set(numbers(split))) == 10
        assert len(set(numbers(draw(split, 100, 0)))) == 10

    def test_of_batches_of_its_own_gives_their_order(self) -> None:
        own = [[3, 2], [900, 901, 902], [5]]
        split = as_split(DataLoader(pairs(), batch_sampler=own))
        (found,) = split.shuffled(6, torch.Generator().manual_seed(0))
        assert found[1].tolist() == [0, 0, 9, 9, 9, 0]

    def test_leaves_global_randomness_alone(self) -> None:
        split = as_split(DataLoader(pairs(), sampler=WeightedRandomSampler([1.0] * 1000, 100)))
        before = torch.get_rng_state()
        list(split.shuffled(50, torch.Generator().manual_seed(1)))
        assert torch.equal(before, torch.get_rng_state())

    def test_without_batches_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="its split 'train' is a DataLoader with batch_size=None"):
            as_split(DataLoader(pairs(), batch_size=None))


class TestAnIterable:
    @pytest.mark.parametrize("wrap", [lambda data: data, DataLoader])
    def test_with_a_length_is_a_split(self, wrap: Any) -> None:
        split = as_split(wrap(Iterable()))
        assert isinstance(split, IterableSplit)
        assert numbers(split) == CLASSES.tolist()
        mixed = [int(label) for _, labels in split.shuffled(64, torch.Generator().manual_seed(0)) for label in labels]
        assert len(mixed) == 15 * 64
        assert mixed != sorted(mixed)
        assert isinstance(split.head(3), DatasetSplit)

    def test_without_a_length_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match=r"task Identity: its split 'train' is a generator, which has no length; add"
        ):
            as_split(x for x in range(3))


class Columns(Dataset[Any]):
    """Dict samples with lists of numbers, as tokenised `datasets` of Hugging Face give."""

    def __init__(self, **more: Any) -> None:
        self.more = more

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"input_ids": [place, 1, 2], "attention_mask": [1, 1, 0], "label": place % 2, **self.more}


EXAMPLE = {"input_ids": torch.zeros(1, 3), "attention_mask": torch.ones(1, 3)}


class TestMappings:
    def test_entries_of_the_example_are_inputs_and_labels_targets(self) -> None:
        inputs, targets = next(as_split(Columns(text="a sentence"), EXAMPLE).batches(4))
        assert list(inputs) == ["input_ids", "attention_mask"]
        assert inputs["input_ids"].tolist() == [[n, 1, 2] for n in range(4)]
        assert targets.tolist() == [0, 1, 0, 1]

    def test_labels_in_the_example_are_inputs_too(self) -> None:
        example = {**EXAMPLE, "labels": torch.zeros(1)}
        inputs, targets = divided({**EXAMPLE, "labels": torch.ones(1)}, example)
        assert inputs["labels"] is targets

    def test_a_missing_entry_is_named(self) -> None:
        with pytest.raises(ConfigError, match="a batch has input_ids, attention_mask, label, but not pixel_values"):
            next(as_split(Columns(), {"pixel_values": torch.zeros(1, 3)}).batches(2))

    def test_the_only_other_entry_is_the_tensor_that_the_network_takes(self) -> None:
        inputs, targets = divided({"image": torch.ones(2, 3), "label": torch.zeros(2)}, torch.zeros(1, 3))
        assert isinstance(inputs, Tensor)
        assert len(targets) == 2

    def test_several_other_entries_are_asked_about(self) -> None:
        with pytest.raises(ConfigError, match="which of them the network takes is not known"):
            next(as_split(Columns()).batches(2))

    def test_a_division_of_ones_own(self) -> None:
        split = as_split(Columns(), batch=lambda raw: (raw["input_ids"], raw["attention_mask"]))
        inputs, targets = next(split.batches(2))
        assert targets.tolist() == [[1, 1, 0]] * 2
        assert len(inputs) == 2


class TestTuples:
    ONE = torch.zeros(2, 3)

    @pytest.mark.parametrize(
        ("raw", "example", "wanted"),
        [
            ([ONE, 1], ONE, (Tensor, int)),
            ([ONE], ONE, (Tensor, type(None))),
            (ONE, ONE, (Tensor, type(None))),
            ([ONE, ONE, 1], (ONE, ONE), (tuple, int)),
            ([[ONE, ONE], 1], (ONE, ONE), (list, int)),
            ([ONE, ONE], (ONE, ONE), (tuple, type(None))),
        ],
    )
    def test_are_divided_as_the_example_is(self, raw: Any, example: Any, wanted: tuple[type, type]) -> None:
        inputs, targets = divided(raw, example)
        assert (type(inputs), type(targets)) == wanted

    def test_too_many_entries_are_asked_about(self) -> None:
        with pytest.raises(ConfigError, match=r"a batch has 4 entries and the example 1; give Task\(batch=...\)"):
            divided([self.ONE] * 4, self.ONE)


@pytest.mark.parametrize(
    ("data", "said"),
    [(3, "is a int, which has no length"), ({"train": [1], "test": [2]}, "is a mapping of train, test; one of these")],
)
def test_what_is_no_split_is_named(data: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"task Identity: its split 'train' {said}"):
        as_split(data)


def test_targets_of_a_data_set_are_known_without_reading_it() -> None:
    class Unread(Dataset[Any]):
        targets = np.repeat(np.arange(4), 25)

        def __len__(self) -> int:
            return 100

        def __getitem__(self, place: int) -> Any:
            raise AssertionError("it was read")

    found = draw(as_split(Unread()), 20, seed=0)
    assert isinstance(found, DatasetSplit)
    assert Counter(Unread.targets[list(found.dataset.indices)]) == dict.fromkeys(range(4), 5)
    again = draw(found, 8, seed=1)
    assert isinstance(again, DatasetSplit)
    places = [found.dataset.indices[at] for at in again.dataset.indices]
    assert Counter(Unread.targets[places]) == dict.fromkeys(range(4), 2)
