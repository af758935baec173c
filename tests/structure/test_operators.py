"""Networks of one odd operator each: what is traced, proven and priced, and what is frozen and says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_trace import Wired, conv, named

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))


class RootMeanSquare(nn.Module):
    """The RMSNorm of language models, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6))


class ChannelsFirst(nn.Module):
    """The LayerNorm of ConvNeXt over channels of images, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(spread + 1e-6)) + self.bias[:, None, None]


class Experts(nn.Module):
    """Each row goes to the expert that a router picks; their outputs are put back where the rows were."""

    def __init__(self, put: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        super().__init__()
        self.stem, self.router, self.read = nn.Linear(8, 10), nn.Linear(10, 2), nn.Linear(10, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 10)) for _ in range(2))
        self._put = put

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        chosen, out = self.router(x).argmax(1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = torch.where(chosen == number)[0]
            self._put(out, rows, expert(x[rows]))
        return self.read(out)


class Heads(nn.Module):
    """Attention as transformers writes it: the number of heads follows from the width of one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.p = (nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 6))
        self.read = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:-1], -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.read(self.p(mixed.transpose(1, 2).reshape(*x.shape[:-1], -1)))


def _swiglu(m: nn.Module, x: Tensor) -> Tensor:
    value, gate = m.a(x).chunk(2, -1)
    return m.b(value * functional.silu(gate))


