"""Data sets, loaders and iterables of all kinds as splits, and how a batch of them is divided into inputs and targets.

A data set does its own scaling and augmentation.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from autoprune.addresses import blamed
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs
from autoprune.splits import Batch, Places, Split, places

Divide = Callable[[Any], Batch]  # a batch as a loader gives it -> inputs and targets; None for targets without labels
Collate = Callable[[list[Any]], Any]
LABELS = ("labels", "label", "targets", "target")  # entries of a mapping that outputs are compared with
_END = object()
BUFFER = 1_000  # samples among which those of an iterable data set are shuffled


@runtime_checkable
class KnowsClasses(Protocol):
    """A data set that knows the class of each sample without reading it, as torchvision's do."""

    targets: Sequence[int]


def as_split(data: object, divide: Divide, place: str) -> Split:
    """`data` as a split; `place` is named in errors. Raises ConfigError for what is none."""
    if isinstance(data, Split):
        return data
    if isinstance(data, DataLoader):
        return _of_loader(data, divide, place)
    if isinstance(data, Mapping):
        raise ConfigError(f"{place} is a mapping of {', '.join(map(str, data))}; one of these data sets is right")
    if not isinstance(data, Sized):
        hint = "add a __len__" if isinstance(data, Iterable) else "a data set, a DataLoader or a Split is right"
        raise ConfigError(f"{place} is a {type(data).__name__}, which has no length; {hint}")
    if hasattr(data, "__getitem__") and not isinstance(data, IterableDataset):
        return DatasetSplit(data, divide=divide, place=place)
    if isinstance(data, Iterable):
        return IterableSplit(data, divide=divide, place=place)
    raise ConfigError(f"{place} is a {type(data).__name__}; a data set, a DataLoader or a Split is right")


def _of_loader(loader: DataLoader[Any], divide: Divide, place: str) -> Split:
    """A loader's data set, collation, workers and sampler; how large batches are is up to who reads them."""
    if loader.batch_sampler is None:
        raise ConfigError(f"{place} is a DataLoader with batch_size=None; give its data set, or a batch_size")
    data, collate = loader.dataset, loader.collate_fn
    if isinstance(data, IterableDataset):
        if not isinstance(data, Sized):
            raise ConfigError(f"{place} loads a {type(data).__name__}, which has no length; add a __len__")
        return IterableSplit(data, collate, divide, place)
    made = DatasetSplit(data, loader.num_workers, collate, divide, start=loader.worker_init_fn, place=place)
    if type(loader.batch_sampler) is not BatchSampler:
        return dataclasses.replace(made, sampler=_Flat(loader.batch_sampler))
    usual = isinstance(loader.sampler, RandomSampler | SequentialSampler)
    return made if usual else dataclasses.replace(made, sampler=loader.sampler)


@dataclass(frozen=True)
class _Flat:
    """The samples of a sampler of batches."""

    batches: Iterable[Iterable[int]]

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            yield from batch


def collated(samples: list[Any]) -> Any:
    """As torch's `default_collate`; lists of numbers in mappings, as tokenisers give them, become tensors first."""
    return default_collate([_numbers(sample) for sample in samples])


def _numbers(sample: Any) -> Any:
    if not isinstance(sample, Mapping):
        return sample
    return {name: torch.as_tensor(v) if _is_numbers(v) else v for name, v in sample.items()}


def _is_numbers(value: object) -> bool:
    """Whether it is a list of numbers, or a list of such lists."""
    if not (isinstance(value, list) and value):
        return False
    return all(isinstance(one, int | float) or _is_numbers(one) for one in value)


def divided(raw: Any, example: Inputs) -> Batch:
    """A batch as a loader gives it, as inputs like `example`, and targets.

    A pair is (inputs, targets); a network of k inputs may also be given k + 1 entries. Of a mapping, the targets are
    the entry "labels", "label", "targets" or "target"; the inputs are the entries that `example` has ("labels" among
    them, if the network takes these, too), or the only other entry where the network takes a tensor. All else is inputs
    without targets. Raises ConfigError where that leaves a choice.
    """
    if isinstance(raw, Mapping):
        return _of_mapping(raw, example)
    if not isinstance(raw, tuple | list):
        return raw, None
    several = isinstance(example, tuple | list) and len(example) > 1
    count = len(example) if several else 1
    if len(raw) == 2 and (not several or isinstance(raw[0], tuple | list)):
        return raw[0], raw[1]
    if len(raw) == count:
        return (tuple(raw) if several else raw[0]), None
    if len(raw) == count + 1:
        return tuple(raw[:count]), raw[count]
    raise ConfigError(
        f"a batch has {len(raw)} entries and the example {count}; "
        "give Task(batch=...), which makes (inputs, targets) of a batch"
    )


def _of_mapping(raw: Mapping[str, Any], example: Inputs) -> Batch:
    label = next((name for name in LABELS if name in raw), "")
    targets = raw[label] if label else None
    has = ", ".join(map(str, raw))
    if isinstance(example, Mapping):
        if missing := [str(name) for name in example if name not in raw]:
            raise ConfigError(f"a batch has {has}, but not {', '.join(missing)}, which the example has")
        return {name: raw[name] for name in example}, targets
    rest = [value for name, value in raw.items() if name != label]
    if len(rest) != 1:
        raise ConfigError(
            f"a batch has {has}; which of them the network takes is not known: give a mapping of these as the example, "
            "or Task(batch=...), which makes of a batch (inputs, targets)"
        )
    return rest[0], targets


