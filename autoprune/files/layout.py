"""How a network's tensors lie in memory, which files do not say by themselves.

PyTorch sums in another order where channels lie next to one another, so that a network that is loaded with another
layout differs from the one that was saved by the last bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions


def channels_last(model: nn.Module) -> list[str]:
    """The tensors of `model` whose channels lie next to one another, and that would lie otherwise in the plain way."""
    named = ((name, t) for name, t in model.state_dict().items() if t.dim() in _LAST)
    return [name for name, t in named if t.stride() == last(t).stride() != t.clone(memory_format=_PLAIN).stride()]


_PLAIN = torch.contiguous_format


def last(tensor: Tensor) -> Tensor:
    """The same, of four or five dimensions, with its channels next to one another."""
    return tensor.clone(memory_format=_LAST[tensor.dim()])
