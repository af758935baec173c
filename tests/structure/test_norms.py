"""Channels that a network divides by their own norm, in whatever way that is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from tests.structure.test_trace import Wired, conv, named

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

NORMALISED: dict[str, Callable[[Tensor], Tensor]] = {
    "its norm, indexed by None": lambda y: y / y.norm(dim=1)[:, None],
    "its norm, unsqueezed and kept from zero": lambda y: y / y.norm(dim=1).clamp_min(1e-6).unsqueeze(1),
    "its norm in place": lambda y: y.div_(y.norm(dim=1)[:, None]),
    "a view of its norm": lambda y: y * (y * y).sum(1).rsqrt().view(len(y), 1, *y.shape[2:]),
    "a norm that is written out": lambda y: y / y.norm(dim=1).unsqueeze(1).expand_as(y),
    "channels that are turned to the end": lambda y: (y.transpose(0, 1) / y.norm(dim=1)).transpose(0, 1),
    "mean and spread": lambda y: (y - y.mean(1)[:, None]) / y.std(1)[:, None],
    "one norm of a whole image": lambda y: y / y.flatten(1).norm(dim=1)[:, None, None, None],
    "functional.normalize": lambda y: functional.normalize(y, dim=1),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_channels_that_are_divided_by_their_norm_are_not_frozen(name: str) -> None:
    divide = NORMALISED[name]
    model = Wired(lambda m, x: m.b(divide(m.a(x))), a=conv(3, 6), b=conv(6, 2)).eval()
    found = trace(model, IMAGES)
    assert named(found) == {"a": 6}, found.frozen
    assert found.proofs == ("shapes",)
    pruned = prune(model, found, [torch.arange(4).numpy()])
    assert pruned(IMAGES).shape == (2, 2, 8, 8)


OTHERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "the norm of other channels": lambda m, x: m.b(m.c(x) * m.a(x).norm(dim=1)[:, None]),
    "a norm that goes through a layer": lambda m, x: m.b((y := m.a(x)) * m.w(y.norm(dim=1)[:, None]).sigmoid()),
    "a norm that nobody reads": lambda m, x: m.b(m.c(x)) + m.a(x).norm(dim=1)[:, None],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_norm_that_weighs_something_else_freezes_its_channels_and_says_so(name: str) -> None:
    model = Wired(OTHERS[name], a=conv(3, 6), b=conv(6, 2), c=conv(3, 6), w=conv(1, 1)).eval()
    found = trace(nn.Sequential(conv(3, 3), model, conv(2, 2)).eval(), IMAGES)
    (why,) = {f.reason for f in found.frozen if f.name == "1.a"}
    assert why.startswith("is reduced over by linalg_vector_norm")
