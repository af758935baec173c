"""Loading trained weights: safetensors only, names and shapes checked, nothing unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from autoprune import bounded
from autoprune.errors import ModelError, reason


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`. Raises ModelError where it is missing or no safetensors file."""
    try:
        bounded.require_regular(path)
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; a safetensors file of weights is needed there") from None
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as wrong:
        raise ModelError(
            f"{path} is no safetensors file ({reason(wrong)}); save weights with safetensors.torch.save_file"
        ) from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the tensors in `path` into `model`. Raises ModelError where names, shapes or values do not fit."""
    fill(model, read(path), path)


def load_trained(model: nn.Module, path: Path, hint: str) -> None:
    """As `load_weights`, of a task's `weights` setting or its default; `hint` says where such a file comes from."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give weights = FILE.safetensors ({hint})")
    load_weights(model, path)


def not_finite(name: str, tensor: Tensor) -> str:
    """What is said of a tensor that holds NaN or infinity; "" of others."""
    bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() or tensor.is_complex() else 0
    return f"{name!r} holds NaN or infinity ({bad} of {tensor.numel()} numbers)" if bad else ""


def fill(model: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Copy `found`, tensors that were read from `path`, into `model`. Raises as `load_weights`."""
    wanted = model.state_dict()
    absent = sorted(name for name in set(wanted) - set(found) if not name.endswith("num_batches_tracked"))
    extra = sorted(set(found) - set(wanted))
    if absent or extra:
        what = f"lacks {absent[0]!r}" if absent else f"has {extra[0]!r}, which the network has not"
        raise ModelError(f"{path} is not this network's: it {what} ({len(absent)} missing, {len(extra)} unknown)")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, the network's is {tuple(wanted[name].shape)}"
            raise ModelError(f"{path}: {name!r} has shape {shapes}")
        if fault := not_finite(name, tensor):
            raise ModelError(f"{path}: {fault}; train again or choose another checkpoint")
    model.load_state_dict(found, strict=False)
