"""Every layer with parameters is in a choice or frozen with a reason, and no operator is left out of a sum of MACs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Flops, Macs, Params
from autoprune.errors import ModelError
from autoprune.structure.accounts import unaccounted
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_trace import IMAGE, Wired, conv, named

ROWS = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


@torch.library.custom_op("autoprune_tests::halved", mutates_args=())
def halved(inputs: Tensor, weight: Tensor) -> Tensor:
    """An operator of a user's own, of which nobody knows how often it multiplies."""
    return inputs @ weight.t() / 2


@torch.library.custom_op("autoprune_tests::linear", mutates_args=())
def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """One that is called like an operator of torch's."""
    return inputs @ weight.t()


def reasons(found: Trace) -> dict[str, str]:
    return {entry.name: entry.reason for entry in found.frozen}


def space_of(found: Trace) -> SearchSpace:
    return SearchSpace("net", found.choices, found.ops, found.parameters)


def wired(forward: Callable[..., Tensor], **layers: nn.Module) -> nn.Module:
    """Two linear layers, of which the first can be pruned, behind what `forward` does."""
    body = Wired(lambda m, x: m.head(functional.relu(m.body(forward(m, x)))), **layers)
    body.body, body.head = nn.Linear(5, 8), nn.Linear(8, 2)
    return body


UNKNOWN = {  # what reads weights -> the words that name it
    "an operator of a user's own": (
        wired(lambda m, x: torch.ops.autoprune_tests.halved(x, m.mine.weight), mine=nn.Linear(6, 5)),
        "autoprune_tests::halved in `Wired.forward`",
    ),
    "one that is called like a known one": (
        wired(lambda m, x: torch.ops.autoprune_tests.linear(x, m.mine.weight), mine=nn.Linear(6, 5)),
        "autoprune_tests::linear in `Wired.forward`",
    ),
    "a bilinear layer": (wired(lambda m, x: m.mine(x, x), mine=nn.Bilinear(6, 6, 5)), "the Bilinear `mine`"),
    "distances to centres": (
        wired(lambda m, x: torch.cdist(x, m.mine.weight), mine=nn.Linear(6, 5)),
        "_cdist_forward in `Wired.forward`",
    ),
    "the spectrum of a kernel": (
        wired(lambda m, x: m.mine(x) + torch.fft.rfft(m.mine.weight).abs().sum(), mine=nn.Linear(6, 5)),
        "_fft_r2c in `Wired.forward`",
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
@pytest.mark.parametrize("cost", [Macs, Flops])
def test_macs_of_an_operator_that_nobody_knows_are_refused_and_not_left_out(what: str, cost: type[Macs]) -> None:
    model, words = UNKNOWN[what]
    found = trace(model, ROWS)
    assert len(found.unpriced) == 1
    assert found.unpriced[0].startswith(words)
    with pytest.raises(ModelError, match="are not known") as caught:
        cost(space_of(found))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Params(space_of(found)).predict(Policy(tuple(c.dense for c in found.choices))) > 0


FREE = {
    "a lookup": lambda m, x: m.mine.weight[torch.zeros(len(x), dtype=torch.long), :5],
    "a bag of words": lambda m, x: functional.embedding_bag(torch.zeros(len(x), 2, dtype=torch.long), m.mine.weight),
    "the largest weights": lambda m, x: torch.sort(m.mine.weight[:1, :5], 1).values.expand(len(x), 5),
    "a norm of the weight": lambda m, x: functional.normalize(m.mine.weight[:1, :5], dim=1).expand(len(x), 5),
}


@pytest.mark.parametrize("what", FREE)
def test_operators_that_only_move_or_compare_weights_are_free(what: str) -> None:
    model = wired(FREE[what], mine=nn.Linear(5, 6))
    found = trace(model, ROWS)
    assert found.unpriced == ()
    assert not unaccounted(model, found.choices, found.frozen)


VECTORS = {
    "mv": lambda m, x: (functional.relu(m.a(x)) @ m.v.weight[0])[:, None],
    "addmv": lambda m, x: torch.addmv(m.v.bias.expand(len(x)), functional.relu(m.a(x)), m.v.weight[0])[:, None],
    "dot": lambda m, x: torch.dot(m.v.weight[0], m.v.weight[0]) * m.v(functional.relu(m.a(x))),
}


@pytest.mark.parametrize("operator", VECTORS)
def test_products_with_vectors_are_counted_exactly(operator: str) -> None:
    """torch's own counter leaves them out."""
    model = Wired(lambda m, x: torch.cat([VECTORS[operator](m, x), m.b(functional.relu(m.c(x)))], 1),
                  a=nn.Linear(6, 8), c=nn.Linear(6, 4), v=nn.Linear(8, 1), b=nn.Linear(4, 3))  # fmt: skip
    found = trace(model, ROWS[:1])
    macs = Macs(space_of(found))
    assert named(found) == ({"a": 8, "c": 4} if operator != "dot" else {"c": 4})
    products = 48 + 8 + 24 + 12 + 8 * (operator == "dot")
    assert macs.predict(Policy(tuple(choice.dense for choice in found.choices))) == products
    for kept in (1, 3):
        pruned = prune(model, found, [np.arange(kept) for _ in found.choices])
        assert macs.predict(Policy((kept,) * len(found.choices))) == macs.measure(pruned, ROWS)


def test_a_classifier_behind_a_norm_names_the_norm() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 5), nn.BatchNorm2d(5), nn.Flatten())
    found = trace(model, IMAGE)
    assert [(entry.name, entry.units, entry.layers) for entry in found.frozen] == [("1", 5, ("1", "2"))]
    assert not unaccounted(model, found.choices, found.frozen)


