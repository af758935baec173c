"""Finds how much to prune each layer of a trained network, so that it meets a budget and loses the least quality.

Nothing heavy is imported until one of the names below is used.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import count as count, prune as prune, resume as resume, search as search
    from autoprune.errors import AutopruneError as AutopruneError, Exhausted as Exhausted, TrialFailed as TrialFailed
    from autoprune.evaluators.bench import Bench as Bench
    from autoprune.files.export import load as load, save as save
    from autoprune.protocols import (
        Controller as Controller,
        CostModel as CostModel,
        Criterion as Criterion,
        Evaluator as Evaluator,
        Reward as Reward,
        Score as Score,
        Units as Units,
    )
    from autoprune.report.facts import Report as Report
    from autoprune.runs.apply import apply_point as apply_point, apply_policy as apply_policy
    from autoprune.runs.journal import Run as Run
    from autoprune.runs.lifecycle import Result as Result
    from autoprune.structure.prune import Candidate as Candidate
    from autoprune.task import Images as Images, Split as Split, Task as Task
    from autoprune.values.budget import Budget as Budget
    from autoprune.values.space import Choice as Choice, Policy as Policy, SearchSpace as SearchSpace
    from autoprune.values.trial import Failure as Failure, Outcome as Outcome, Trial as Trial


__version__ = "0.1.0"

logging.getLogger("autoprune").addHandler(logging.NullHandler())  # who uses a library decides what is shown

# How many compiled operators oneDNN keeps. Every policy needs some of its own sizes, and many come again: with oneDNN's
# 1,024 a twelfth of a trial of ResNet-56 went into compiling. It is read when the first operator runs.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "2048")

_HOME = {  # the names of each module
    "api": "count prune resume search",
    "errors": "AutopruneError Exhausted TrialFailed",
    "evaluators.bench": "Bench",
    "files.export": "load save",
    "protocols": "Controller CostModel Criterion Evaluator Reward Score Units",
    "report.facts": "Report",
    "runs.apply": "apply_point apply_policy",
    "runs.journal": "Run",
    "runs.lifecycle": "Result",
    "structure.prune": "Candidate",
    "task": "Images Split Task",
    "values.budget": "Budget",
    "values.space": "Choice Policy SearchSpace",
    "values.trial": "Failure Outcome Trial",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autoprune.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
