"""The images an evaluator looks at again and again, made ready once.

Scaling, memory layout and (for user data sets) decoding are paid for in the first trial; later ones read from memory,
unless the batches are larger than `HELD`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from autoprune.engine.memory import laid_out
from autoprune.task import Batch, Split

HELD = 2**30  # bytes of inputs that one split may hold in memory


@dataclass
class Replay:
    """The batches of `source`, the same each time."""

    source: Callable[[], Iterator[Batch]]
    _held: list[Batch] = field(default_factory=list, init=False)

    def __iter__(self) -> Iterator[Batch]:
        if self._held:
            yield from self._held
            return
        held, size = [], 0
        for inputs, targets in self.source():
            batch = laid_out(inputs), targets
            size += inputs.nbytes
            if size <= HELD:
                held.append(batch)
            yield batch
        if size <= HELD:
            self._held = held


@dataclass
class Ready:
    """A split whose batches are made ready once for each batch size."""

    split: Split
    _replays: dict[int, Replay] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        replay = self._replays.setdefault(size, Replay(lambda: self.split.batches(size)))
        yield from replay

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`; nothing is held."""
        yield from self.split.shuffled(size, generator)

    def head(self, count: int) -> Ready:
        """As `Split.head`."""
        return Ready(self.split.head(count))
