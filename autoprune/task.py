"""A task: a trained network, its images in three splits, and the metric that judges it.

`train` is what finetuning and calibration may look at; `holdout` is cut from the training images and scores the
search; `test` is read once, by the report. Any map-style `torch.utils.data.Dataset` of (input, target) pairs will do
as a split; `Images` is the fast one, a whole data set in memory. What the network takes is said in `autoprune.inputs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from autoprune.inputs import Inputs, call

Batch = tuple[Inputs, Any]  # what the network takes, and what its outputs are compared with


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


Metric = Callable[[nn.Module, Split], float]
Loss = Callable[[Any, Any], Tensor]  # outputs, targets


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
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, max(len(self) - size, 0) + 1, size):
            pick = order[start : start + size]
            yield self._augment(self._scale(self.images[pick]), generator), self.labels[pick]

    def head(self, count: int) -> Images:
        """As `Split.head`."""
        return dataclasses.replace(self, images=self.images[:count], labels=self.labels[:count])

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
class DatasetSplit:
    """Any map-style data set of (input, target) pairs as a split. It does its own scaling and augmentation."""

    dataset: Dataset[Any]
    workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`."""
        yield from DataLoader(self.dataset, size, num_workers=self.workers)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        short = len(self) < size
        yield from DataLoader(
            self.dataset, size, shuffle=True, generator=generator, num_workers=self.workers, drop_last=not short
        )

    def head(self, count: int) -> DatasetSplit:
        """As `Split.head`."""
        return dataclasses.replace(self, dataset=Subset(self.dataset, range(min(count, len(self)))))


def top1(model: nn.Module, split: Split) -> float:
    """Share of samples whose largest logit is the target's, in [0, 1]."""
    return accuracy(model, split.batches(250))


def accuracy(model: nn.Module, batches: Any) -> float:
    """Top-1 over an iterable of batches, in [0, 1]. Leaves the model in eval mode."""
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for inputs, targets in batches:
            right += int((call(model, inputs).argmax(1) == targets).sum())
            total += len(targets)
    return right / total


@dataclass(frozen=True)
class Task:
    """What is to be pruned, and how its quality is judged.

    Attributes:
        model: the trained network; never changed.
        example: one input batch as the network takes it, a tensor (n, ...), a tuple or a mapping of them; its size is
            the size costs are counted at.
        train, holdout, test: splits, or map-style data sets of (input, target) pairs.
        metric: (model, split) -> quality, higher is better; the default is top-1 accuracy in [0, 1].
        loss: (outputs, targets) -> scalar, for finetuning and gradients.
        name: for run directories and reports.
        rebuild: "task:model" of a built-in architecture, so that `autoprune.load` needs no code; empty otherwise.
        holdout_seen: whether the network was trained on the holdout, which then flatters it. Reports say so.
    """

    model: nn.Module
    example: Inputs
    train: Split
    holdout: Split
    test: Split
    metric: Metric = top1
    loss: Loss = nn.functional.cross_entropy
    name: str = "task"
    metric_name: str = "top-1"
    rebuild: str = ""
    holdout_seen: bool = False

    def __post_init__(self) -> None:
        for field in ("train", "holdout", "test"):
            split = getattr(self, field)
            if not isinstance(split, Split):
                object.__setattr__(self, field, DatasetSplit(split))
