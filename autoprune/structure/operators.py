"""What each operator does to the labels of `structure.labels`: passes them on, joins them, or pins them.

One function a family of ATen operators. To follow one more, add its name to `HANDLERS`; what is not there and is not
marked pointwise by torch pins all that passes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.structure import blocks, heads, indexed, moves, norms, products, weights
from autoprune.structure.labels import Call, Nodes


def handler(func: Any, op: str) -> Callable[[Call], None]:
    """What `func`, of the name `op`, does to labels; where a form of it was not thought of, nothing is known of it."""
    known = HANDLERS.get(op, pointwise if _is_pointwise(func, op) else moves.unknown)

    def follow(call: Call) -> None:
        try:
            known(call)
            heads.note(call)
        except (LookupError, TypeError, ValueError, RuntimeError):
            moves.unknown(call)

    return follow


def is_known(func: Any, op: str) -> bool:
    """Whether it is known what `func`, of the name `op`, does to labels."""
    return op in HANDLERS or _is_pointwise(func, op)


def multiplies(op: str) -> bool:
    """Whether what is known of the operator is that it is a product."""
    return HANDLERS.get(op) in (products.convolution, products.matmul, products.linear)


def _is_pointwise(func: Any, op: str) -> bool:
    functional = getattr(torch.ops.aten, op, None)
    overloads = [func] if functional is None else [func, getattr(functional, functional.overloads()[0])]
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def pointwise(call: Call) -> None:
    """Output positions depend on the same positions of the inputs, broadcast."""
    for which, out in enumerate(call.outputs):
        labels = [_aligned(call, out, out.dim() - 1 - dim) for dim in range(out.dim())]
        call.set(labels, which)
    _normalise(call)


def _normalise(call: Call) -> None:
    """A statistic that has no dimension of its own meets what it was taken over, or is handed on."""
    flow, unmet = call.flow, []
    for tensor in call.inputs:
        beside = [n for other in call.inputs if other is not tensor for n in call.labels(other) if n is not None]
        unmet += [one for one in flow.carried(tensor) if not any(flow.meets(one, nodes) for nodes in beside)]
    flow.carry(call.outputs, tuple(unmet))


def _aligned(call: Call, out: Tensor, from_right: int) -> Nodes | None:
    """The joint labels of all inputs along the dimension of `out` counted from the right."""
    size = out.shape[out.dim() - 1 - from_right]
    there = [(t, t.dim() - 1 - from_right) for t in call.inputs if t.dim() > from_right]
    found = [call.labels(t)[d] for t, d in there if t.shape[d] == size]
    narrow = [call.labels(t)[d] for t, d in there if t.shape[d] != size]
    if size > 1:
        narrow += [nodes for nodes in found if nodes is not None and call.flow.is_statistic(nodes)]
        wide = [nodes for nodes in found if nodes is None or not call.flow.is_statistic(nodes)]
        known = [nodes for nodes in wide if nodes is not None]
        for one in narrow:
            if one is not None and known and call.flow.is_statistic(one):
                call.flow.meets(one, known[0])
        found = wide if known else found
    if all(nodes is None for nodes in found):
        return None
    joint = found[0]
    for nodes in found[1:]:
        joint = call.flow.join(joint, nodes, f"meets fixed values in {call.what}")
    return joint


def _fresh(call: Call) -> None:
    """Constants whose size the network says: the zeros that a recurrent layer starts from may shrink as it does.

    A size that is written as a number cannot, which the proof finds out.
    """
    for which, out in enumerate(call.outputs):
        call.set([call.flow.fresh(size) for size in out.shape], which)


def _nothing(call: Call) -> None:
    """An operator that makes its output from no tensor, or from a shape alone."""


def _named(handler: Callable[[Call], None], names: str) -> dict[str, Callable[[Call], None]]:
    return dict.fromkeys(names.split(), handler)


HANDLERS: Mapping[str, Callable[[Call], None]] = {
    **weights.HANDLERS,
    **_named(products.convolution, "convolution _convolution convolution_overrideable"),
    **_named(products.matmul, "mm addmm bmm baddbmm matmul mv addmv"),
    **_named(products.linear, "linear"),
    **_named(norms.batch_norm, "batch_norm native_batch_norm _native_batch_norm_legit "
                          "_native_batch_norm_legit_no_training "
                          "cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update"),
    **_named(norms.layer_norm, "layer_norm native_layer_norm rms_norm _fused_rms_norm"),
    **_named(norms.group_norm, "native_group_norm"),
    **_named(products.embedding, "embedding"),
    **_named(moves.cat, "cat concat"),
    **_named(moves.stack, "stack"),
    **_named(moves.packed, "_pack_padded_sequence"),
    **_named(moves.expand, "expand"),
    **_named(moves.slice_, "slice"),
    **_named(moves.split, "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk"),
    **_named(moves.move, "view _unsafe_view reshape permute transpose t squeeze unsqueeze select constant_pad_nd flip "
                         "roll repeat index_select unbind narrow movedim unfold diagonal tril triu"),
    **_named(blocks.pixel_shuffle, "pixel_shuffle"),
    **_named(blocks.pixel_unshuffle, "pixel_unshuffle"),
    **_named(blocks.channel_shuffle, "channel_shuffle native_channel_shuffle"),
    **_named(blocks.unfold, "im2col"),
    **_named(blocks.fold, "col2im"),
    **_named(blocks.glu, "glu"),
    **_named(indexed.index, "index"),
    **_named(indexed.index_put, "index_put _index_put_impl"),
    **_named(indexed.index_add, "index_add index_copy"),
    **_named(indexed.scatter, "scatter scatter_add scatter_reduce"),
    **_named(indexed.gather, "gather take_along_dim"),
    **_named(indexed.order, "sort argsort topk kthvalue"),
    **_named(moves.relayout, "as_strided"),
    **_named(pointwise, "hardswish _prelu_kernel clone contiguous detach alias _to_copy dropout native_dropout "
                         "lift_fresh bernoulli "
                         "zeros_like ones_like empty_like full_like rand_like randn_like copy fill zero masked_fill"),
    **_named(norms.reduce, "mean sum prod amax amin max min argmax argmin var std var_mean logsumexp "
                      "any all linalg_vector_norm _softmax _safe_softmax softmax _log_softmax log_softmax cumsum"),
    **_named(norms.spatial(1), "max_pool1d adaptive_avg_pool1d upsample_linear1d upsample_nearest1d "
                          "_upsample_nearest_exact1d "
                          "adaptive_max_pool1d reflection_pad1d replication_pad1d"),
    **_named(norms.spatial(2), "max_pool2d max_pool2d_with_indices _adaptive_avg_pool2d adaptive_avg_pool2d "
                          "adaptive_max_pool2d upsample_bilinear2d upsample_nearest2d upsample_bicubic2d "
                          "_upsample_bilinear2d_aa _upsample_nearest_exact2d _upsample_bicubic2d_aa "
                          "max_unpool2d grid_sampler_2d reflection_pad2d replication_pad2d"),
    **_named(norms.spatial(3), "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d "
                          "upsample_trilinear3d upsample_nearest3d _upsample_nearest_exact3d "
                          "max_unpool3d grid_sampler_3d reflection_pad3d replication_pad3d"),
    **_named(norms.average(1), "avg_pool1d"),
    **_named(norms.average(2), "avg_pool2d"),
    **_named(norms.average(3), "avg_pool3d"),
    **_named(_fresh, "zeros ones full empty new_zeros new_ones new_full new_empty"),
    **_named(_nothing, "arange scalar_tensor rand randn"),
}  # fmt: skip
