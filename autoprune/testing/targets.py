"""The contract of a target, and a target without a clock.

class TestMine(TargetContract):
    @pytest.fixture
    def make(self):
        return Mine
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn

from autoprune.inputs import Inputs
from autoprune.protocols import Target, TimesFamilies
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.testing.evaluators import state_of, toy_setting
from autoprune.values.space import SearchSpace

MakeTarget = Callable[[], Target]


@dataclass(frozen=True)
class Arithmetic:
    """A runtime that takes a tenth of a millisecond, and one more for every ten thousand parameters.

    Attributes:
        wobble: by how much, as a share, every second run is slower.
    """

    wobble: float = 0.0

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {"runtime": "arithmetic", "device": "none"}

    def ready(self, model: nn.Module, example: Inputs) -> Callable[[], float]:
        """As `Target.ready`."""
        spent = 0.1 + sum(p.numel() for p in model.parameters()) / 1e4
        runs = [0]

        def once() -> float:
            runs[0] += 1
            return spent * (1 + self.wobble * (runs[0] % 2))

        return once


class TargetContract:
    """What measuring relies on."""

    @pytest.fixture
    def make(self) -> MakeTarget:
        """The class under test, or anything else that is called like it."""
        raise NotImplementedError

    @pytest.fixture
    def setting(self) -> tuple[Task, Trace, SearchSpace]:
        """What is timed."""
        return toy_setting()

    def test_gives_milliseconds(self, make: MakeTarget, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """A network that is ready can be run again and again."""
        task, _, _ = setting
        run = make().ready(task.model, task.example)
        assert all(0 < run() < 60_000 for _ in range(3))

    def test_leaves_the_network_alone(self, make: MakeTarget, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """Getting ready changes a copy."""
        task, _, _ = setting
        before = state_of(task.model)
        make().ready(task.model, task.example)()
        assert state_of(task.model) == before

    def test_says_what_times_depend_on(self, make: MakeTarget) -> None:
        """The same settings on the same machine have the same key, and it can be written to a file."""
        assert {"runtime", "device"} <= set(make().key)
        assert json.loads(json.dumps(dict(make().key))) == dict(make().key) == dict(make().key)

    def test_a_family_runs_pruned_networks(self, make: MakeTarget, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """Networks pruned from one another can be made ready faster; the dense one belongs to them."""
        task, traced, space = setting
        target = make()
        if not isinstance(target, TimesFamilies):
            pytest.skip("makes every network ready by itself")
        ready = target.family(task.model, task.example)
        thin = prune(task.model, traced, [np.arange(level) for level in space.snap([0.5] * len(space)).levels])
        assert all(ready(model)() > 0 for model in (task.model, thin))