def _read(raw: Iterable[Any], divide: Divide, place: str) -> Iterator[Batch]:
    """Batches as a loader gives them, divided. Raises TrialFailed where the data, the collation or `divide` raises."""
    what = _reading(place)
    with blamed(what):
        rest = iter(raw)
    while True:
        with blamed(what):
            batch = next(rest, _END)
            if batch is _END:
                return
            found = divide(batch)
        yield found


def _reading(place: str) -> str:
    """What is said to fail."""
    return f"{place}: reading samples" if place else "reading samples"


def paired(raw: Any) -> Batch:
    """A pair as it is."""
    inputs, targets = raw
    return inputs, targets


@dataclass(frozen=True)
class DatasetSplit:
    """Any map-style data set as a split.

    Attributes:
        workers: processes that load samples.
        collate: makes a batch of a list of samples.
        divide: makes inputs and targets of a batch.
        sampler: gives the order of training, in which samples may come again or never; empty: a random order of all.
        start: what each worker calls first, with its number.
        place: is named where samples cannot be read.
    """

    dataset: Any
    workers: int = 0
    collate: Collate = collated
    divide: Divide = paired
    sampler: Iterable[int] = ()
    start: Callable[[int], None] | None = None
    place: str = ""

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        yield from _read(self._loaded(batch_size=size), self.divide, self.place)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`; with a sampler, in its order."""
        if self.sampler == ():
            options = {"shuffle": True, "generator": generator, "drop_last": len(self) >= size}
            yield from _read(self._loaded(batch_size=size, **options), self.divide, self.place)
            return
        with blamed(_reading(self.place)):
            order = _order(self.sampler, generator)
        whole = max(len(order) // size, 1) * size
        chunks = [order[at : at + size] for at in range(0, min(whole, len(order)), size)]
        yield from _read(self._loaded(batch_sampler=chunks, generator=generator), self.divide, self.place)

    def head(self, count: int) -> DatasetSplit:
        """As `Split.head`."""
        return self._at(range(min(count, len(self))))

    def drawn(self, count: int, seed: int) -> DatasetSplit:
        """As `Draws.drawn`; each class has its share where the data set has `targets`."""
        return self._at(places(count, len(self), seed, _classes(self.dataset)).tolist())

    def _at(self, chosen: Sequence[int]) -> DatasetSplit:
        return dataclasses.replace(self, dataset=Subset(self.dataset, chosen), sampler=())

    def _loaded(self, **options: Any) -> DataLoader[Any]:
        options |= {"num_workers": self.workers, "worker_init_fn": self.start, "collate_fn": self.collate}
        return DataLoader(self.dataset, **options)


def _order(sampler: Iterable[int], generator: torch.Generator) -> list[int]:
    """What `sampler` gives when all its randomness comes from `generator`."""
    sampler = copy.copy(sampler)
    if hasattr(sampler, "generator"):
        sampler.generator = generator
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return [int(place) for place in sampler]


def _classes(dataset: object) -> Sequence[int] | Tensor:
    """The class of each sample where that is known without reading it; empty elsewhere."""
    if isinstance(dataset, Subset):
        whole = _classes(dataset.dataset)
        return np.asarray(whole)[list(dataset.indices)].tolist() if len(whole) else ()
    if isinstance(dataset, TensorDataset):
        found: Any = dataset.tensors[-1]
    elif isinstance(dataset, KnowsClasses):
        found = dataset.targets
    else:
        return ()
    array = np.asarray(found)
    whole_numbers = array.dtype.kind in "iu" and array.shape == (len(cast(Sized, dataset)),)
    return array.tolist() if whole_numbers else ()


@dataclass(frozen=True)
class IterableSplit:
    """Any iterable data set that has a length as a split: it is read from its beginning each time.

    Training shuffles among `BUFFER` samples.
    """

    dataset: Iterable[Any]
    collate: Collate = collated
    divide: Divide = paired
    place: str = ""

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        yield from _read(self._in_batches(self.dataset, size), self.divide, self.place)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        batches = self._in_batches(self._mixed(generator), size, whole=len(self) >= size)
        yield from _read(batches, self.divide, self.place)

    def head(self, count: int) -> DatasetSplit:
        """As `Split.head`; it is held in memory."""
        return DatasetSplit(list(islice(self.dataset, count)), 0, self.collate, self.divide, place=self.place)

    def drawn(self, count: int, seed: int) -> DatasetSplit:
        """As `Draws.drawn`; it is held in memory."""
        return DatasetSplit(self._at(places(count, len(self), seed)), 0, self.collate, self.divide, place=self.place)

    def _at(self, chosen: Places) -> list[Any]:
        wanted = set(chosen.tolist())
        return [sample for place, sample in enumerate(self.dataset) if place in wanted]

    def _in_batches(self, samples: Iterable[Any], size: int, *, whole: bool = False) -> Iterator[Any]:
        rest = iter(samples)
        while len(part := list(islice(rest, size))) >= (size if whole else 1):
            yield self.collate(part)

    def _mixed(self, generator: torch.Generator) -> Iterator[Any]:
        rest = iter(self.dataset)
        held = list(islice(rest, BUFFER))
        for sample in rest:
            at = int(torch.randint(len(held), (), generator=generator))
            held[at], sample = sample, held[at]
            yield sample
        yield from (held[at] for at in torch.randperm(len(held), generator=generator).tolist())
