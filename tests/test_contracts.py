"""Registered implies tested: the shipped contracts, over every plugin in the table.

A new plugin is tested here by being registered. What a test needs to know about one (a few steps instead of fifty,
fewer asks of a slow one) is said in the tables below.
"""

from __future__ import annotations

import inspect
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from autoprune import plugins
from autoprune.task import Task
from autoprune.testing import fitted
from autoprune.testing.controllers import (
    ControllerContract,
    FixedContract,
    LandscapeContract,
    LearnerContract,
    asked,
    new,
)
from autoprune.testing.costs import CostContract
from autoprune.testing.criteria import CriterionContract
from autoprune.testing.evaluators import EvaluatorContract, toy_setting
from autoprune.testing.rewards import RewardContract
from autoprune.testing.surrogate import Landscape, half, toy_space
from autoprune.testing.targets import Arithmetic, TargetContract

FIXED = ["uniform", "deep", "shallow", "erk", "smart-ratio"]  # one policy, always the same
CHANCE = ["random", "qmc"]  # claim to cover the space, not to learn
SMALL = {"hidden": (32, 32), "warmup": 20, "gradient_steps": 8, "actor_lr": 1e-3}  # an agent for 60 trials of 8 groups
SETTINGS: dict[str, dict[str, Any]] = {
    "bayes-gp": {"startup": 4},
    "nsga2": {"population": 12},
    "ddpg": SMALL,
    "td3": SMALL,
    "sac": SMALL,
    "recalibrate": {"images": 256, "holdout": 100},
    "reconstruct": {"images": 256, "recalibrate": 256, "holdout": 100},
    "reconstruct-sequential": {"images": 128, "holdout": 100},
    "finetune": {"images": 256, "holdout": 100, "steps": 5},
    "pruningnet": {"epochs": 1.0, "batch": 64, "images": 256, "holdout": 100},
    "supernet": {"epochs": 1.0, "batch": 64, "images": 256, "holdout": 100},
    "legr": {"population": 15, "sample": 6},
    "genetic": {"population": 20, "mutations": 10, "crossovers": 10},
}
ASKS = {"bayes-gp": 8, "ddpg": 24, "td3": 24, "sac": 24}  # fits a Gaussian process at every ask
PER_SEED = {"bayes-gp": 10}  # its first asks are drawn
TRIALS = {"bayes-gp": 20}


TABLES = sorted((Path(__file__).parent / "assets" / "landscapes").glob("*.json"), reverse=True)


@cache
def landscape_of(table: Path) -> fitted.Fitted:
    return fitted.read(table)


def registered(kind: str, leaving: list[str] | None = None) -> list[str]:
    return [name for name in plugins.OURS[kind] if name not in (leaving or [])]


def loaded(kind: str, name: str) -> Any:
    plugin = plugins.load(kind, name)
    return partial(plugin, **SETTINGS[name]) if name in SETTINGS else plugin


def parameters(plugin: Any) -> Any:
    return inspect.signature(plugin).parameters


class _Controllers:
    @pytest.fixture
    def make(self, name: str) -> Any:
        return loaded("controller", name)

    @pytest.fixture
    def asks(self, name: str) -> int:
        return ASKS.get(name, 40)

    @pytest.fixture
    def trials(self, name: str) -> int:
        return TRIALS.get(name, 60)


@pytest.mark.parametrize("name", FIXED)
class TestFixedControllers(_Controllers, FixedContract):
    pass


@pytest.mark.parametrize("name", CHANCE)
class TestChanceControllers(_Controllers, ControllerContract):
    pass


@pytest.mark.parametrize("name", registered("controller", [*FIXED, *CHANCE]))
class TestLearningControllers(_Controllers, LearnerContract):
    pass


@pytest.mark.parametrize(
    ("name", "table"),
    [
        pytest.param(name, table, id=f"{name}-{table.stem}", marks=[pytest.mark.slow] * (name in ASKS or at > 0))
        for name in registered("controller", [*FIXED, *CHANCE])
        for at, table in enumerate(TABLES)
    ],
)
class TestLearningControllersOnRealScores(_Controllers, LandscapeContract):
    @pytest.fixture
    def landscape(self, table: Path) -> Landscape:
        return landscape_of(table)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [1, 8, 32])
@pytest.mark.parametrize("name", registered("controller", FIXED))
def test_ten_thousand_asks_stay_within_the_budget(name: str, step: int) -> None:
    """By many controllers of few asks: that is where asks vary, and some grow slow with what they were told."""
    space = toy_space(depth=6, step=step, width=64)
    budget, count = half(space), 10_000
    for seed in range(count):
        controller = loaded("controller", name)(space=space, budget=budget, seed=seed)
        for trial in islice(asked(controller, space), PER_SEED.get(name, 25)):
            assert budget.admits(trial.policy)
            count -= 1
        if count <= 0:
            break


@pytest.mark.parametrize("name", registered("evaluator"))
class TestEvaluators(EvaluatorContract):
    @pytest.fixture
    def make(self, name: str) -> Any:
        return loaded("evaluator", name)


@pytest.mark.parametrize("name", registered("criterion"))
class TestCriteria(CriterionContract):
    @pytest.fixture
    def criterion(self, name: str) -> Any:
        return loaded("criterion", name)


@pytest.mark.parametrize("name", registered("cost"))
class TestCosts(CostContract):
    @pytest.fixture
    def make(self, name: str) -> Any:
        task, traced, _ = toy_setting()
        given = {"trace": traced, "task": task, "target": Arithmetic(), "policies": 60}
        return partial(plugin := loaded("cost", name), **{k: v for k, v in given.items() if k in parameters(plugin)})

    @pytest.fixture
    def tolerance(self, name: str) -> float:
        return 0.03 if name == "latency" else 0.0


@pytest.mark.parametrize("name", registered("target", ["torch-compile", "torch-cuda", "openvino", "command"]))
class TestTargets(TargetContract):
    @pytest.fixture
    def make(self, name: str) -> Any:
        return loaded("target", name)


@pytest.mark.parametrize("name", registered("reward"))
class TestRewards(RewardContract):
    @pytest.fixture
    def reward(self, name: str) -> Any:
        return plugins.build("reward", {"use": name})


def test_builtin_tasks_return_tasks() -> None:
    for name in registered("task"):
        assert plugins.load("task", name).__annotations__["return"] in (Task, "Task")


def test_every_name_is_found_as_users_write_it() -> None:
    for kind in plugins.OURS:
        assert set(registered(kind)) <= set(plugins.names(kind))
    assert new(loaded("controller", "uniform")).ask() == new(loaded("controller", "evolution")).ask()
