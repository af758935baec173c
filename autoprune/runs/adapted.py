"""The user's task as a search takes it: the network out of its wrappers, in float32, with its data, on the device.

What a user hands over is never changed; a network that has to be is copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from autoprune.copies import copied
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs, moved, tensors
from autoprune.splits import Batch, Split, draw
from autoprune.task import Task
from autoprune.wrappers import bare, precisions, wrappers


def adapted(task: Task, device: str) -> Task:
    """`task` with its network, its example and its batches in float32 on `device`; itself where they are.

    Raises ConfigError where there is no such device, ModelError for what is no network that can be cut.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"search.device = {device!r}: this machine has no CUDA device; write 'cpu'")
    model = bare(task.model)
    if precisions(model) or device != "cpu":
        model = copied(model).float().to(device)
    example = moved(moved(task.example, torch.float32), device)
    if model is task.model and _is_single(task.example) and all(_is_ready(s) for s in (task.train, task.holdout)):
        return task
    train = _Moved(task.train, device) if task.trains else task.train
    holdout, test = _Moved(task.holdout, device), _Moved(task.test, device)
    return dataclasses.replace(task, model=model, example=example, train=train, holdout=holdout, test=test)


def changes(model: nn.Module) -> tuple[str, ...]:
    """What `adapted` does to a network, in sentences."""
    found = []
    if words := wrappers(model):
        found.append(f"The network was taken out of {', '.join(words)}; names in all files are those inside.")
    if types := precisions(model):
        found.append(f"The network came in {', '.join(types)}; it was searched, timed and exported in float32.")
    return tuple(found)


def _is_single(nest: Inputs) -> bool:
    return all(tensor.dtype == torch.float32 for tensor in tensors(nest) if tensor.is_floating_point())


def _is_ready(split: Split) -> bool:
    """Whether the first sample is in float32 already. What cannot be read is told elsewhere."""
    with contextlib.suppress(Exception):
        for inputs, _ in split.head(1).batches(1):
            return _is_single(inputs)
    return True


@dataclass(frozen=True)
class _Moved:
    """A split whose batches are in float32 on `device`."""

    split: Split
    device: str

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int) -> Iterator[Batch]:
        yield from (self._moved(batch) for batch in self.split.batches(size))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield from (self._moved(batch) for batch in self.split.shuffled(size, generator))

    def head(self, count: int) -> _Moved:
        return _Moved(self.split.head(count), self.device)

    def drawn(self, count: int, seed: int) -> _Moved:
        return _Moved(draw(self.split, count, seed), self.device)

    def _moved(self, batch: Batch) -> Batch:
        return moved(moved(batch, torch.float32), self.device)
