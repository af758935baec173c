"""Operators whose units are blocks of channels, such as the r x r channels that a pixel shuffle makes one of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.structure import heads
from autoprune.structure.counts import Counted
from autoprune.structure.labels import PAD, Call, Flow, Nodes


def pixel_shuffle(call: Call) -> None:
    """(..., c r r, h, w) to (..., c, h r, w r): the r x r channels of one output are a unit."""
    labels, square = call.labels(call.args[0]), int(call.args[1]) ** 2
    call.flow.pin(labels[-2:], "are pixels that channels are shuffled into")
    call.set((*labels[:-3], tied(call.flow, labels[-3], square), None, None))


def pixel_unshuffle(call: Call) -> None:
    """(..., c, h r, w r) to (..., c r r, h, w): each channel becomes r x r of its own."""
    labels, square = call.labels(call.args[0]), int(call.args[1]) ** 2
    call.flow.pin(labels[-2:], "are pixels that are shuffled into channels")
    call.set((*labels[:-3], repeated(labels[-3], square), None, None))


def channel_shuffle(call: Call) -> None:
    """(n, g c, ...): channel i of each group is a unit, so that groups stay alike; they are then interleaved."""
    labels, groups = list(call.labels(call.args[0])), int(call.args[1])
    if labels[1] is not None:
        first = _joined(call.flow, labels[1].reshape(groups, -1).T)
        labels[1] = None if first is None else np.repeat(first, groups)
    call.set(labels)


def unfold(call: Call) -> None:
    """`functional.unfold`, (n, c, h, w) to (n, c k k, places): each channel becomes a column for each pixel."""
    labels, kernel = call.labels(call.args[0]), math.prod(call.args[1])
    call.flow.pin(labels[-2:], "is unfolded into columns")
    call.set((*labels[:-3], repeated(labels[-3], kernel), None))


def fold(call: Call) -> None:
    """`functional.fold`, (n, c k k, places) to (n, c, h, w): the columns of one channel are a unit."""
    labels, kernel = call.labels(call.args[0]), math.prod(call.args[2])
    call.flow.pin(labels[-1:], "is folded into pixels")
    call.set((*labels[:-2], tied(call.flow, labels[-2], kernel), None, None))


def glu(call: Call) -> None:
    """One half gates the other: position i of both is a unit."""
    labels = list(call.labels(call.args[0]))
    dim = call.arg(1, "dim", -1) % len(labels)
    nodes = labels[dim]
    if nodes is not None:
        value, gate = np.split(nodes, 2)
        labels[dim] = call.flow.join(value, gate, "gates fixed values")
    call.set(labels)


def unflattened(call: Call, block: Nodes, dims: list[int]) -> tuple[int, Nodes] | None:
    """Of one dimension that a view has split into `dims`: which of them has the units, and a node of each.

    `block` holds the nodes along these. What belongs to one index of that dimension is a unit. That is, of an image
    (n, c, h, w) the channels; else the first dimension that is a module's number of heads; or that is written -1; or
    that is another number of a module, but for pixels; or the largest. Whether that is right, the proof says. None
    where it cannot be.
    """
    if (block == PAD).any():
        return None
    out = call.outputs[0]
    asked = heads.written(call, out) or (call.args[1] if len(call.args) > 1 else ())
    whole = len(dims) >= 3 and len(dims) == out.dim() - 1
    said = [asked[dim] if len(asked) > dim else 0 for dim in dims]
    chosen = 0 if whole else _shrinking(said, block.shape, last=dims[-1] == out.dim() - 1)
    nodes = _joined(call.flow, np.moveaxis(block, chosen, 0).reshape(block.shape[chosen], -1))
    if nodes is None:
        return None
    if not whole:
        call.flow.split.append((call.flow.places.names()[-1], nodes, math.prod(block.shape[chosen + 1 :])))
    return dims[chosen], nodes


def _shrinking(said: Sequence[int], sizes: Sequence[int], *, last: bool) -> int:
    """Which of several dimensions can shrink, as the code says them; `last`, whether they are the last of all."""
    counted = {place: size for place, size in enumerate(said) if isinstance(size, Counted)}
    of_heads = [place for place, size in counted.items() if heads.says_heads(size.attribute)]
    others = list(counted) if last else []
    free = [place for place, size in enumerate(said) if size == -1]
    return [*of_heads, *free, *others, int(np.argmax(sizes))][0]


def tied(flow: Flow, nodes: Nodes | None, size: int) -> Nodes | None:
    """The first node of each run of `size`, which go together."""
    return None if nodes is None else _joined(flow, nodes.reshape(-1, size))


def repeated(nodes: Nodes | None, times: int) -> Nodes | None:
    """Each node, `times` times in a row."""
    return None if nodes is None else np.repeat(nodes, times)


def _joined(flow: Flow, units: Nodes) -> Nodes | None:
    """Join each row of `units`, (units, positions); the first of each."""
    first = np.ascontiguousarray(units[:, 0])
    joint = flow.join(np.repeat(first, units.shape[1]), np.ascontiguousarray(units).ravel(), "")
    return None if joint is None else joint.reshape(units.shape)[:, 0]


def neighbours(flow: Flow, nodes: Nodes | None, kernel: int) -> Nodes | None:
    """Of a mean over `kernel` neighbours of padded channels, as local response normalisation takes it: the channels.

    Those that leave change the statistics of their neighbours. None where the padding is another.
    """
    before, after = kernel // 2, (kernel - 1) // 2
    if nodes is None or len(nodes) <= before + after:
        return None
    middle = nodes[before : len(nodes) - after]
    if (middle == PAD).any() or (nodes[:before] != PAD).any() or (nodes[len(nodes) - after :] != PAD).any():
        return None
    flow.renormalised.append(middle)
    return middle
