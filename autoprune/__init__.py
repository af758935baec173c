"""Finds how much to prune each layer of a trained network, so that it meets a budget and loses the least quality.

Nothing heavy is imported until one of the names below is used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.criteria import Units
    from autoprune.errors import AutopruneError, Exhausted, TrialFailed
    from autoprune.files.export import load
    from autoprune.protocols import Controller, CostModel, Criterion, Evaluator, Reward
    from autoprune.report.facts import Report
    from autoprune.runs.apply import apply_point, apply_policy
    from autoprune.runs.journal import Run
    from autoprune.runs.lifecycle import Result, resume, search
    from autoprune.task import Images, Split, Task
    from autoprune.values.budget import Budget
    from autoprune.values.space import Group, Policy, SearchSpace
    from autoprune.values.trial import Trial

__version__ = "0.1.0"

# How many compiled operators oneDNN keeps. Every policy needs some of its own sizes, and many come again: with oneDNN's
# 1,024 a twelfth of a trial of ResNet-56 went into compiling. It is read when the first operator runs.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "2048")

_HOME = {
    "AutopruneError": "errors",
    "Budget": "values.budget",
    "Controller": "protocols",
    "CostModel": "protocols",
    "Criterion": "protocols",
    "Evaluator": "protocols",
    "Exhausted": "errors",
    "Group": "values.space",
    "Images": "task",
    "Policy": "values.space",
    "Report": "report.facts",
    "Result": "runs.lifecycle",
    "Reward": "protocols",
    "Run": "runs.journal",
    "SearchSpace": "values.space",
    "Split": "task",
    "Task": "task",
    "Trial": "values.trial",
    "TrialFailed": "errors",
    "Units": "criteria",
    "apply_point": "runs.apply",
    "apply_policy": "runs.apply",
    "load": "files.export",
    "resume": "runs.lifecycle",
    "search": "runs.lifecycle",
}

__all__ = [
    "AutopruneError",
    "Budget",
    "Controller",
    "CostModel",
    "Criterion",
    "Evaluator",
    "Exhausted",
    "Group",
    "Images",
    "Policy",
    "Report",
    "Result",
    "Reward",
    "Run",
    "SearchSpace",
    "Split",
    "Task",
    "Trial",
    "TrialFailed",
    "Units",
    "apply_point",
    "apply_policy",
    "load",
    "resume",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autoprune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
