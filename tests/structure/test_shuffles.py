"""Channels that are dealt out and shuffled: every second one, halves, thirds; what is a unit then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Macs
from autoprune.models.fastestdet import Backbone
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_trace import Wired, conv, named

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _views(x: Tensor) -> Tensor:
    """ShuffleNet's shuffle: two halves, dealt out in turns."""
    count, channels, height, width = x.shape
    return x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, -1, height, width)


def _chunked(m: nn.Module, x: Tensor) -> Tensor:
    for unit in (m.b, m.c):
        first, second = (x if x.shape[1] > 3 else m.a(x)).chunk(2, 1)
        x = _views(torch.cat([first, unit(second)], 1))
    return m.d(x)


def _dealt(m: nn.Module, x: Tensor) -> Tensor:
    for unit in (m.b, m.c):
        x = x if x.shape[1] > 3 else m.a(x)
        x = torch.cat([x[:, 0::2], unit(x[:, 1::2])], 1)
    return m.d(x)


def _thirds(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.d(torch.cat([m.b(y[:, 0::3]), m.c(y[:, 2::3])], 1))


def _passing(m: nn.Module, x: Tensor) -> Tensor:
    one, other, last = m.a(x).chunk(3, 1)
    return m.d(torch.cat([m.b(one), other, m.c(last)], 1))


WIRED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, nn.Module], dict[str, int]]] = {
    "every second channel, as FastestDet writes its shuffle": (
        _dealt,
        {"a": conv(3, 16), "b": conv(8, 8), "c": conv(8, 8), "d": conv(16, 2)},
        {"a": 4, "b": 4, "c": 8},  # what passes both units is four of a kind, or two
    ),
    "halves that are dealt out by views, as ShuffleNet writes its": (
        _chunked,
        {"a": conv(3, 16), "b": conv(8, 8), "c": conv(8, 8), "d": conv(16, 2)},
        {"a": 4},  # position i of one half goes with that of the other, twice
    ),
    "every third channel, of which one is read by nobody": (
        _thirds,
        {"a": conv(3, 12), "b": conv(4, 5), "c": conv(4, 7), "d": conv(12, 2)},
        {"a": 4, "b": 5, "c": 7},
    ),
    "thirds of which one passes": (
        _passing,
        {"a": conv(3, 12), "b": conv(4, 5), "c": conv(4, 7), "d": conv(16, 2)},
        {"a": 4, "b": 5, "c": 7},
    ),
}


@pytest.mark.parametrize("name", WIRED)
def test_channels_that_pass_a_shuffle_are_not_frozen(name: str) -> None:
    forward, layers, choices = WIRED[name]
    torch.manual_seed(0)
    model = Wired(forward, **layers).eval()
    found = trace(model, IMAGES)
    assert named(found) == choices
    assert set(found.proofs) == {"exact"}
    _priced(model, IMAGES, found)


def test_fastestdet_has_six_frozen_entries_and_not_fifty_nine() -> None:
    model = Backbone().eval()
    images = torch.randn(1, 3, 64, 64)
    found = trace(Wired(lambda m, x: m.head(m.backbone(x)[2]), backbone=model, head=conv(192, 2)).eval(), images)
    passing = {c.name: (c.dense, c.width) for c in found.choices if c.name.endswith("branch_main.5")}
    assert passing["backbone.stage4.3.branch_main.5"] == (96, 1)
    assert passing["backbone.stage4.1.branch_main.5"] == (
        24,
        4,
    )  # it passes two units more, which take every second one
    assert {f.reason for f in found.frozen} == {
        "makes channels that all depend on one another",
        "is the network's output",
    }


def test_the_last_part_of_a_split_into_written_sizes_is_pruned_by_itself() -> None:
    """The others stay as wide as it is written; chunks would be halves of what is left."""
    model = Wired(
        lambda m, x: m.d(torch.cat([m.b((y := m.a(x).split(4, 1))[0]), m.c(y[1])], 1)),
        a=conv(3, 8), b=conv(4, 5), c=conv(4, 7), d=conv(12, 2),
    ).eval()  # fmt: skip
    found = trace(model, IMAGES)
    assert named(found) == {"a#2": 4, "b": 5, "c": 7}
    assert "a" in {f.name for f in found.frozen}


def test_channels_padded_with_ones_are_no_channels_of_the_first_layer() -> None:
    model = Wired(
        lambda m, x: m.b(functional.pad(m.a(x), (0, 0, 0, 0, 0, 2), value=1.0)), a=conv(3, 6), b=conv(8, 2)
    ).eval()
    found = trace(model, IMAGES)
    assert named(found) == {"a": 6}
    _priced(model, IMAGES, found)


def _priced(model: nn.Module, example: Tensor, found: Trace) -> None:
    macs = Macs(SearchSpace("net", found.choices, found.ops, found.parameters))
    rng = np.random.default_rng(0)
    for _ in range(3):
        policy = Policy.of(rng.choice(c.levels) for c in found.choices)
        units = [np.sort(rng.permutation(c.dense)[:n]) for c, n in zip(found.choices, policy.levels, strict=True)]
        assert macs.predict(policy) == macs.measure(prune(model, found, units), example)
