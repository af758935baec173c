"""What views, slices, permutations and concatenations do to labels: the same as to the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from autoprune.inputs import tensors
from autoprune.structure import blocks, heads
from autoprune.structure.counts import Counted
from autoprune.structure.labels import PAD, Call, Nodes


def move(call: Call) -> None:
    """Views, slices, permutations, padding: do to the labels what is done to the numbers."""
    source = call.inputs[0]
    moved: list[list[Nodes | None]] = [[None] * t.dim() for t in call.outputs]
    for dim, nodes in enumerate(call.labels(source)):
        if nodes is not None:
            by_position = np.concatenate([[PAD], nodes])  # 0 is what padding puts
            for which, result in enumerate(tensors(_rerun(call, source, dim))):
                _place(call, result, by_position, moved[which])
    for which, labels in enumerate(moved):
        call.set(labels, which)
    call.flow.carry(call.outputs, call.flow.carried(source))


def slice_(call: Call) -> None:
    """As `move`; of every second channel, x[:, 0::2], two that follow one another are a unit: the rest stay in step."""
    dim, step = call.arg(1, "dim", 0), call.arg(4, "step", 1)
    nodes = call.labels(call.inputs[0])[dim]
    if nodes is not None and step > 1:
        blocks.tied(call.flow, nodes[: len(nodes) - len(nodes) % step], step)
    move(call)


def split(call: Call) -> None:
    """As `move`; chunks of one size go together, position by position: they are halves, or thirds, of what is left."""
    move(call)
    dim = call.arg(2, "dim", 0)
    if call.flow.functions.running == "chunk" and len({part.shape[dim] for part in call.outputs}) == 1:
        first, *others = (call.labels(part)[dim] for part in call.outputs)
        for nodes in others if first is not None else ():
            first = call.flow.join(first, nodes, "is split from fixed values")


def _rerun(call: Call, source: Tensor, dim: int) -> Any:
    """The operator on a `source` that says everywhere at which position of dimension `dim` it is, counted from 1."""

    def spread(tensor: Tensor) -> Tensor:
        if tensor is not source:
            return tensor  # which positions to take
        positions = torch.arange(1, tensor.shape[dim] + 1, dtype=torch.int32)
        positions = positions.view([-1 if d == dim else 1 for d in range(tensor.dim())])
        return torch.empty_like(tensor, dtype=torch.int32).copy_(positions)  # strides as they are: views need them

    args, kwargs = tree_map_only(Tensor, spread, (call.args, call.kwargs))
    return call.func(*args[:2], **kwargs) if call.op == "constant_pad_nd" else call.func(*args, **kwargs)  # zeros


def _place(call: Call, result: Tensor, by_position: Nodes, labels: list[Nodes | None]) -> None:
    """Label the one dimension along which the positions in `result` vary; pin their nodes if it is not one."""
    if not result.numel():
        return
    varying, block = _varying(result)
    nodes = np.asarray(by_position[block.numpy()])
    differing, line = _varying(torch.from_numpy(nodes))
    if differing:  # where all are one unit, the positions say which dimension it is
        varying, nodes = [varying[d] for d in differing], line.numpy()
    place = varying[0] if len(varying) == 1 else None
    if len(varying) > 1 and call.op in ("view", "_unsafe_view", "reshape"):
        place, nodes = blocks.unflattened(call, nodes, varying) or (None, nodes)
    if place is not None and labels[place] is None:
        labels[place] = nodes
    else:
        mixed = by_position[np.unique(result.numpy())]
        call.flow.pin((mixed,), f"is rearranged by {call.what} in a way that mixes channels")


def _varying(result: Tensor) -> tuple[list[int], Tensor]:
    """The dimensions along which the numbers in `result` vary, and them along these alone."""
    for look in (_from_corner, _everywhere):
        varying = look(result)
        block = result[tuple(slice(None) if d in varying else slice(1) for d in range(result.dim()))]
        if bool((result == block).all()):
            break
    return varying, block.reshape([result.shape[d] for d in varying])


def _from_corner(result: Tensor) -> list[int]:
    """Those that vary on the way from the first position: mostly all, and quickly found."""
    lines = (result[tuple(slice(None) if d == one else 0 for d in range(result.dim()))] for one in range(result.dim()))
    return [d for d, line in enumerate(lines) if bool((line != line[0]).any())]


def _everywhere(result: Tensor) -> list[int]:
    return [d for d in range(result.dim()) if bool((result != result.narrow(d, 0, 1)).any())]


def expand(call: Call) -> None:
    """Repeats what has one position: a statistic over channels may be written out for each of them."""
    source, out = call.inputs[0], call.outputs[0]
    labels = (*(None,) * (out.dim() - source.dim()), *call.labels(source))
    sizes = (*(0,) * (out.dim() - source.dim()), *source.shape)
    widened = [d for d, (size, wide) in enumerate(zip(sizes, out.shape, strict=True)) if size != wide]
    found = [None if d in widened else nodes for d, nodes in enumerate(labels)]
    said = heads.written(call, out)
    for d in widened:
        nodes = labels[d]
        if nodes is not None and call.flow.is_statistic(nodes):
            found[d] = np.repeat(nodes, out.shape[d])
        elif len(widened) == 1 and (carried := call.flow.carried(source)):
            found[d] = np.repeat(carried[0], out.shape[d])
        elif nodes is None and isinstance(said[d : d + 1] and said[d], Counted):
            found[d] = call.flow.fresh(out.shape[d])
    call.set(found)
    call.flow.carry(call.outputs, call.flow.carried(source))


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
