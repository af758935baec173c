"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import autoprune
from autoprune import plugins
from autoprune.costs.arithmetic import Macs
from autoprune.criteria import group_norm
from autoprune.testing.evaluators import toy_task
from autoprune.values.budget import Budget, Limit
from tests.making import bench, metric

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_plugins_are_plugins(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    ground = bench(toy_task(), group_norm)
    budget = Budget(ground.space, (Limit("macs", Macs(ground.space), 70_000),))
    settings = {"use": f"{tmp_path}/mine.py:Halves", "sparsity": 0.25}
    controller = plugins.build("controller", settings, space=ground.space, budget=budget, seed=0)
    evaluator = plugins.build("evaluator", {"use": f"{tmp_path}/mine.py:AsItIs"}, bench=ground)
    policy = controller.ask()
    assert budget.admits(policy)
    assert 0 < metric(evaluator, policy) <= 1


def test_its_contracts_exist() -> None:
    found = re.findall(r"`(\w+)\.(\w+Contract)`", README)
    assert {kind for kind, _ in found} == {"controllers", "evaluators", "costs", "targets", "criteria", "rewards"}
    for kind, name in found:
        assert hasattr(__import__(f"autoprune.testing.{kind}", fromlist=[name]), name)


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:structure|tests|search_spaces|docs|benchmarks|autoprune)/[\w/.]*)`", README)
)
def test_its_paths_exist(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "autoprune" / path).exists()


@pytest.mark.parametrize("name", re.findall(r"autoprune\.(\w+)\(", README))
def test_its_names_exist(name: str) -> None:
    assert hasattr(autoprune, name)
