"""Memory: how tensors lie in it, and what was freed given back.

Convolutions of two dimensions run faster with their channels last. oneDNN's programs come and go between larger blocks,
so that what is freed lies in holes, which the C library keeps: docs/decisions/0007-panel.md.
"""

from __future__ import annotations

import contextlib
import ctypes

from torch import Tensor, channels_last, nn

from autoprune.inputs import Nest, mapped


def laid_out(nest: Nest) -> Nest:
    """Images or kernels, (n, channels, high, wide), with their channels last in memory; anything else as it is."""
    return mapped(nest, _channels_last)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=channels_last) if tensor.dim() == 4 else tensor


def lay_out(model: nn.Module) -> None:
    """Give the kernels of `model` the layout that `laid_out` gives images."""
    for parameter in model.parameters():
        parameter.data = laid_out(parameter.data)


def trim() -> None:
    """Give freed memory back, where the C library can be told to (glibc's malloc_trim); nothing elsewhere."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
