"""Operators that pick, put or add rows by their numbers, such as the tokens of an expert.

What the numbers count cannot be removed; the other dimensions are as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune.structure.labels import Call, Labels, Nodes

_WHY = "is indexed by numbers that the network computes"


def index(call: Call) -> None:
    """`x[i]`, `x[:, i]`, `x[mask]`."""
    call.set(_picked(call, call.args[0], call.args[1]))


def index_put(call: Call) -> None:
    """`x[i] = values`: along what is not indexed, the values go with `x`."""
    target, indices, values = call.args[:3]
    _meet(call, _picked(call, target, indices), call.labels(values), values)
    call.set(call.labels(target))


def index_add(call: Call) -> None:
    """(x, dim, rows, source): rows of the source are added to, or put over, rows of `x`."""
    _along(call, call.args[0], call.args[1], call.args[3])


def scatter(call: Call) -> None:
    """(x, dim, numbers, source): each number says where along `dim` an element goes."""
    _along(call, call.args[0], call.args[1], call.args[3])


def gather(call: Call) -> None:
    """(x, dim, numbers): each number says where along `dim` an element comes from."""
    source, dim = call.args[0], call.args[1] % max(1, call.args[0].dim())
    labels = list(call.labels(source))
    call.flow.pin([labels[dim]], _WHY)
    out = call.outputs[0]
    call.set([nodes if d != dim and out.shape[d] == source.shape[d] else None for d, nodes in enumerate(labels)])


def order(call: Call) -> None:
    """Sorting and the largest few, along one dimension."""
    labels, last = list(call.labels(call.args[0])), -1
    place = {"sort": 1, "argsort": 1, "topk": 2, "kthvalue": 2}[call.op]
    dim = call.arg(place, "dim", last)
    if isinstance(dim, bool):  # sort.stable has its dimension by name
        dim = call.kwargs.get("dim", last)
    if labels:
        call.flow.pin([labels[dim]], f"is put in an order by {call.what}")
        labels[dim] = None
    for which in range(len(call.outputs)):
        call.set(labels, which)


def _picked(call: Call, source: Tensor, indices: Sequence[Tensor | None]) -> Labels:
    """The labels of `source[indices]`; what an index takes the place of is pinned."""
    labels = call.labels(source)
    kept: list[tuple[int, Nodes | None]] = []
    taken: list[int] = []
    at = 0
    for one in indices:
        if one is None:
            kept.append((at, labels[at]))
            at += 1
        else:
            width = one.dim() if one.dtype in (torch.bool, torch.uint8) else 1
            taken += range(at, at + width)
            at += width
    kept += list(enumerate(labels[at:], start=at))
    call.flow.pin([labels[d] for d in taken], _WHY)
    masks = [one for one in indices if one is not None]
    width = max((1 if m.dtype in (torch.bool, torch.uint8) else m.dim() for m in masks), default=0)
    together = taken == list(range(taken[0], taken[0] + len(taken))) if taken else True
    before = [nodes for d, nodes in kept if together and taken and d < taken[0]]
    after = [nodes for d, nodes in kept if not (together and taken and d < taken[0])]
    return (*before, *(None,) * width, *after)


def _along(call: Call, target: Tensor, dim: int, source: Tensor | float) -> None:
    labels = list(call.labels(target))
    dim = dim % max(1, len(labels))
    call.flow.pin([labels[dim]], _WHY)
    if isinstance(source, Tensor):
        theirs = list(call.labels(source))
        call.flow.pin([theirs[dim]], _WHY)
        labels[dim] = theirs[dim] = None
        _meet(call, tuple(labels), tuple(theirs), source)
    call.set(labels)


def _meet(call: Call, ours: Labels, theirs: Labels, source: Tensor) -> None:
    """Join the labels of what is put with those of where, from the last dimension on."""
    for position in range(1, min(len(ours), len(theirs)) + 1):
        one, other = ours[-position], theirs[-position]
        if source.shape[-position] > 1 and (one is not None or other is not None):
            call.flow.join(one, other, "is put among fixed values")
