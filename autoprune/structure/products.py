"""What convolutions and matrix products do to labels, and what their MACs are proportional to."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from autoprune.structure.labels import PAD, Call, Geometry, Nodes


def convolution(call: Call) -> None:
    """Kernel (out, in / groups, ...), or transposed (in, out / groups, ...); channels are the input's dimension 1."""
    inputs, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    transposed, groups = call.arg(6, "transposed", False), call.arg(8, "groups", 1)
    flow, labels, kernel = call.flow, call.labels(inputs), call.labels(weight)
    rows, columns = (kernel[1], kernel[0]) if transposed else (kernel[0], kernel[1])
    channel = inputs.dim() - (weight.dim() - 1)
    flow.pin(labels[channel + 1 :], "is slid over by a convolution")
    flow.pin(kernel[2:], "is a dimension of a kernel")
    if groups == 1:
        flow.join(labels[channel], columns, "reads the network's input or fixed values")
        _roles(call, weight, rows, columns)
        out = rows
    else:
        out = _blocks(call, labels[channel], columns if transposed else rows, rows if transposed else columns, groups)
        if transposed and out is not None:
            flow.pin((out,), "is a grouped transposed convolution")
            out = None
        flow.produced.append(out) if out is not None and flow.is_weight(weight) else None
    if bias is not None:
        flow.join(out, call.labels(bias)[0], "has a fixed bias")
    call.set((*labels[:channel], out, *(None,) * (weight.dim() - 2)))


def _blocks(call: Call, inputs: Nodes | None, blocked: Nodes | None, shared: Nodes | None, groups: int) -> Nodes | None:
    """A grouped convolution loses whole groups: block i of the inputs with block i of the outputs."""
    call.flow.pin((shared,), "is shared by the groups of a convolution")
    if inputs is None or blocked is None:
        call.flow.pin((inputs, blocked), "passes a grouped convolution of fixed channels")
        return None
    if (inputs == PAD).any():
        call.flow.pin((inputs, blocked), "passes a grouped convolution over padded channels")
        return blocked
    heads = inputs.reshape(groups, -1)[:, :1]  # (groups, 1)
    for side in (inputs.reshape(groups, -1), blocked.reshape(groups, -1)):
        call.flow.joins.append((np.broadcast_to(heads, side.shape).ravel(), side.ravel()))
    return blocked


def _roles(call: Call, weight: Tensor, produced: Nodes | None, consumed: Nodes | None) -> None:
    if call.flow.is_weight(weight):
        for nodes, role in ((produced, call.flow.produced), (consumed, call.flow.consumed)):
            if nodes is not None:
                role.append(nodes)


def matmul(call: Call) -> None:
    """a (..., n, k) @ b (..., k, m), with or without something added."""
    *added, left, right = call.args[:3] if call.op in ("addmm", "baddbmm", "addmv") else call.args[:2]
    a, b = call.labels(left), call.labels(right)
    call.flow.join(a[-1], b[0] if right.dim() == 1 else b[-2], "is multiplied with fixed values")
    inner = b[0] if right.dim() == 1 else b[-2]
    batch = [call.flow.join(x, y, "is a batch of matrices") if x is not None or y is not None else None
             for x, y in zip(a[:-2], b[:-2], strict=False)]  # fmt: skip
    if not call.flow.is_weight(left) and not call.flow.is_weight(right):
        call.flow.heads.extend(nodes for nodes in batch if nodes is not None)
    out = [*batch, a[-2] if left.dim() > 1 else None, *([b[-1]] if right.dim() > 1 else [])]
    _roles(call, right, b[-1] if right.dim() > 1 else None, inner)
    _roles(call, left, a[-2] if left.dim() > 1 else None, a[-1])
    call.set(out)
    for term in added:
        for position in range(1, term.dim() + 1):
            ours, theirs = out[-position], call.labels(term)[-position]
            if term.shape[-position] > 1 and (ours is not None or theirs is not None):
                call.flow.join(ours, theirs, "has a fixed bias")


def linear(call: Call) -> None:
    """Features are the last dimension; a kernel is (out, in)."""
    inputs, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    labels, (rows, columns) = call.labels(inputs), call.labels(weight)
    call.flow.join(labels[-1], columns, "reads the network's input or fixed values")
    _roles(call, weight, rows, columns)
    if bias is not None:
        call.flow.join(rows, call.labels(bias)[0], "has a fixed bias")
    call.set((*labels[:-1], rows))


def embedding(call: Call) -> None:
    """Rows of a table, which is (words, features)."""
    rows, columns = call.labels(call.args[0])
    call.flow.pin((rows,), "is a vocabulary")
    if columns is not None:
        call.flow.produced.append(columns)
    call.set((*call.labels(call.args[1]), columns))


def scales(call: Call) -> list[tuple[Tensor, int]]:
    """The tensors and dimensions that the MACs of `call` are proportional to; the rest of them is constant."""
    if call.op in ("convolution", "_convolution"):
        return [(call.args[1], 0), (call.args[1], 1)]
    if call.op in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot"):
        left, right = _factors(call)
        return [(left, d) for d in range(left.dim())] + [(right, d) for d in range(1, right.dim())][-1:]
    return []


def geometry(call: Call) -> tuple[Geometry, str]:
    """Of a convolution over pixels (the last two dimensions); a matrix product is one over a single pixel.

    And what kind of operator it is: those of one kind differ in their channels only.
    """
    if call.op not in ("convolution", "_convolution"):
        left, _ = _factors(call)
        return (left.shape[-1], 1, 1, 1, 1), "matrix product"
    inputs, weight = call.args[:2]
    spatial = weight.dim() - 2
    channels, (height, width) = inputs.shape[-spatial - 1], (1, 1, *inputs.shape[-spatial:])[-2:]
    groups, stride, kernel = call.arg(8, "groups", 1), max(call.args[3]), "x".join(map(str, weight.shape[2:]))
    grouped = "" if groups == 1 else "depthwise " if groups == channels else "grouped "
    kind = f"{grouped}conv {kernel}/{stride} @ {height}x{width}"
    return (channels, height, width, stride, max(weight.shape[2:])), kind


def _factors(call: Call) -> tuple[Tensor, Tensor]:
    left, right = call.args[1:3] if call.op in ("addmm", "baddbmm", "addmv") else call.args[:2]
    return left, right
