"""Splits: sets of samples that come as batches, and seeded draws from them.

`Images` is the fast one, a whole data set in memory; `autoprune.datasets` makes splits of data sets and loaders.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune import inputs as nests
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs, first, joined, mapped, picked as taken

Batch = tuple[Inputs, Any]  # what the network takes, and what its outputs are compared with; None without labels
Places = NDArray[np.int64]


@runtime_checkable
class Split(Protocol):
    """A set of samples, as batches."""

    def __len__(self) -> int:
        """How many samples."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """Every sample once, in order, as the network takes them, n at a time: inputs and targets."""
        ...

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Every sample once, in random order, augmented for training. The last short batch is dropped."""
        ...

    def head(self, count: int) -> Split:
        """The first `count` samples (all of them, if there are fewer)."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A split that draws samples itself, without reading those that are not drawn."""

    def drawn(self, count: int, seed: int) -> Split:
        """`count` random samples in the order of the split; the same for the same seed."""
        ...


def draw(split: Split, count: int, seed: int) -> Split:
    """`count` random samples of `split` in its order, the same for the same seed; all, if there are no more.

    Where the split knows the classes of its samples, each has its share of the draw.
    """
    if count >= len(split):
        return split
    return split.drawn(count, seed) if isinstance(split, Draws) else Part(split, places(count, len(split), seed))


def places(count: int, of: int, seed: int, classes: Sequence[int] | Tensor = ()) -> Places:
    """Which `count` `of` samples a draw takes, ascending.

    With `classes`, one a sample, each class has its share, up to one sample: every n-th is taken of a random order that
    is sorted by class (systematic sampling: Cochran 1977, Sampling Techniques, chapter 8).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(of)
    if not len(classes):
        return np.sort(order[:count]).astype(np.int64)
    order = order[np.argsort(np.asarray(classes)[order], kind="stable")]
    return np.sort(order[((np.arange(count) + rng.random()) * of / count).astype(np.int64)]).astype(np.int64)


def mixed(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The places of `count` samples in random order, `size` a batch; the last short batch is dropped, unless it is all.

    What `Split.shuffled` takes, of samples that lie in memory.
    """
    order = torch.randperm(count, generator=generator)
    for start in range(0, max(count - size, 0) + 1, size):
        yield order[start : start + size]


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        images: uint8, shape (n, channels, height, width), in [0, 255].
        labels: int64, shape (n,).
        mean, std: one number a channel, of images scaled to [0, 1].
        pad: pixels of black padding for the random crop of training, as cropping before scaling leaves them; 0 crops
            nothing.
        flip: whether training mirrors half of the images.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        for start in range(0, len(self), size):
            yield self._scale(self.images[start : start + size]), self.labels[start : start + size]

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        for pick in mixed(len(self), size, generator):
            yield self._augment(self._scale(self.images[pick]), generator), self.labels[pick]

    def head(self, count: int) -> Images:
        """As `Split.head`."""
        return dataclasses.replace(self, images=self.images[:count], labels=self.labels[:count])

    def drawn(self, count: int, seed: int) -> Images:
        """As `Draws.drawn`, each class having its share."""
        found = torch.from_numpy(places(count, len(self), seed, self.labels))
        return dataclasses.replace(self, images=self.images[found], labels=self.labels[found])

    def _scale(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        if self.pad:
            black = self._scale(torch.zeros(1, len(self.mean), 1, 1))
            images = _shift(images - black, self.pad, generator) + black
        return images


def _shift(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own offset in [-pad, pad] both ways, zeros moving in: the usual padded random crop."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (pad, pad, pad, pad))
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), generator=generator)
    rows = torch.arange(height).view(1, -1, 1) + dy
    columns = torch.arange(width).view(1, 1, -1) + dx
    return padded.permute(0, 2, 3, 1)[torch.arange(n).view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Samples:
    """Samples that lie in memory as one batch, as they are: nothing is scaled or augmented.

    Attributes:
        batch: inputs and targets, each tensor of a row a sample.
    """

    batch: Batch

    def __len__(self) -> int:
        return nests.size(self.batch[0])

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        for start in range(0, len(self), size):
            yield self._at(torch.arange(start, min(start + size, len(self)))).batch

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        for picked in mixed(len(self), size, generator):
            yield self._at(picked).batch

    def head(self, count: int) -> Samples:
        """As `Split.head`."""
        return Samples(first(self.batch, count))

    def drawn(self, count: int, seed: int) -> Samples:
        """As `Draws.drawn`; each class has its share."""
        targets = self.batch[1]
        classes = targets if isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1 else ()
        return self._at(torch.from_numpy(places(count, len(self), seed, classes)))

    def cut(self, shares: Sequence[float], seed: int) -> list[Samples]:
        """Parts of these shares, which sum to 1; each sample is in one, by chance."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        ends = [round(len(self) * sum(shares[:at])) for at in range(len(shares) + 1)]
        return [self._at(order[a:b].sort().values) for a, b in itertools.pairwise(ends)]

    def _at(self, picked: Tensor) -> Samples:
        return Samples(taken(self.batch, picked))


@dataclass(frozen=True)
class Part:
    """Some samples of a split that cannot draw itself: it is read whole for them.

    Batches whose targets are no tensors of a row a sample (boxes, texts) come one sample at a time.

    Attributes:
        picked: (n,), which samples, ascending.
    """

    split: Split
    picked: Places

    def __len__(self) -> int:
        return len(self.picked)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        if by_row(next(iter(self.split.batches(size)))):
            yield from pick(self.split.batches(size), self.picked, size)
            return
        wanted = set(self.picked.tolist())
        yield from (batch for place, batch in enumerate(self.split.batches(1)) if place in wanted)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`, but nothing is augmented."""
        batches = list(self.batches(size))
        yield from (batches[at] for at in torch.randperm(len(batches), generator=generator).tolist())

    def head(self, count: int) -> Part:
        """As `Split.head`."""
        return Part(self.split, self.picked[:count])


def by_row(batch: Batch) -> bool:
    """Whether all of a batch is tensors of a row a sample."""
    count = nests.size(batch[0])
    leaves = [leaf for leaf in tree_leaves(batch) if leaf is not None]
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in leaves)


def pick(batches: Iterable[Batch], picked: Places, size: int) -> Iterator[Batch]:
    """Of all samples in `batches` those at the places `picked`, ascending, in batches of `size`."""
    seen, held = 0, None  # samples so far, and those that are picked and wait
    for batch in batches:
        count, device = nests.size(batch[0]), nests.tensors(batch[0])[0].device
        found = torch.from_numpy(picked[(picked >= seen) & (picked < seen + count)] - seen).to(device)
        seen += count
        new = taken(batch, found)
        held = new if held is None else joined(held, new)
        while nests.size(held[0]) >= size:
            yield first(held, size)
            held = mapped(held, lambda tensor: tensor[size:])
    if held is not None and nests.size(held[0]):
        yield held


@dataclass(frozen=True)
class Nothing:
    """The split that there is not, such as the training split of a Task without one.

    Attributes:
        what: is said where it is read.
    """

    what: str

    def __len__(self) -> int:
        return 0

    def batches(self, size: int) -> Iterator[Batch]:
        """Raises ConfigError."""
        raise ConfigError(self.what)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Raises ConfigError."""
        raise ConfigError(self.what)

    def head(self, count: int) -> Nothing:
        """Itself."""
        return self
