"""What the cells of FastestDet mean, and the loss that teaches them.

Each cell of the output tells of one object whose middle lies up to a cell's side from the cell's upper left corner, so
that up to four cells can tell of the same object. Those of the four whose boxes fit best are taught.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.detection import boxes

_OBJECT, _BOX, _CLASS = 16.0, 8.0, 1.0  # weights of the parts of the loss, as published
_EMPTY, _FULL = 0.75, 0.25  # of cells without and with an object in the first of them


class Cells(NamedTuple):
    """What a detector's output says.

    Attributes:
        confidence: that there is an object, in [0, 1], (n, h, w).
        boxes: (n, h, w, 4).
        classes: probabilities, (n, classes, h, w).
    """

    confidence: Tensor
    boxes: Tensor
    classes: Tensor


class Taught(NamedTuple):
    """Which cells could tell of which object, each (k,): its number; image, row and column of the cell; box (k, 4) and
    class."""

    number: Tensor
    image: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    kind: Tensor


def read(outputs: Tensor) -> Cells:
    """The cells in a detector's output, (n, 5 + classes, h, w)."""
    high, wide = outputs.shape[2:]
    rows, columns = torch.arange(high).to(outputs)[:, None], torch.arange(wide).to(outputs)
    x, y = (columns + outputs[:, 1].tanh()) / wide, (rows + outputs[:, 2].tanh()) / high
    half_wide, half_high = outputs[:, 3].sigmoid() / 2, outputs[:, 4].sigmoid() / 2
    found = torch.stack([x - half_wide, y - half_high, x + half_wide, y + half_high], -1)
    return Cells(outputs[:, 0], found, outputs[:, 5:])


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """How wrong the cells are, a scalar.

    Args:
        outputs: (n, 5 + classes, h, w).
        targets: objects, (n, most, 5).

    Of the cells that could tell of an object, those whose box is no worse than the average learn box and class; all
    cells learn to be as confident as their box is good. That is FastestDet's loss but for the likeness of boxes and the
    average: there it is one of all objects, which leaves small ones out, whose boxes are never as good as large ones'.
    """
    cells, at = read(outputs), _taught(targets, *outputs.shape[2:])
    alike = boxes.likeness(cells.boxes[at.image, at.row, at.column], at.box)
    good = alike >= _means(alike.detach(), at.number)
    wrong = [
        (1 - alike)[good],
        -cells.classes[at.image, :, at.row, at.column].clamp_min(1e-9).log()[good, at.kind[good]],
    ]
    box, kind = (part.sum() / max(len(part), 1) for part in wrong)
    return _BOX * box + _CLASS * kind + _OBJECT * _confidence(cells, at, alike.detach().clamp_min(0), good)


def _confidence(cells: Cells, at: Taught, alike: Tensor, good: Tensor) -> Tensor:
    """How far the confidence of each cell is from how good its box is; the few cells with objects count for many."""
    image, row, column = at.image[good], at.row[good], at.column[good]
    wanted = torch.zeros_like(cells.confidence)
    place = (image * wanted.shape[1] + row) * wanted.shape[2] + column
    wanted.view(-1).scatter_reduce_(0, place, alike[good], "amax")
    full = torch.zeros_like(wanted, dtype=torch.bool)
    full[image, row, column] = True
    count = full.sum((1, 2), keepdim=True).clamp_min(1)
    weight = torch.where(full, _FULL * full[0].numel() / count, _EMPTY)
    return (functional.smooth_l1_loss(cells.confidence, wanted, reduction="none") * weight).mean()


def _means(values: Tensor, number: Tensor) -> Tensor:
    """For each of `values`, (k,), the mean of those with the same number."""
    size = int(number.max()) + 1 if len(number) else 0
    sums = values.new_zeros(2, size).index_add_(1, number, torch.stack([values, torch.ones_like(values)]))
    return (sums[0] / sums[1].clamp_min(1))[number] - 1e-6


def _taught(targets: Tensor, high: int, wide: int) -> Taught:
    """The cells that could tell of each object: those whose corner is next to its middle."""
    image, number = (targets[..., 0] >= 0).nonzero(as_tuple=True)
    kind, box = targets[image, number, 0].long(), targets[image, number, 1:]
    middle = (box[:, :2] + box[:, 2:]) / 2 * box.new_tensor([wide, high])
    corners = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1)], device=box.device)
    column, row = (middle.long()[:, None] + corners).unbind(-1)  # (k, 4)
    inside = (column < wide) & (row < high)
    owner = torch.arange(len(box), device=box.device)[:, None].expand_as(inside)[inside]
    return Taught(owner, image[owner], row[inside], column[inside], box[owner], kind[owner])
