"""Which precision a machine is found to be fast in, whatever the network does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.engine import precision


class Viewed(nn.Module):
    """A network whose reshape has a number that fits none but two samples a row."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.read, self.features = nn.Linear(features, 4), features

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x.view(-1, self.features))


class Picky(nn.Module):
    """A network that raises what it likes in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.read(x)
        if y.dtype != torch.float32:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return y


def test_a_hardcoded_view_is_evaluated_in_fp32() -> None:
    """What the user saw: a traceback, because no output has a row a sample."""
    assert precision.choose(Viewed(16), torch.randn(8, 8)) == "fp32"
    assert precision.choose(Viewed(32), torch.randn(2, 8)) == "fp32"


def test_a_network_that_does_not_run_in_bf16_is_evaluated_in_fp32() -> None:
    assert precision.choose(Picky(), torch.randn(8, 8)) == "fp32"
