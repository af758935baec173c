"""Layers that run in training mode only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.structure.prune import prune
from autoprune.structure.trace import trace

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A second head on the first layer, for training."""

    def __init__(self, *, random: bool = False, fixed: bool = False) -> None:
        super().__init__()
        self.random, self.fixed = random, fixed
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head, self.aux = nn.Linear(6, 4), nn.Sequential(nn.Conv2d(8, 5, 1), nn.Dropout(0.5), nn.Conv2d(5, 4, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.norm(self.a(x)).relu()
        out = self.head(self.b(y).relu().mean((2, 3)))
        if not self.training:
            return out
        seen = functional.dropout(y, 0.5, self.training) if self.random else y
        seen = seen.reshape(len(x), 8, 8, 8) if self.fixed else seen
        return out, self.aux(seen).mean((2, 3))


@pytest.mark.parametrize("random", [False, True])
def test_a_pruned_network_with_an_auxiliary_head_is_finetuned(random: bool) -> None:
    model = Auxiliary(random=random).eval()
    found = trace(model, IMAGES)
    assert [(c.name, c.dense) for c in found.choices] == [("a", 8), ("b", 6)]
    assert ("aux.0", "runs in training mode only") in {(f.name, f.reason) for f in found.frozen}
    pruned = prune(model, found, [np.arange(c.dense // 2) for c in found.choices]).train()
    assert pruned.aux[0].in_channels == 4
    out, aux = pruned(IMAGES)
    (functional.cross_entropy(out, torch.arange(4)) + functional.cross_entropy(aux, torch.arange(4))).backward()
    torch.optim.SGD(pruned.parameters(), 0.1).step()
    assert all(p.grad is not None for p in pruned.parameters())
    assert sum(p.numel() for p in pruned.parameters()) == sum(op.count([4, 3]) for op in found.parameters)


def test_what_breaks_in_training_only_is_frozen_and_named() -> None:
    found = trace(Auxiliary(fixed=True).eval(), IMAGES)
    assert "a" not in {c.name for c in found.choices}
    (why,) = {f.reason for f in found.frozen if f.name == "a"}
    assert "aux.0" in why
    assert "training mode only" in why


def test_a_network_that_needs_targets_in_training_is_traced_in_evaluation() -> None:
    class Strict(Auxiliary):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            if self.training:
                raise ValueError("targets are needed")
            return super().forward(x)

    assert [c.name for c in trace(Strict().eval(), IMAGES).choices] == ["a", "b"]
