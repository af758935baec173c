"""The images an evaluator looks at again and again, made ready once.

Scaling, memory layout and (for user data sets) decoding are paid for in the first trial; later ones read from memory,
unless the batches are larger than `HELD`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from autoprune.engine.memory import laid_out
from autoprune.inputs import nbytes
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
            size += nbytes(inputs)
            if size <= HELD:
                held.append(batch)
            yield batch
        if size <= HELD:
            self._held = held


@dataclass
class Replayed:
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

    def head(self, count: int) -> Replayed:
        """As `Split.head`."""
        return Replayed(self.split.head(count))


def drawn(split: Split, seed: int, images: int, batch: int, draw: int = 0) -> Iterator[Batch]:
    """So many random images, in whole batches; those of one `draw` are not in another."""
    shuffled = split.shuffled(batch, torch.Generator().manual_seed(seed))
    count = images // batch
    return islice(shuffled, draw * count, (draw + 1) * count)
