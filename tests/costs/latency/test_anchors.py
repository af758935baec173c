"""Anchors of several sizes: whether a machine is steady, said with what would be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import pytest
from torch import nn

from autoprune.costs.latency import anchors
from autoprune.costs.latency.model import Latency
from autoprune.inputs import Inputs
from autoprune.testing.evaluators import toy_setting
from autoprune.testing.targets import Arithmetic


@dataclasses.dataclass(frozen=True)
class Waiting(Arithmetic):
    """With several threads every network waits as long as the next, and how long changes with every one made ready."""

    threads: int = 2
    moments: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    @property
    def key(self) -> Mapping[str, str | int]:
        return {**super().key, "threads": self.threads}

    def family(self, dense: nn.Module, example: Inputs) -> Callable[[nn.Module], Callable[[], float]]:
        return lambda model: self.ready(model, example)

    def ready(self, model: nn.Module, example: Inputs) -> Callable[[], float]:
        spent = super().ready(model, example)()
        waited = 0.05 * (next(self.moments) % 3) if self.threads > 1 else 0.0
        return lambda: spent + waited


def notes(target: Arithmetic) -> list[str]:
    task, traced, space = toy_setting()
    cost = Latency(space, traced, task, target, policies=40, unseen=8)
    cost.learn()
    return cost.notes


def test_are_of_different_size() -> None:
    _, _, space = toy_setting()
    half, thin = anchors.chosen(space)
    assert sum(half) > sum(thin)
    assert space.dense().levels not in (half, thin)


def test_a_steady_machine_is_not_spoken_of() -> None:
    assert notes(Arithmetic()) == []


def test_a_machine_whose_threads_wait_is_told_with_the_number_of_threads_that_is_steady() -> None:
    """What was called a disturbed machine is the rule with two threads: ratios move by up to 15 % between moments."""
    (said,) = notes(Waiting())
    assert said.startswith("The machine is not steady: one and the same thinner network took ")
    assert "with threads = 1 in [target] it was 0.0%, which is right" in said


def test_with_one_thread_already_there_is_no_such_advice() -> None:
    assert anchors.remark([[0.5, 0.6, 0.5]], 1, lambda: pytest.fail("it was timed")).endswith("nothing else runs.")


@pytest.mark.parametrize(("alone", "said"), [(0.01, "which is right"), (0.2, "more than threads disturbs it")])
def test_advice_is_made_of_what_was_measured(alone: float, said: str) -> None:
    found = anchors.remark([[0.5, 0.6, 0.5], [0.2, 0.3, 0.2]], 2, lambda: alone)
    assert f"it was {alone:.1%}" in found
    assert said in found
    assert "50.0% to 60.0%, 20.0% to 30.0%" in found


def test_too_few_moments_say_nothing() -> None:
    assert anchors.unrest([[0.5, 0.9]]) == 0.0
    assert anchors.unrest([]) == 0.0
    assert anchors.remark([[0.5, 0.9]], 2, lambda: 0.0) == ""