# name -> how the network is made, on what, its choices
EXACT: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = {
    "un-flatten before a transposed convolution": (
        lambda: Wired(
            lambda m, x: m.c(functional.relu(m.b(m.a(x).view(len(x), -1, 4, 4)))),
            a=nn.Linear(8, 12 * 16),
            b=nn.ConvTranspose2d(12, 6, 2, 2),
            c=conv(6, 2),
        ),
        ROWS,
        {"a": 12, "b": 6},
    ),
    "a module that un-flattens": (
        lambda: nn.Sequential(
            nn.Linear(8, 24),
            nn.ReLU(),
            nn.Linear(24, 12 * 16),
            nn.Unflatten(1, (-1, 4, 4)),
            conv(12, 2),
        ),
        ROWS,
        {"0": 24, "2": 12},
    ),
    "glu": (lambda: nn.Sequential(nn.Linear(8, 20), nn.GLU(), nn.Linear(10, 2)), ROWS, {"0": 10}),
    "glu of images": (
        lambda: Wired(lambda m, x: m.b(functional.glu(m.a(x), 1)), a=conv(3, 12), b=conv(6, 2)),
        IMAGES,
        {"a": 6},
    ),
    "a chunked gate": (lambda: Wired(_swiglu, a=nn.Linear(8, 20), b=nn.Linear(10, 2)), ROWS, {"a": 10}),
    "SwiGLU of two layers": (
        lambda: Wired(
            lambda m, x: m.b(functional.silu(m.a(x)) * m.g(x)),
            a=nn.Linear(8, 20),
            g=nn.Linear(8, 20),
            b=nn.Linear(20, 2),
        ),
        ROWS,
        {"a": 20},
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(conv(3, 24), nn.PixelShuffle(2), nn.BatchNorm2d(6), conv(6, 2)),
        IMAGES,
        {"0": 6},
    ),
    "pixel unshuffle": (
        lambda: nn.Sequential(conv(3, 6), nn.PixelUnshuffle(2), conv(24, 2)),
        IMAGES,
        {"0": 6},
    ),
    "a channel shuffle": (
        lambda: nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), conv(8, 2)),
        IMAGES,
        {"0": 4},
    ),
    "stacked branches": (
        lambda: Wired(
            lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1).sum(1)),
            a=conv(3, 6),
            b=conv(3, 6),
            c=conv(6, 2),
        ),
        IMAGES,
        {"a": 6},
    ),
    "routed experts, index_put": (
        lambda: Experts(lambda out, rows, values: out.__setitem__(rows, values)),
        ROWS,
        {"stem": 10, "experts.0.0": 7, "experts.1.0": 7},
    ),
    "routed experts, index_add": (
        lambda: Experts(lambda out, rows, values: out.index_add_(0, rows, values)),
        ROWS,
        {"stem": 10, "experts.0.0": 7, "experts.1.0": 7},
    ),
    "einsum": (
        lambda: Wired(
            lambda m, x: m.b(torch.einsum("bchw,oc->bohw", m.a(x), m.w.weight)),
            a=conv(3, 6),
            w=nn.Linear(6, 5, bias=False),
            b=conv(5, 2),
        ),
        IMAGES,
        {"a": 6, "w": 5},
    ),
    "softmax over pixels": (
        lambda: Wired(
            lambda m, x: m.b(m.a(x).flatten(2).softmax(-1).view(len(x), -1, 8, 8)), a=conv(3, 6), b=conv(6, 2)
        ),
        IMAGES,
        {"a": 6},
    ),
    "instance norm": (
        lambda: nn.Sequential(conv(3, 6), nn.InstanceNorm2d(6, affine=True), conv(6, 2)),
        IMAGES,
        {"0": 6},
    ),
    "resizing": (
        lambda: Wired(
            lambda m, x: m.b(
                functional.interpolate(
                    functional.interpolate(m.a(x), scale_factor=2, mode="bicubic"),
                    scale_factor=0.5,
                    mode="nearest-exact",
                )
            ),
            a=conv(3, 6),
            b=conv(6, 2),
        ),
        IMAGES,
        {"a": 6},
    ),
    "a pooled series": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 3),
            nn.MaxPool1d(2),
            nn.Conv1d(6, 5, 3),
            nn.AvgPool1d(2),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(5, 2),
        ),
        SERIES,
        {"0": 6, "2": 5},
    ),
    "a running sum over time": (
        lambda: Wired(lambda m, x: m.b(m.a(x).cumsum(2)), a=nn.Conv1d(4, 6, 3), b=nn.Conv1d(6, 2, 3)),
        SERIES,
        {"a": 6},
    ),
    "the largest over time": (
        lambda: Wired(lambda m, x: m.b(m.a(x).topk(4, dim=2).values), a=nn.Conv1d(4, 6, 3), b=nn.Conv1d(6, 2, 3)),
        SERIES,
        {"a": 6},
    ),
    "sorted pixels": (
        lambda: Wired(lambda m, x: m.b(m.a(x).flatten(2).sort(2)[0]), a=conv(3, 6), b=nn.Conv1d(6, 2, 1)),
        IMAGES,
        {"a": 6},
    ),
    "where": (
        lambda: Wired(lambda m, x: m.b(torch.where((y := m.a(x)) > 0, y, y * 0.1)), a=conv(3, 6), b=conv(6, 2)),
        IMAGES,
        {"a": 6},
    ),
    "rolled windows": (
        lambda: Wired(lambda m, x: m.b(m.a(x).roll((1, 2), (2, 3))), a=conv(3, 6), b=conv(6, 2)),
        IMAGES,
        {"a": 6},
    ),
    "unfold and fold": (
        lambda: Wired(
            lambda m, x: m.b(functional.fold(functional.unfold(m.a(x), 2), (8, 8), 2)), a=conv(3, 6), b=conv(6, 2)
        ),
        IMAGES,
        {"a": 6},
    ),
    "columns of patches": (
        lambda: Wired(lambda m, x: m.b(functional.unfold(m.a(x), 2, stride=2)), a=conv(3, 6), b=nn.Conv1d(24, 2, 1)),
        IMAGES,
        {"a": 6},
    ),
    "a sampled grid": (
        lambda: Wired(
            lambda m, x: m.b(functional.grid_sample(m.a(x), x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)),
            a=conv(3, 6),
            b=conv(6, 2),
        ),
        IMAGES,
        {"a": 6},
    ),
    "coordinates beside channels": (
        lambda: Wired(
            lambda m, x: m.b(
                torch.cat(
                    [
                        m.a(x),
                        *(
                            g.expand(len(x), 1, 8, 8)
                            for g in torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
                        ),
                    ],
                    1,
                )
            ),
            a=conv(3, 6),
            b=conv(8, 2),
        ),
        IMAGES,
        {"a": 6},
    ),
    "a shuffle by views": (
        lambda: Wired(
            lambda m, x: m.b((y := m.a(x)).view(len(y), 2, y.shape[1] // 2, 8, 8).transpose(1, 2).reshape(y.shape)),
            a=conv(3, 8),
            b=conv(8, 2),
        ),
        IMAGES,
        {"a": 4},
    ),
}
EXACT["heads of attention"] = (Heads, torch.randn(2, 5, 8), {"q": 4, "p": 6})
SHAPES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, int]]] = {
    "RMSNorm": (lambda: nn.Sequential(nn.Linear(8, 12), nn.RMSNorm(12), nn.Linear(12, 2)), ROWS, {"0": 12}),
    "RMSNorm by hand": (
        lambda: nn.Sequential(nn.Linear(8, 12), RootMeanSquare(12), nn.Linear(12, 2)),
        ROWS,
        {"0": 12},
    ),
    "a LayerNorm of channels by hand": (
        lambda: nn.Sequential(conv(3, 6), ChannelsFirst(6), conv(6, 2)),
        IMAGES,
        {"0": 6},
    ),
    "local response norm": (
        lambda: nn.Sequential(conv(3, 6), nn.LocalResponseNorm(3), conv(6, 2)),
        IMAGES,
        {"0": 6},
    ),
    "local response norm of an even size": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.LocalResponseNorm(4), nn.Conv1d(6, 2, 3)),
        SERIES,
        {"0": 6},
    ),
    "normalised embeddings": (
        lambda: Wired(lambda m, x: m.b(functional.normalize(m.a(x), dim=1)), a=nn.Linear(8, 12), b=nn.Linear(12, 2)),
        ROWS,
        {"a": 12},
    ),
    "embeddings normalised by hand": (
        lambda: Wired(
            lambda m, x: m.b((y := m.a(x)) / y.norm(dim=-1, keepdim=True)), a=nn.Linear(8, 12), b=nn.Linear(12, 2)
        ),
        ROWS,
        {"a": 12},
    ),
}
ALL = {**EXACT, **SHAPES}


