"""Operators and layers of a user's own: declared in a line, or by a class, and proven like ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune import config, plugins
from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory
from autoprune.errors import AutopruneError, ConfigError
from autoprune.structure.declared import KeepsChannels, Mixes, Operator, Pointwise
from autoprune.structure.labels import Call
from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_trace import IMAGE, Wired, conv, named


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """Two operators that nobody but this file knows."""
    with torch.library._scoped_library("mine", "FRAGMENT") as made:
        made.define("swish(Tensor x) -> Tensor")
        made.impl("swish", lambda x: x * x.sigmoid(), "CPU")
        made.define("blur(Tensor x) -> Tensor")
        made.impl("blur", lambda x: (x + x.roll(1, 2) + x.roll(1, 3)) / 3, "CPU")
        yield


class Noisy(nn.Module):
    """An activation that torch's own operators hide: its channels are sorted and put back."""

    def forward(self, x: Tensor) -> Tensor:
        values, order = x.flatten(1).sort(1)
        return torch.zeros_like(values).scatter(1, order, values.tanh()).reshape(x.shape)


class Doubled(nn.Module):
    """A layer that multiplies within."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(torch.eye(8) * 2, x)


def _between(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 6), middle, conv(6, 5), conv(5, 2)).eval()


def _called(name: str) -> nn.Module:
    return Wired(lambda m, x: getattr(torch.ops.mine, name)(x))


CASES: dict[str, tuple[nn.Module, Operator]] = {
    "a pointwise operator": (_called("swish"), Pointwise("mine::swish")),
    "an operator that keeps channels": (_called("blur"), KeepsChannels("mine::blur")),
    "a pointwise layer": (Noisy(), Pointwise("Noisy")),
    "a layer by its address": (Noisy(), KeepsChannels(f"{__name__}:Noisy", dim=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_declared_is_followed_and_proven(name: str) -> None:
    middle, declared = CASES[name]
    network = _between(middle)
    unknown = trace(network, IMAGE)
    assert "0" not in named(unknown), "unknown is never guessed"
    found = trace(network, IMAGE, [declared])
    assert named(found) == {"0": 6, "2": 5}
    assert set(found.proofs) == {"exact"}


@pytest.mark.parametrize("name", CASES)
def test_costs_of_networks_with_declared_operators_are_exact(name: str) -> None:
    middle, declared = CASES[name]
    network = _between(middle)
    found = trace(network, IMAGE, [declared])
    space = SearchSpace(name, found.choices, found.ops, found.parameters)
    pruned = prune(network, found, [np.array([0, 2, 5]), np.array([1, 4])])
    for cost in (Macs(space), Params(space)) if "layer" in name else (Macs(space), Params(space), Memory(space, found)):
        assert cost.predict(Policy((3, 2))) == cost.measure(pruned, IMAGE), type(cost).__name__


def test_memory_within_a_declared_layer_is_not_guessed() -> None:
    middle, declared = CASES["a pointwise layer"]
    found = trace(_between(middle), IMAGE, [declared])
    space = SearchSpace("declared", found.choices, found.ops, found.parameters)
    with pytest.raises(ConfigError, match="memory is not known"):
        Memory(space, found).predict(Policy((3, 2)))


def test_a_false_declaration_is_refuted() -> None:
    """Turning channels round is not pointwise, whatever is said."""
    found = trace(_between(Turned()), IMAGE, [Pointwise("Turned")])
    assert named(found) == {"2": 5}
    assert any(f.name == "0" and "something else" in f.reason for f in found.frozen)


def test_what_mixes_is_named() -> None:
    found = trace(_between(_called("swish")), IMAGE, [Mixes("mine::swish")])
    assert named(found) == {"2": 5}
    assert any(f.name == "0" and "is read by mine::swish" in f.reason for f in found.frozen)


def test_a_layer_that_multiplies_is_not_priced_by_guess() -> None:
    found = trace(_between(Doubled()), IMAGE, [KeepsChannels("Doubled")])
    assert named(found) == {"2": 5}
    assert any(f.name == "0" and "Doubled, which multiplies" in f.reason for f in found.frozen)


def test_a_declaration_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="'mine::swsh': the network calls no such operator and has no such layer"):
        trace(_between(_called("swish")), IMAGE, [Pointwise("mine::swsh")])


@dataclass(frozen=True)
class Reversed:
    """A declaration by hand: whatever it is of turns the channels round."""

    of: str = "Turned"

    def follow(self, call: Call) -> None:
        labels = list(call.labels(call.inputs[0]))
        labels[1] = None if labels[1] is None else labels[1][::-1].copy()
        call.set(labels)


class _Broken(Reversed):
    def follow(self, call: Call) -> None:
        call.labels(call.inputs[0])[9]


class Turned(nn.Module):
    """Turns the channels round, by numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, torch.arange(x.shape[1] - 1, -1, -1)]


def test_a_class_of_a_users_own_says_what_happens() -> None:
    network = _between(Turned())
    assert named(trace(network, IMAGE)) == {"2": 5}
    made = plugins.build("operator", {"use": f"{__name__}:Reversed"})
    found = trace(network, IMAGE, [made])
    assert named(found) == {"0": 6, "2": 5}
    assert set(found.proofs) == {"exact"}


def test_a_declaration_that_fails_is_named() -> None:
    with pytest.raises(ConfigError, match=r"of = 'Turned' fails on inputs of shape \(1, 6, 8, 8\): IndexError"):
        trace(_between(Turned()), IMAGE, [_Broken()])


def test_operators_are_named_in_toml(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[task]\nuse = "cifar10"\n'
        '[[operator]]\nuse = "pointwise"\nof = "mine::swish"\n'
        '[[operator]]\nuse = "own.py:Own"\n'
    )
    asked = config.read(file)
    assert plugins.build("operator", asked.operator[0].settings) == Pointwise("mine::swish")
    assert asked.operator[1].use == f"{tmp_path}/own.py:Own"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use": "pointwise"}, "operator 'pointwise' needs the setting 'of'"),
        ({"use": "keeps-channels", "of": "a::b", "dim": "x"}, "setting 'dim' is 'x'"),
        ({"use": "pointwse"}, "no operator is called 'pointwse'; did you mean 'pointwise'?"),
        ({"use": "builtins:dict"}, "operator 'builtins:dict'"),
    ],
)
def test_a_wrong_declaration_is_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(AutopruneError) as caught:
        plugins.build("operator", settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
