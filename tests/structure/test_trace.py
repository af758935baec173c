"""Small networks with known couplings, and networks that cannot be followed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.errors import ModelError
from autoprune.models.resnet import ResNet
from autoprune.structure.prune import keep_first, order, prune
from autoprune.structure.trace import Trace, restrict, trace


def fingerprint(model: nn.Module) -> list[tuple[str, bytes, bool]]:
    return [(n, t.detach().numpy().tobytes(), t.requires_grad) for n, t in model.state_dict(keep_vars=True).items()]


def named(found: Trace) -> dict[str, int]:
    return {g.name: g.dense for g in found.choices}


def remove(found: Trace, **gone: list[int]) -> list[np.ndarray]:
    """All units of every group but those named."""
    return [np.setdiff1d(np.arange(g.dense), gone.get(g.name.replace(".", "_"), [])) for g in found.choices]


class Wired(nn.Module):
    """Layers by name and a forward function, so that a test shows its wiring."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(inputs: int, outputs: int, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **more)


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SHAPES = {  # wiring -> groups expected
    "a chain": (
        lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), nn.Flatten(), nn.Linear(320, 4)),
        {"0": 6, "3": 5},
    ),
    "a residual": (
        lambda: Wired(lambda m, x: m.c(functional.relu(m.a(x)) + m.b(x)), a=conv(3, 6), b=conv(3, 6), c=conv(6, 2)),
        {"a": 6},
    ),
    "a concatenation": (
        lambda: Wired(lambda m, x: m.c(torch.cat([m.a(x), x, m.b(x)], 1)), a=conv(3, 6), b=conv(3, 4), c=conv(13, 2)),
        {"a": 6, "b": 4},
    ),
    "a depthwise convolution": (
        lambda: nn.Sequential(conv(3, 6), conv(6, 6, groups=6), conv(6, 2)),
        {"0": 6},
    ),
    "a depthwise multiplier": (
        lambda: nn.Sequential(conv(3, 6), conv(6, 12, groups=6), conv(12, 2)),
        {"0": 6},
    ),
    "a grouped convolution": (
        lambda: nn.Sequential(conv(3, 8), conv(8, 12, groups=4), conv(12, 2)),
        {"0": 4},
    ),
    "a group norm": (
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8), conv(8, 2)),
        {"0": 4},
    ),
    "a layer norm": (
        lambda: Wired(
            lambda m, x: m.b(m.n(m.a(x.flatten(1)))), a=nn.Linear(192, 8), n=nn.LayerNorm(8), b=nn.Linear(8, 2)
        ),
        {"a": 8},
    ),
    "a transposed convolution": (
        lambda: nn.Sequential(conv(3, 6), nn.ConvTranspose2d(6, 5, 2, 2), nn.PReLU(5), conv(5, 2)),
        {"0": 6, "1": 5},
    ),
    "squeeze and excite": (
        lambda: Wired(
            lambda m, x: m.c((y := m.a(x)) * m.up(functional.relu(m.down(y.mean((2, 3), keepdim=True)))).sigmoid()),
            a=conv(3, 6), down=nn.Conv2d(6, 3, 1), up=nn.Conv2d(3, 6, 1), c=conv(6, 2),
        ),
        {"a": 6, "down": 3},
    ),
    "two halves of one layer": (
        lambda: Wired(
            lambda m, x: m.b(torch.cat([m.l((y := m.a(x))[:, :4]), y[:, 4:]], 1)),
            a=conv(3, 8), l=conv(4, 5), b=conv(9, 2),
        ),
        {"a#2": 4, "l": 5},  # the slices are written with a fixed 4, so the first half cannot change; the second can
    ),
}  # fmt: skip


@pytest.mark.parametrize("wiring", SHAPES)
def test_finds_what_is_coupled(wiring: str) -> None:
    make, expected = SHAPES[wiring]
    torch.manual_seed(0)
    assert named(trace(make(), IMAGE)) == expected