def _made(name: str) -> tuple[nn.Module, Tensor, Trace]:
    make, example, _ = ALL[name]
    torch.manual_seed(0)
    model = make().eval()
    return model, example, trace(model, example)


@pytest.mark.parametrize("name", ALL)
class TestOperators:
    def test_choices_are_found_and_proven(self, name: str) -> None:
        _, _, found = _made(name)
        assert named(found) == ALL[name][2], found.frozen
        assert set(found.proofs) == {"exact" if name in EXACT else "shapes"}

    def test_costs_are_exact(self, name: str) -> None:
        model, example, found = _made(name)
        space = SearchSpace(name, found.choices, found.ops, found.parameters)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            levels = [int(rng.choice(c.levels)) for c in found.choices]
            units = [np.sort(rng.permutation(c.dense)[:n]) for c, n in zip(found.choices, levels, strict=True)]
            pruned = prune(model, found, units)
            assert pruned(example).shape == model(example).shape
            for cost in (Macs(space), Params(space), Memory(space, found)):
                if "experts" not in name or not isinstance(cost, Macs | Memory):  # there, the data say how many rows
                    assert cost.predict(Policy.of(levels)) == cost.measure(pruned, example), type(cost).__name__


# name -> how the network is made, on what, a layer that is frozen, a word of the reason
class Attending(nn.MultiheadAttention):
    """Attention of a user's own, whose code is not known."""

    def __init__(self) -> None:
        super().__init__(12, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


FROZEN: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
    "channels put in an order": (
        lambda: Wired(lambda m, x: m.c(m.b(m.a(x).sort(1)[0])), a=conv(3, 6), b=conv(6, 4), c=conv(4, 2)),
        IMAGES,
        "a",
        "is put in an order by sort",
    ),
    "a mean over channels that weighs pixels": (
        lambda: Wired(
            lambda m, x: m.c((y := m.a(x)) * m.g(y.mean(1, keepdim=True)).sigmoid()),
            a=conv(3, 6),
            g=conv(1, 1),
            c=nn.Sequential(conv(6, 4), conv(4, 2)),
        ),
        IMAGES,
        "a",
        "reduced over",
    ),
    "softmax over channels": (
        lambda: Wired(lambda m, x: m.c(m.b(m.a(x).softmax(1))), a=conv(3, 6), b=conv(6, 4), c=conv(4, 2)),
        IMAGES,
        "a",
        "reduced over by _softmax",
    ),
    "the heads of attention whose weights are averaged and read": (
        lambda: Wired(
            lambda m, x: m.c(m.b(m.a(x, x, x)[1] @ x)),
            a=nn.MultiheadAttention(8, 2, batch_first=True),
            b=nn.Linear(8, 5),
            c=nn.Linear(5, 2),
        ),
        torch.randn(2, 5, 8),
        "a",
        "is reduced over by mean in the MultiheadAttention `a`",
    ),
    "the heads of a user's own kind of torch's attention": (
        lambda: nn.Sequential(nn.Linear(8, 12), Attending(), nn.Linear(12, 3), nn.Linear(3, 2)),
        torch.randn(2, 5, 8),
        "1",
        "has a size that is written down: 2 heads of 6",
    ),
    "channels that roll": (
        lambda: Wired(lambda m, x: m.c(m.b(m.a(x).roll(1, 1))), a=conv(3, 6), b=conv(6, 4), c=conv(4, 2)),
        IMAGES,
        "a",
        "something else",
    ),
    "channels picked by number": (
        lambda: Wired(
            lambda m, x: m.c(m.b(m.a(x)[:, torch.tensor([1, 0, 3])])), a=conv(3, 6), b=conv(3, 4), c=conv(4, 2)
        ),
        IMAGES,
        "a",
        "is indexed by numbers",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_cannot_be_pruned_says_why(name: str) -> None:
    make, example, layer, why = FROZEN[name]
    torch.manual_seed(0)
    found = trace(make().eval(), example)
    assert layer not in named(found)
    reasons = [f.reason for f in found.frozen if f.name == layer]
    assert any(why in reason for reason in reasons), found.frozen
