"""What each operator does to the labels of `structure.labels`: passes them on, joins them, or pins them.

One function a family of ATen operators. To follow one more, add its name to `HANDLERS`; what is not there and is not
marked pointwise by torch pins all that passes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from autoprune.inputs import tensors
from autoprune.structure.labels import PAD, Call, Geometry, Nodes


def handler(func: Any, op: str) -> Callable[[Call], None]:
    """What `func`, of the name `op`, does to labels."""
    return HANDLERS.get(op, _pointwise if _is_pointwise(func, op) else _unknown)


def scales(call: Call) -> list[tuple[Tensor, int]]:
    """The tensors and dimensions that the MACs of `call` are proportional to; the rest of them is constant."""
    if call.op in ("convolution", "_convolution"):
        return [(call.args[1], 0), (call.args[1], 1)]
    if call.op in ("mm", "addmm", "bmm", "baddbmm"):
        *_, left, right = call.args[:3] if call.op in ("addmm", "baddbmm") else call.args[:2]
        return [(left, d) for d in range(left.dim())] + [(right, right.dim() - 1)]
    return []


def geometry(call: Call) -> tuple[Geometry, str]:
    """Of a convolution over pixels (the last two dimensions); a matrix product is one over a single pixel.

    And what kind of operator it is: those of one kind differ in their channels only.
    """
    if call.op not in ("convolution", "_convolution"):
        *_, left, _ = call.args[:3] if call.op in ("addmm", "baddbmm") else call.args[:2]
        return (left.shape[-1], 1, 1, 1, 1), "matrix product"
    inputs, weight = call.args[:2]
    spatial = weight.dim() - 2
    channels, (height, width) = inputs.shape[-spatial - 1], (1, 1, *inputs.shape[-spatial:])[-2:]
    groups, stride, kernel = call.arg(8, "groups", 1), max(call.args[3]), "x".join(map(str, weight.shape[2:]))
    grouped = "" if groups == 1 else "depthwise " if groups == channels else "grouped "
    kind = f"{grouped}conv {kernel}/{stride} @ {height}x{width}"
    return (channels, height, width, stride, max(weight.shape[2:])), kind


def _is_pointwise(func: Any, op: str) -> bool:
    functional = getattr(torch.ops.aten, op, None)
    overloads = [func] if functional is None else [func, getattr(functional, functional.overloads()[0])]
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def _unknown(call: Call) -> None:
    for tensor in call.inputs:
        call.flow.pin(call.labels(tensor), f"passes through {call.op}, which cannot be followed")


def _pointwise(call: Call) -> None:
    """Output positions depend on the same positions of the inputs, broadcast."""
    for which, out in enumerate(call.outputs):
        labels = [_aligned(call, out, out.dim() - 1 - dim) for dim in range(out.dim())]
        call.set(labels, which)


def _aligned(call: Call, out: Tensor, from_right: int) -> Nodes | None:
    """The joint labels of all inputs along the dimension of `out` counted from the right."""
    size = out.shape[out.dim() - 1 - from_right]
    fit = [t for t in call.inputs if t.dim() > from_right and t.shape[t.dim() - 1 - from_right] == size]
    found = [call.labels(t)[t.dim() - 1 - from_right] for t in fit]
    if all(nodes is None for nodes in found):
        return None
    joint = found[0]
    for nodes in found[1:]:
        joint = call.flow.join(joint, nodes, f"meets fixed values in {call.op}")
    return joint


def _move(call: Call) -> None:
    """Views, slices, permutations, padding: do to the labels what is done to the numbers."""
    moved: list[list[Nodes | None]] = [[None] * t.dim() for t in call.outputs]
    for dim in range(call.inputs[0].dim()):
        if any(call.labels(t)[dim] is not None for t in call.inputs):
            for which, result in enumerate(tensors(_rerun(call, dim))):
                _place(call, result, moved[which])
    for which, labels in enumerate(moved):
        call.set(labels, which)


def _rerun(call: Call, dim: int) -> Any:
    """The operator on tensors that hold, at every position, the node of dimension `dim`."""

    def spread(tensor: Tensor) -> Tensor:
        nodes = call.labels(tensor)[dim]
        shape = [1] * tensor.dim()
        shape[dim] = tensor.shape[dim]
        values = torch.zeros(shape, dtype=torch.int64) if nodes is None else torch.from_numpy(nodes).view(shape)
        return torch.empty_like(tensor, dtype=torch.int64).copy_(values)  # strides as they are: views depend on them

    args, kwargs = tree_map_only(Tensor, spread, (call.args, call.kwargs))
    return call.func(*args, **kwargs)


def _place(call: Call, result: Tensor, labels: list[Nodes | None]) -> None:
    """Find the one dimension along which the nodes in `result` vary; pin them if there are several or none."""
    if not result.numel():
        return
    varying = [d for d in range(result.dim()) if bool((result != result.narrow(d, 0, 1)).any())]
    if len(varying) == 1 and labels[varying[0]] is None:
        index = [0] * result.dim()
        line = result[tuple(slice(None) if d == varying[0] else i for d, i in enumerate(index))]
        labels[varying[0]] = line.numpy().astype(np.int64, copy=True)
    else:
        call.flow.pin((np.unique(result.numpy()),), f"is rearranged by {call.op} in a way that mixes channels")


def _cat(call: Call) -> None:
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


def _reduce(call: Call) -> None:
    """Sums, means and the like: what is reduced over cannot be removed."""
    source, out = call.inputs[0], call.outputs[0]
    labels = list(call.labels(source))
    dims = call.arg(1, "dim")
    over = range(source.dim()) if dims is None or dims == [] else [d % source.dim() for d in _as_list(dims)]
    call.flow.pin([labels[d] for d in over], f"is reduced over by {call.op}")
    if out.dim() == source.dim():
        kept = [None if d in over else nodes for d, nodes in enumerate(labels)]
    else:
        kept = [nodes for d, nodes in enumerate(labels) if d not in over]
    for which in range(len(call.outputs)):
        call.set(kept, which)


def _as_list(dims: int | Sequence[int]) -> Sequence[int]:
    return [dims] if isinstance(dims, int) else dims


def _spatial(dims: int) -> Callable[[Call], None]:
    """Pooling and resizing over the last `dims` dimensions."""

    def handle(call: Call) -> None:
        labels = call.labels(call.inputs[0])
        call.flow.pin(labels[-dims:], f"is pooled over by {call.op}")
        for which, out in enumerate(call.outputs):
            call.set((*labels[: out.dim() - dims], *(None,) * dims), which)

    return handle


def _convolution(call: Call) -> None:
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


def _matmul(call: Call) -> None:
    """a (..., n, k) @ b (..., k, m), with or without something added."""
    *added, left, right = call.args[:3] if call.op in ("addmm", "baddbmm", "addmv") else call.args[:2]
    a, b = call.labels(left), call.labels(right)
    call.flow.join(a[-1], b[0] if right.dim() == 1 else b[-2], "is multiplied with fixed values")
    inner = b[0] if right.dim() == 1 else b[-2]
    batch = [call.flow.join(x, y, "is a batch of matrices") if x is not None or y is not None else None
             for x, y in zip(a[:-2], b[:-2], strict=False)]  # fmt: skip
    out = [*batch, a[-2] if left.dim() > 1 else None, *([b[-1]] if right.dim() > 1 else [])]
    _roles(call, right, b[-1] if right.dim() > 1 else None, inner)
    _roles(call, left, a[-2] if left.dim() > 1 else None, a[-1])
    call.set(out)
    for term in added:
        for position in range(1, term.dim() + 1):
            ours, theirs = out[-position], call.labels(term)[-position]
            if term.shape[-position] > 1 and (ours is not None or theirs is not None):
                call.flow.join(ours, theirs, "has a fixed bias")


def _linear(call: Call) -> None:
    inputs, weight, bias = call.args[0], call.args[1], call.arg(2, "bias")
    labels, (rows, columns) = call.labels(inputs), call.labels(weight)
    call.flow.join(labels[-1], columns, "reads the network's input or fixed values")
    _roles(call, weight, rows, columns)
    if bias is not None:
        call.flow.join(rows, call.labels(bias)[0], "has a fixed bias")
    call.set((*labels[:-1], rows))


def _batch_norm(call: Call) -> None:
    labels = call.labels(call.args[0])
    channel: Nodes | None = labels[1]
    for vector in call.args[1:5]:
        if isinstance(vector, Tensor):
            channel = call.flow.join(channel, call.labels(vector)[0], "is normalised with fixed values")
    call.set((labels[0], channel, *labels[2:]))


def _layer_norm(call: Call) -> None:
    labels = list(call.labels(call.args[0]))
    first = len(labels) - len(call.args[1])
    for vector in call.args[2:4]:
        if isinstance(vector, Tensor):
            for dim, nodes in enumerate(call.labels(vector), start=first):
                labels[dim] = call.flow.join(labels[dim], nodes, "is normalised with fixed values")
    call.flow.renormalised.extend(nodes for nodes in labels[first:] if nodes is not None)
    call.set(labels)


def _group_norm(call: Call) -> None:
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
    call.set(labels)


def _embedding(call: Call) -> None:
    rows, columns = call.labels(call.args[0])
    call.flow.pin((rows,), "is a vocabulary")
    if columns is not None:
        call.flow.produced.append(columns)
    call.set((*call.labels(call.args[1]), columns))


def _relayout(call: Call) -> None:
    """The same numbers with other strides; anything else that strides can do is not followed."""
    if call.outputs[0].shape == call.inputs[0].shape:
        call.set(call.labels(call.inputs[0]))
    else:
        _unknown(call)


def _nothing(call: Call) -> None:
    """An operator that makes its output from no tensor, or from a shape alone."""


def _named(handler: Callable[[Call], None], names: str) -> dict[str, Callable[[Call], None]]:
    return dict.fromkeys(names.split(), handler)


HANDLERS: Mapping[str, Callable[[Call], None]] = {
    **_named(_convolution, "convolution _convolution convolution_overrideable"),
    **_named(_matmul, "mm addmm bmm baddbmm matmul mv addmv"),
    **_named(_linear, "linear"),
    **_named(_batch_norm, "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
                          "cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update"),
    **_named(_layer_norm, "layer_norm native_layer_norm rms_norm _fused_rms_norm"),
    **_named(_group_norm, "native_group_norm"),
    **_named(_embedding, "embedding"),
    **_named(_cat, "cat concat"),
    **_named(_move, "view _unsafe_view reshape permute transpose t expand squeeze unsqueeze slice select split "
                    "split_with_sizes chunk constant_pad_nd flip roll repeat index_select unbind narrow movedim "
                    "pixel_shuffle pixel_unshuffle channel_shuffle stack unfold"),
    **_named(_relayout, "as_strided"),
    **_named(_pointwise, "hardswish _prelu_kernel clone contiguous detach alias _to_copy dropout native_dropout "
                         "lift_fresh "
                         "zeros_like ones_like empty_like full_like rand_like randn_like copy_ masked_fill"),
    **_named(_reduce, "mean sum prod amax amin max min argmax argmin var std var_mean logsumexp "
                      "any all _softmax softmax _log_softmax log_softmax cumsum"),
    **_named(_spatial(1), "max_pool1d avg_pool1d adaptive_avg_pool1d upsample_linear1d upsample_nearest1d "
                          "reflection_pad1d replication_pad1d"),
    **_named(_spatial(2), "max_pool2d max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d "
                          "adaptive_max_pool2d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d "
                          "_upsample_bilinear2d_aa _upsample_nearest_exact2d reflection_pad2d replication_pad2d"),
    **_named(_spatial(3), "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d "
                          "upsample_trilinear3d upsample_nearest3d"),
    **_named(_nothing, "arange zeros ones full empty scalar_tensor rand randn new_zeros new_ones new_full new_empty"),
}  # fmt: skip