@pytest.mark.parametrize("wiring", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_network_ignores_what_left(wiring: str, seed: int) -> None:
    """Independent of the tracer's own proof: dead units (zero producers, norms and biases) may leave unnoticed."""
    make, _ = SHAPES[wiring]
    torch.manual_seed(seed)
    model = make().eval()
    found = trace(model, IMAGE)
    rng = np.random.default_rng(seed)
    units = [np.sort(rng.permutation(g.dense)[: max(1, g.dense // 2)]) for g in found.choices]
    state = model.state_dict()
    for cuts, stay in zip(found.edits, units, strict=True):
        for one in cuts:
            if one.role == "in":
                gone = np.setdiff1d(np.arange(len(one.index)), stay)
                state[one.tensor].index_fill_(one.dim, torch.from_numpy(one.index[gone].ravel()), 0.0)
    pruned = prune(model, found, units)
    if set(found.proofs) == {"exact"}:
        torch.testing.assert_close(pruned(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)
    else:
        assert pruned(IMAGE).shape == model(IMAGE).shape


def test_a_padded_shortcut_couples_what_it_adds() -> None:
    """Option A puts channel i of one stage at i + 8 of the next; Torch-Pruning couples it with i."""
    found = trace(ResNet(8), torch.randn(1, 3, 16, 16))
    stream = found.edits[0]
    index = {c.tensor: c.index.ravel().tolist() for c in stream}
    assert index["conv1.weight"] == list(range(16))
    assert index["layer2.0.conv2.weight"] == list(range(8, 24))
    assert index["layer3.0.conv2.weight"] == list(range(24, 40))
    assert {f.name: f.units for f in found.frozen} == {"layer2.0.conv2": 16, "layer3.0.conv2": 32, "linear": 10}


def test_the_network_stays_as_it_was() -> None:
    model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.Dropout(0.5), conv(6, 2))
    model[0].weight.requires_grad_(False)
    model.train()
    model[2].eval()
    before, modes = fingerprint(model), [m.training for m in model.modules()]
    found = trace(model, IMAGE)
    prune(model, found, remove(found, **{"0": [1, 2]}))
    assert fingerprint(model) == before
    assert [m.training for m in model.modules()] == modes
    assert named(found) == {"0": 6}, "frozen parameters are pruned like all others"


def test_a_pruned_network_shares_nothing() -> None:
    model = nn.Sequential(conv(3, 6), conv(6, 4), conv(4, 2))
    before = fingerprint(model)
    pruned = prune(model, found := trace(model, IMAGE), remove(found, **{"0": [0]}))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.add_(1.0)
    assert fingerprint(model) == before


def test_modules_say_their_new_sizes() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 12, groups=4), nn.GroupNorm(6, 12), nn.Flatten(), nn.Linear(768, 2))
    found = trace(model, IMAGE)
    assert [g.dense for g in found.choices] == [2], "4 groups of a convolution and 6 of a norm move in common blocks"
    pruned = prune(model, found, [np.array([1])])
    assert (pruned[0].out_channels, pruned[1].in_channels, pruned[1].out_channels, pruned[1].groups) == (4, 4, 6, 2)
    assert (pruned[2].num_channels, pruned[2].num_groups, pruned[4].in_features) == (6, 3, 384)


class TestWhatCannotBeFollowed:
    def test_an_unknown_operator_is_named(self) -> None:
        model = Wired(lambda m, x: m.b(torch.sort(m.a(x), 1).values), a=conv(3, 6), b=conv(6, 4), c=conv(4, 2))
        model._forward = lambda m, x: m.c(m.b(torch.sort(m.a(x), 1).values))
        found = trace(model, IMAGE)
        assert named(found) == {"b": 4}
        assert (found.frozen[0].name, found.frozen[0].units) == ("a", 6)
        assert "sort" in found.frozen[0].reason

    def test_a_fixed_reshape_is_refuted_by_the_proof(self) -> None:
        model = Wired(lambda m, x: m.c(m.b(m.a(x).view(-1, 384))), a=conv(3, 6), b=nn.Linear(384, 5), c=nn.Linear(5, 2))
        found = trace(model, IMAGE)
        assert named(found) == {"b": 5}
        why = "`Wired.forward` reshapes to a size that is written down: 384"
        assert why in next(f.reason for f in found.frozen if f.name == "a")

    def test_a_channel_shuffle_is_never_wrong(self) -> None:
        def shuffle(m: nn.Module, x: Tensor) -> Tensor:
            y = m.a(x)
            y = y.view(len(y), 2, y.shape[1] // 2, 8, 8).transpose(1, 2).reshape(y.shape)
            return m.c(m.b(y))

        found = trace(Wired(shuffle, a=conv(3, 8), b=conv(8, 6), c=conv(6, 2)), IMAGE)
        assert named(found) == {"a": 4, "b": 6}, "channel i of each half is a unit, so that the halves stay alike"
        assert next(cut for cut in found.edits[0] if cut.tensor == "a.weight").index.tolist() == [
            [0, 4],
            [1, 5],
            [2, 6],
            [3, 7],
        ]

    def test_nothing_to_prune(self) -> None:
        with pytest.raises(ModelError, match="nothing in this network can be pruned"):
            trace(nn.Linear(4, 2), torch.randn(1, 4))

    def test_a_forward_that_fails(self) -> None:
        with pytest.raises(ModelError, match=r"fails on its example of shape \(1, 5, 8, 8\)"):
            trace(nn.Sequential(conv(3, 6), conv(6, 2)), torch.randn(1, 5, 8, 8))


def test_order_puts_the_most_important_first_and_ties_in_place() -> None:
    ranked = order([torch.tensor([1.0, 3.0, 3.0, 2.0])])
    assert ranked[0].tolist() == [1, 2, 3, 0]
    assert keep_first(ranked, [3])[0].tolist() == [1, 2, 3]


def test_restrict_counts_channels() -> None:
    group = trace(nn.Sequential(conv(3, 8), conv(8, 12, groups=4), conv(12, 2)), IMAGE).choices[0]
    assert (group.dense, group.width) == (4, 2)
    assert restrict(group, max_sparsity=0.5, step=4).levels == (2, 4)
    assert restrict(group, max_sparsity=0.0, step=1).levels == (4,)
