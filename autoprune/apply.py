"""Prune again, from a `policy.json` alone: the same widths, the same criterion, statistics re-estimated, no search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autoprune import config, policy_file, study
from autoprune.errors import PolicyError
from autoprune.policy_file import PolicyFile
from autoprune.task import Task


def apply_policy(path: str | Path, task: Task | None = None, *, data: str = "") -> nn.Module:
    """The pruned network that a policy file (or a run's directory) describes, recovered but not finetuned.

    Args:
        path: of the file, or of the directory that holds it.
        task: the network to prune and its images, in place of the file's. Its architecture must be the policy's; its
            weights may be others, and are then ranked anew.
        data: where the data set of the file's task lies, if elsewhere than the file says.

    Raises PolicyError naming what differs where the policy is for another network.
    """
    file = policy_file.read(path)
    built = study.build(config.parse(_tables(file, task, data), str(path)), task=task, chosen="fp32")
    policy_file.require_same(file, built.task.model, weights=task is None)
    policy = file.policy(built.space.groups)
    model = built.evaluator.realise(policy)
    built.evaluator.metric(model)  # for its recovery; the number itself is in the run's report
    return model


def _tables(file: PolicyFile, task: Task | None, data: str) -> Mapping[str, Any]:
    """A config that says of the network and of pruning what the file says, and leaves the search aside."""
    if task is None and file.task.get("use") == study.GIVEN:
        raise PolicyError("the policy is for a Task from Python; hand it over again: apply_policy(path, task=...)")
    settings = file.task if task is None else {"use": study.GIVEN}
    if data and task is None:
        settings = {**settings, "data": data}
    return {
        "name": file.space,
        "task": settings,
        "criterion": file.criterion,
        "evaluator": file.evaluator,
        "search": {"seed": file.seed},
    }
