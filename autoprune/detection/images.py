"""Images with boxes, in memory, as a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.detection.boxes import area
from autoprune.splits import Batch, mixed

_ZOOM = 0.25  # training shows from 1 - this to 1 + this of each side of an image
_LIGHT = 0.2  # and makes it darker or lighter by up to this share
_SEEN = 0.3  # an object of which less is left in the picture is none


@dataclass(frozen=True)
class BoxedImages:
    """Images of one size and the objects in them.

    Attributes:
        images: uint8, (n, channels, height, width).
        objects: float32, (n, most, 5), as `autoprune.detection.boxes` says.
        augment: whether training mirrors, zooms, moves and lights images at random.
    """

    images: Tensor
    objects: Tensor
    augment: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Split.batches`: images in [0, 1]."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size].float().div_(255), self.objects[start : start + size]

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """As `Split.shuffled`."""
        for pick in mixed(len(self), size, generator):
            images, objects = self.images[pick].float().div_(255), self.objects[pick]
            yield _augmented(images, objects, generator) if self.augment else (images, objects)

    def head(self, count: int) -> BoxedImages:
        """As `Split.head`."""
        return dataclasses.replace(self, images=self.images[:count], objects=self.objects[:count])


def _augmented(images: Tensor, objects: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image mirrored either way or not, a part of it or it in a larger black picture, darker or lighter."""
    n = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    zoom = between(1 - _ZOOM, 1 + _ZOOM, 1)
    shift = between(-1, 1, 2) * (1 - zoom).abs()
    sign = 1 - 2 * (between(0, 1, 2) < 0.5).float()
    scale = zoom * sign  # where a picture shows u in [-1, 1], right and down, the image has scale u + shift
    affine = torch.cat([torch.diag_embed(scale), shift[..., None]], 2)
    shown = functional.grid_sample(
        images, functional.affine_grid(affine, list(images.shape), False), align_corners=False
    )
    return (shown * between(1 - _LIGHT, 1 + _LIGHT, 1, 1, 1)).clamp_(0, 1), _moved(objects, scale, shift)


def _moved(objects: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The objects where they are shown; without those that hardly are."""
    corners = (2 * objects[..., 1:].reshape(*objects.shape[:2], 2, 2) - 1 - shift[:, None, None]) / scale[:, None, None]
    corners = (corners.sort(2).values + 1) / 2  # (n, most, 2, 2), mirrored ones in order again
    cut = corners.clamp(0, 1).flatten(2)
    there = area(cut) >= _SEEN * area(corners.flatten(2))
    return torch.cat([torch.where(there, objects[..., 0], -1)[..., None], cut], -1)
