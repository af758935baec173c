"""Channels last in memory, which convolutions of two dimensions run faster on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def laid_out(tensor: Tensor) -> Tensor:
    """Images or kernels, (n, channels, high, wide), with their channels last in memory; anything else as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def lay_out(model: nn.Module) -> None:
    """Give the kernels of `model` the layout that `laid_out` gives images."""
    for parameter in model.parameters():
        parameter.data = laid_out(parameter.data)
