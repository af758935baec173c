"""What normalisations, sums, means and pooling do to labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from autoprune.structure import blocks
from autoprune.structure.labels import Call, Nodes


def batch_norm(call: Call) -> None:
    """Each channel is normalised by itself."""
    labels = call.labels(call.args[0])
    channel: Nodes | None = labels[1]
    for vector in call.args[1:5]:
        if isinstance(vector, Tensor):
            channel = call.flow.join(channel, call.labels(vector)[0], "is normalised with fixed values")
    call.set((labels[0], channel, *labels[2:]))
    for which, out in enumerate(call.outputs[1:], start=1):
        if out.shape == call.args[0].shape[1:2]:
            call.set((channel,), which)


def layer_norm(call: Call) -> None:
    """What is normalised together changes when some of it leaves, see `Flow.renormalised`."""
    labels = list(call.labels(call.args[0]))
    first = len(labels) - len(call.args[1])
    for vector in call.args[2:4]:
        if isinstance(vector, Tensor):
            for dim, nodes in enumerate(call.labels(vector), start=first):
                labels[dim] = call.flow.join(labels[dim], nodes, "is normalised with fixed values")
    call.flow.renormalised.extend(nodes for nodes in labels[first:] if nodes is not None)
    call.set(labels)


def group_norm(call: Call) -> None:
    """Whole groups of a GroupNorm leave together, which changes nobody else's statistics."""
    labels, groups = list(call.labels(call.args[0])), int(call.args[6])
    for vector in call.args[1:3]:
        if isinstance(vector, Tensor):
            labels[1] = call.flow.join(labels[1], call.labels(vector)[0], "is normalised with fixed values")
    channel = labels[1]
    if channel is not None and groups == 1:
        call.flow.renormalised.append(channel)
    elif channel is not None:
        block = channel.reshape(groups, -1)  # (groups, channels of a group)
        call.flow.joins.append((np.broadcast_to(block[:, :1], block.shape).ravel(), block.ravel()))
        for which in range(1, len(call.outputs)):  # means and spreads, (n, groups)
            call.set((labels[0], block[:, 0]), which)
    call.set(labels)


def reduce(call: Call) -> None:
    """Sums, means and the like: what is reduced over cannot be removed, but for a normalisation, see `statistic`."""
    source, out = call.inputs[0], call.outputs[0]
    labels = list(call.labels(source))
    dims = call.arg(2 if call.op == "linalg_vector_norm" else 1, "dim")
    over = range(source.dim()) if dims is None or dims == [] else [d % source.dim() for d in _as_list(dims)]
    why = f"is reduced over by {call.what}"
    if out.dim() == source.dim():
        kept = [
            nodes if d not in over else _statistic(call, nodes, out.shape[d], why) for d, nodes in enumerate(labels)
        ]
    else:
        lost = (_statistic(call, labels[d], 1, why) for d in over)
        call.flow.carry(call.outputs, tuple(one for one in lost if one is not None))
        kept = [nodes for d, nodes in enumerate(labels) if d not in over]
    for which in range(len(call.outputs)):
        call.set(kept, which)


def _statistic(call: Call, nodes: Nodes | None, size: int, why: str) -> Nodes | None:
    if nodes is None or size > 1 or not call.outputs[0].is_floating_point():
        call.flow.pin([nodes], why)
        return None
    return call.flow.statistic(nodes, why, call.outputs[0])


def _as_list(dims: int | Sequence[int]) -> Sequence[int]:
    return [dims] if isinstance(dims, int) else dims


def spatial(dims: int) -> Callable[[Call], None]:
    """Pooling and resizing over the last `dims` dimensions."""

    def handle(call: Call) -> None:
        labels = call.labels(call.inputs[0])
        call.flow.pin(labels[-dims:], f"is pooled over by {call.what}")
        for which, out in enumerate(call.outputs):
            call.set((*labels[: out.dim() - dims], *(None,) * dims), which)

    return handle


def average(dims: int) -> Callable[[Call], None]:
    """Means over windows in the last `dims` dimensions; of channels, where local response normalisation does so."""
    pooled = spatial(dims)

    def handle(call: Call) -> None:
        source, out = call.inputs[0], call.outputs[0]
        labels, kernel = list(call.labels(source)), list(call.args[1])
        middle = blocks.neighbours(call.flow, labels[-dims], int(kernel[0])) if set(kernel[1:]) == {1} else None
        if middle is None or len(middle) != out.shape[-dims]:
            pooled(call)
        else:
            call.set((*labels[:-dims], middle, *labels[1 - dims :]))

    return handle
