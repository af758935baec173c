"""The contract of a predictive cost. Subclass it, give a `make` fixture, and every promise is tested.

class TestMine(CostContract):
    @pytest.fixture
    def make(self):
        return Mine
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoprune.protocols import MayFall, PredictiveCost
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.testing.evaluators import toy_setting
from autoprune.values.budget import PredictsMany
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Rows

MakeCost = Callable[..., PredictiveCost]


class CostContract:
    """What budgets and agents rely on."""

    @pytest.fixture
    def make(self) -> MakeCost:
        """The class under test, or anything else that is called like it."""
        raise NotImplementedError

    @pytest.fixture
    def tolerance(self) -> float:
        """How far a prediction may be from the measurement, as a share of it. Counted costs are exact."""
        return 0.0

    @pytest.fixture
    def setting(self) -> tuple[Task, Trace, SearchSpace]:
        """What is priced."""
        return toy_setting()

    def test_predicts_what_is_measured(
        self, make: MakeCost, setting: tuple[Task, Trace, SearchSpace], tolerance: float
    ) -> None:
        """The prediction is the cost of the really pruned network."""
        task, traced, space = setting
        cost = make(space=space)
        for policy in _random(space, 8):
            units = [np.arange(count) for count in policy.levels]
            measured = cost.measure(prune(task.model, traced, units), task.example)
            assert cost.predict(policy) == pytest.approx(measured, rel=tolerance, abs=0)

    def test_never_rises_with_sparsity(self, make: MakeCost, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """A unit less in any group costs no more, unless the cost says that it is not so (`monotone = False`)."""
        _, _, space = setting
        cost = make(space=space)
        if isinstance(cost, MayFall) and not cost.monotone:
            pytest.skip("not monotone, as it says itself")
        for policy in _random(space, 8):
            here, places = cost.predict(policy), space.cube.places(policy)
            for axis, place in enumerate(places):
                if place:
                    thinner = space.cube.settled([*places[:axis], place - 1, *places[axis + 1 :]])
                    assert cost.predict(thinner) <= here

    def test_many_at_once_are_as_one_by_one(self, make: MakeCost, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """A batch changes no price."""
        _, _, space = setting
        cost, policies = make(space=space), _random(space, 20)
        if not isinstance(cost, PredictsMany):
            pytest.skip("prices policies one by one")
        rows: Rows = np.array([policy.levels for policy in policies])
        assert cost.predict_many(rows).tolist() == [cost.predict(policy) for policy in policies]

    def test_has_a_unit(self, make: MakeCost, setting: tuple[Task, Trace, SearchSpace]) -> None:
        """A cost is a number with a unit."""
        assert make(space=setting[-1]).unit


def _random(space: SearchSpace, count: int) -> list[Policy]:
    rng = np.random.default_rng(0)
    return [space.cube.policy(rng.random(len(space.cube))) for _ in range(count)]
