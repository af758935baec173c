"""Boxes: how alike two are, and which of those that lie on one another stay.

A box is four numbers, left, top, right and bottom, as shares of the image's width and height in [0, 1]. Objects of
images are one tensor, (n, most, 5): the class and the box of each, and class -1 in rows that hold none.
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union, in [0, 1], of boxes (..., 4) and (..., 4), broadcast; 0 where both are empty."""
    both = area(torch.cat([torch.maximum(one, other)[..., :2], torch.minimum(one, other)[..., 2:]], -1))
    return both / (area(one) + area(other) - both).clamp_min(1e-12)


def likeness(one: Tensor, other: Tensor) -> Tensor:
    """Generalised intersection over union, in (-1, 1], which has a gradient where boxes lie apart, too.

    Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630.
    """
    around = area(torch.cat([torch.minimum(one, other)[..., :2], torch.maximum(one, other)[..., 2:]], -1))
    found = overlaps(one, other)
    union = (area(one) + area(other)) / (1 + found)
    return found - (around - union) / around.clamp_min(1e-12)


def area(boxes: Tensor) -> Tensor:
    """Share of the image that each of (..., 4) covers; 0 of boxes that end before they begin."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def best_of_each(boxes: Tensor, classes: Tensor, most: float) -> Tensor:
    """Which boxes stay when each removes those of its class, after it, that overlap with it by more than `most`.

    Args:
        boxes: (n, k, 4), those first in which there is most confidence.
        classes: (n, k).
        most: in [0, 1].

    Returns bool, (n, k). It is non-maximum suppression for all images at once: a box stays if none that stays removes
    it. That is settled from the front, one box further each round at least, and in a few rounds for all.
    """
    count = boxes.shape[1]
    before = torch.ones(count, count, dtype=torch.bool, device=boxes.device).triu(1)
    removes = (overlaps(boxes[:, :, None], boxes[:, None]) > most) & (classes[:, :, None] == classes[:, None]) & before
    stays = torch.ones_like(classes, dtype=torch.bool)
    for _ in range(count):
        settled = ~(removes & stays[:, :, None]).any(1)
        if torch.equal(settled, stays):
            break
        stays = settled
    return stays
