"""What views, slices, permutations and concatenations do to labels: the same as to the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from autoprune.inputs import tensors
from autoprune.structure import blocks
from autoprune.structure.labels import Call, Nodes


def move(call: Call) -> None:
    """Views, slices, permutations, padding: do to the labels what is done to the numbers."""
    source = call.inputs[0]
    moved: list[list[Nodes | None]] = [[None] * t.dim() for t in call.outputs]
    for dim, nodes in enumerate(call.labels(source)):
        if nodes is not None:
            for which, result in enumerate(tensors(_rerun(call, source, dim, nodes))):
                _place(call, result, moved[which])
    for which, labels in enumerate(moved):
        call.set(labels, which)


def _rerun(call: Call, source: Tensor, dim: int, nodes: Nodes) -> Any:
    """The operator on a `source` that holds, at every position, the node of dimension `dim`."""

    def spread(tensor: Tensor) -> Tensor:
        if tensor is not source:
            return tensor  # which positions to take
        values = torch.from_numpy(nodes).view([-1 if d == dim else 1 for d in range(tensor.dim())])
        return torch.empty_like(tensor, dtype=torch.int64).copy_(values)  # strides as they are: views depend on them

    args, kwargs = tree_map_only(Tensor, spread, (call.args, call.kwargs))
    return call.func(*args, **kwargs)


def _place(call: Call, result: Tensor, labels: list[Nodes | None]) -> None:
    """Find the one dimension along which the nodes in `result` vary; pin them if there are several or none."""
    if not result.numel():
        return
    varying = [d for d in range(result.dim()) if bool((result != result.narrow(d, 0, 1)).any())]
    line = result[tuple(slice(None) if d in varying else 0 for d in range(result.dim()))]
    nodes = line.numpy().astype(np.int64, copy=True)
    place = varying[0] if len(varying) == 1 else None
    if len(varying) > 1 and call.op in ("view", "_unsafe_view", "reshape"):
        place, nodes = blocks.unflattened(call, nodes, varying) or (None, nodes)
    if place is not None and labels[place] is None:
        labels[place] = nodes
    else:
        call.flow.pin((np.unique(result.numpy()),), f"is rearranged by {call.what} in a way that mixes channels")


def expand(call: Call) -> None:
    """Repeats what has one position: a statistic over channels may be written out for each of them."""
    source, out = call.inputs[0], call.outputs[0]
    labels = (*(None,) * (out.dim() - source.dim()), *call.labels(source))
    sizes = (*(0,) * (out.dim() - source.dim()), *source.shape)
    found: list[Nodes | None] = []
    for nodes, size, wide in zip(labels, sizes, out.shape, strict=True):
        written_out = nodes is not None and size != wide and call.flow.is_statistic(nodes)
        found.append(np.repeat(nodes, wide) if written_out and nodes is not None else nodes if size == wide else None)
    call.set(found)


def cat(call: Call) -> None:
    """Along the dimension of the concatenation labels follow one another; along the others they are joined."""
    joined: Sequence[Tensor] = [t for t in call.args[0] if t.numel()]
    dim = call.arg(1, "dim", 0) % call.outputs[0].dim()
    labels: list[Nodes | None] = []
    for d in range(call.outputs[0].dim()):
        parts = [call.labels(t)[d] for t in joined]
        if all(p is None for p in parts):
            labels.append(None)
        elif d == dim:
            sized = [np.zeros(t.shape[d], np.int64) if p is None else p for p, t in zip(parts, joined, strict=True)]
            labels.append(np.concatenate(sized))
        else:
            joint = parts[0]
            for part in parts[1:]:
                joint = call.flow.join(joint, part, "is concatenated with fixed values")
            labels.append(joint)
    call.set(labels)


def stack(call: Call) -> None:
    """Branches lie side by side along a new dimension; along the others they are joined."""
    stacked: Sequence[Tensor] = call.args[0]
    labels: list[Nodes | None] = []
    for d in range(stacked[0].dim()):
        parts = [call.labels(t)[d] for t in stacked]
        joint = parts[0]
        for part in parts[1:] if any(part is not None for part in parts) else ():
            joint = call.flow.join(joint, part, "is stacked with fixed values")
        labels.append(joint)
    labels.insert(call.arg(1, "dim", 0) % call.outputs[0].dim(), None)
    call.set(labels)


def packed(call: Call) -> None:
    """A padded batch (b, t, ...) as the rows of a packed sequence (rows, ...)."""
    labels = call.labels(call.args[0])
    call.flow.pin(labels[:2], "is packed into a sequence")
    call.set((None, *labels[2:]))


def relayout(call: Call) -> None:
    """The same numbers with other strides; anything else that strides can do is not followed."""
    if call.outputs[0].shape == call.inputs[0].shape:
        call.set(call.labels(call.inputs[0]))
    else:
        unknown(call)


def unknown(call: Call) -> None:
    """Nothing is known of it, so nothing that enters may leave."""
    for tensor in call.inputs:
        call.flow.pin(call.labels(tensor), f"passes through {call.what}, which cannot be followed")
