"""A user's own file, for tests: a network with a layer whose MACs nobody counts, and one that is not used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune import Task
from tests.assets.mine import split


class Gated(nn.Module):
    """A linear layer beside a bilinear one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(64, 12), nn.Bilinear(8, 8, 8)
        self.last, self.spare = nn.Linear(20, 10), nn.Linear(64, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        found: Tensor = self.last(torch.cat([torch.relu(self.body(x)), self.gate(x[:, :8], x[:, 8:16])], 1))
        return found


def make() -> Task:
    """A tiny task."""
    torch.manual_seed(0)
    return Task(Gated(), torch.zeros(1, 1, 8, 8), split(256), split(64), split(32), name="gated")