def test_a_layer_that_is_not_used_is_named() -> None:
    model = Wired(lambda m, x: m.b(m.a(x)), a=conv(3, 6), b=conv(6, 2), spare=conv(3, 7))
    assert reasons(found := trace(model, IMAGE))["spare"] == "is not used in the forward pass"
    assert not unaccounted(model, found.choices, found.frozen)


def test_a_layer_whose_output_nobody_reads_is_named() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        m.aside(y)
        return m.b(y)

    found = trace(Wired(forward, a=conv(3, 6), b=conv(6, 2), aside=conv(6, 7)), IMAGE)
    assert reasons(found)["aside"] == "is read by no layer after it"


class Scaled(nn.Module):
    """A number, a vector over pixels and a norm of the network's input: parameters of which none makes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Module()
        self.scale.number = nn.Parameter(torch.tensor(2.0))
        self.column, self.norm = nn.Module(), nn.BatchNorm2d(3)
        self.column.weight = nn.Parameter(torch.ones(8))
        self.body, self.head = conv(3, 6), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.norm(x) * self.column.weight) * self.scale.number)
        return y


def test_parameters_that_make_no_channels_are_named() -> None:
    model = Scaled()
    found = trace(model, IMAGE)
    assert named(found) == {"body": 6}
    assert reasons(found).keys() == {"head", "scale", "column", "norm"}
    assert reasons(found)["scale"] == "is a single number"
    assert "the BatchNorm2d `norm`" in reasons(found)["norm"]
    assert not unaccounted(model, found.choices, found.frozen)


def test_a_layer_that_shares_its_weight_is_in_the_choice_by_its_own_name() -> None:
    model = Wired(lambda m, x: m.d(m.c(m.b(m.a(x)))), a=nn.Linear(6, 6), b=nn.Linear(6, 6, bias=False),
                  c=nn.Linear(6, 4), d=nn.Linear(4, 2))  # fmt: skip
    model.b.weight = model.a.weight
    found = trace(model, ROWS)
    assert not unaccounted(model, found.choices, found.frozen)
    assert any("b" in entry.layers for entry in (*found.choices, *found.frozen))


def test_parameters_on_the_network_itself_have_a_name() -> None:
    """Their layer was called ""."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.bias = nn.Parameter(torch.randn(7, 6)), nn.Parameter(torch.randn(7))
            self.last = nn.Parameter(torch.randn(2, 7))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(functional.relu(functional.linear(x, self.first, self.bias)), self.last)

    model = Root()
    found = trace(model, ROWS)
    assert [(choice.name, choice.layers) for choice in found.choices] == [("first", ("first", "bias", "last"))]
    assert reasons(found) == {"last": "is the network's output"}
    assert not unaccounted(model, found.choices, found.frozen)


class TestReasonsAreInTheUsersWords:
    def test_an_operator_is_named_with_the_forward_that_calls_it(self) -> None:
        model = Wired(
            lambda m, x: m.c(m.b(torch.fft.rfft(m.a(x), dim=1).abs())), a=conv(3, 6), b=conv(4, 4), c=conv(4, 2)
        )
        why = "passes through _fft_r2c in `Wired.forward`, which cannot be followed"
        assert reasons(trace(model, IMAGE))["a"] == why

    def test_a_layer_of_torch_stands_for_its_operator(self) -> None:
        model = wired(lambda m, x: m.mix(m.a(x), m.a(x)), a=nn.Linear(6, 8), mix=nn.Bilinear(8, 8, 5))
        why = "passes through the Bilinear `mix` (_trilinear), which cannot be followed"
        assert reasons(trace(model, ROWS))["a"] == why

    def test_hooks_that_watch_are_taken_away_again(self) -> None:
        model = nn.Sequential(conv(3, 6), conv(6, 2))
        trace(model, IMAGE)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
