"""Activations in eight bits: numbers as codes, and what can be done to codes as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.engine.chains import Code


def encoded(values: Tensor, code: Code) -> Tensor:
    """The nearest codes of `values`, uint8."""
    return values.float().mul(1 / code.scale).add_(code.zero).round_().clamp_(0, 255).to(torch.uint8)


def decoded(codes: Tensor, code: Code) -> Tensor:
    """What `codes` mean, in full precision."""
    return codes.float().sub_(code.zero).mul_(code.scale)


def pooled(codes: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """The largest of each window, of codes; torch pools floating-point numbers only."""
    (high, wide), (down, along), (top, left) = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    padded = functional.pad(codes, (left, left, top, top)) if top or left else codes  # 0 is the least code
    rows, columns = padded.shape[2] - high + 1, padded.shape[3] - wide + 1
    windows = [padded[:, :, i : i + rows : down, j : j + columns : along] for i in range(high) for j in range(wide)]
    largest = windows[0]
    for window in windows[1:]:
        largest = torch.maximum(largest, window)
    return largest


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
