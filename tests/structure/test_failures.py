"""What a reason says where the pruned network would fail: the module, and the size that is written down."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoprune.structure.trace import trace
from tests.structure.test_trace import Wired, conv

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention as timm writes it, but for its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 36), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, length, 3, 3, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Thirds(nn.Module):
    """Queries, keys and values as GPT-2 takes them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x).split(8, dim=2)
        return q * k + v


class Asking(nn.Module):
    """A layer of a user's own that insists on its width."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 6, "six channels, please"
        return x


def _wired(forward: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> nn.Module:
    body = Wired(forward, **{"a": conv(3, 6), "b": conv(6, 2), **layers})
    return nn.Sequential(body, conv(2, 4), conv(4, 2))


FAILING: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    "heads": (
        lambda: nn.Sequential(Attention(), nn.Linear(8, 6), nn.Linear(6, 2)),
        TOKENS,
        "0.qkv",
        "the Attention `0` reshapes to a size that is written down: 3 x 3 x 4",
    ),
    "a view": (
        lambda: _wired(lambda m, x: m.b(m.a(x).view(len(x), 6, -1).view(len(x), 6, 8, 8))),
        IMAGES,
        "0.a",
        "the Wired `0` reshapes to a size that is written down: 6 x any",
    ),
    "un-flattened by torch's own layer": (
        lambda: nn.Sequential(
            nn.Linear(8, 12), nn.Unflatten(2, (3, 4)), nn.Flatten(2), nn.Linear(12, 5), nn.Linear(5, 2)
        ),
        TOKENS,
        "0",
        "the Unflatten `1` reshapes to a size that is written down: 3 x 4",
    ),
    "a split": (
        lambda: _wired(lambda m, x: m.b(torch.cat([y.relu() for y in m.a(x).split([2, 4], 1)], 1))),
        IMAGES,
        "0.a",
        "the Wired `0` splits into sizes that are written down: 2, 4",
    ),
    "a split that gives another number of parts": (
        lambda: nn.Sequential(Thirds(), nn.Linear(8, 6), nn.Linear(6, 2)),
        TOKENS,
        "0.a",
        "the Thirds `0` splits into sizes that are written down: 8",
    ),
    "a sum with what is made in a size that is written down": (
        lambda: _wired(lambda m, x: m.b(m.a(x) + torch.ones(1, 6, 1, 1))),
        IMAGES,
        "0.a",
        "the Wired `0` brings tensors together in add whose sizes no longer agree",
    ),
    "a slice": (
        lambda: _wired(lambda m, x: m.b(m.a(x)[:, :4]), b=conv(4, 2)),
        IMAGES,
        "0.a",
        "the Conv2d `0.b` is given another number of channels than is left of its own",
    ),
    "a layer's own words": (
        lambda: _wired(lambda m, x: m.b(m.ask(m.a(x))), ask=Asking()),
        IMAGES,
        "0.a",
        "the Asking `0.ask` fails: AssertionError: six channels, please",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_reason_names_the_module_and_the_size_and_not_torchs_words(name: str) -> None:
    make, example, layer, why = FAILING[name]
    found = trace(make().eval(), example)
    assert why in [f.reason for f in found.frozen if f.name == layer]
    assert not any(re.search("RuntimeError|invalid for input|Given groups", f.reason) for f in found.frozen)
