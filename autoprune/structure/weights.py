"""Operators with which weights are computed from parameters: norms of weights, masks, rounding; what they do to labels.

And layers of the old style, which keep the weight that they computed last as an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from autoprune.structure.labels import Call


def refresh(model: nn.Module) -> None:
    """Compute anew, from parameters as they are, the weights that layers of `model` keep as attributes."""
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    setattr(module, hook.name, hook.compute_weight(module))
                elif isinstance(hook, SpectralNorm):
                    setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
                elif isinstance(hook, BasePruningMethod):
                    setattr(module, hook._tensor_name, hook.apply_mask(module))  # type: ignore[no-untyped-call]


def _weight_norm(call: Call) -> None:
    """v x g / |v|, where the norm is over all dimensions but one, along which g scales."""
    direction, length = call.args[:2]
    labels, dim = list(call.labels(direction)), call.arg(2, "dim", 0) % direction.dim()
    labels[dim] = call.flow.join(labels[dim], call.labels(length)[dim], "has a weight of a fixed length")
    call.set(labels)


def _dot(call: Call) -> None:
    """Two vectors, summed over: with spectral_norm, the largest singular value, which depends on every row."""
    for tensor in call.inputs:
        call.flow.pin(call.labels(tensor), "is part of a norm of the whole weight")
    call.set(())


def _rounded(call: Call) -> None:
    """Fake quantisation with one scale, or with one for each position of the dimension `axis`."""
    labels = list(call.labels(call.args[0]))
    axis = call.arg(3, "axis") if "channel" in call.op else call.arg(10, "ch_axis") if _by_row(call) else None
    if axis is not None:
        for scale in (t for t in call.inputs[1:] if t.dim() == 1 and len(t) == call.args[0].shape[axis]):
            labels[axis] = call.flow.join(labels[axis], call.labels(scale)[0], "is rounded by fixed scales")
    for which, out in enumerate(call.outputs):
        call.set(labels if out.dim() == len(labels) else (None,) * out.dim(), which)


def _by_row(call: Call) -> bool:
    return call.op == "_fused_moving_avg_obs_fq_helper" and bool(call.arg(11, "per_row_fake_quant", False))


HANDLERS: Mapping[str, Callable[[Call], None]] = {
    "_weight_norm_interface": _weight_norm,
    "dot": _dot,
    "vdot": _dot,
    "fake_quantize_per_tensor_affine_cachemask": _rounded,
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": _rounded,
    "fake_quantize_per_channel_affine_cachemask": _rounded,
    "_fused_moving_avg_obs_fq_helper": _rounded,
}
