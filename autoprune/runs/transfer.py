"""A policy of one network made one of another: mapped by role, fitted to a budget, finetuned and reported.

What it leaves is a run of one trial, which can be resumed as a search that begins there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config import Config
from autoprune.files import policy_file
from autoprune.files.policy_file import PolicyFile
from autoprune.runs import lifecycle, study
from autoprune.runs.lifecycle import RUNS, Result
from autoprune.runs.mapped import Mapped, mapped
from autoprune.runs.warm import Warm
from autoprune.task import Task


@dataclass(frozen=True)
class Transferred:
    """What became of a policy on another network.

    Attributes:
        mapped: the policy, and from what each choice got it.
        result: as of a search.
    """

    mapped: Mapped
    result: Result


def transfer(
    policy: str | Path,
    to: Task | str | Path,
    budget: Mapping[str, str | float] | None = None,
    *,
    out: str | Path = RUNS,
    **tables: Any,
) -> Transferred:
    """Map a policy file to another network, finetune what that gives, and report.

    Args:
        policy: a policy file, or the directory of a run.
        to: the network: as the `task` of `search`.
        budget: as of `search`; without one, the search space's, or else the policy's own as shares of dense.
        out: the folder in which the run makes its own.
        tables: further tables of a search space; finetune={"epochs": 0} leaves the finetune out.

    Raises PolicyError where nothing corresponds, or the policy decides what the network has not.
    """
    file = policy_file.read(policy)
    file.placed()
    asked = lifecycle.asked_of(to, {**tables, **({} if budget is None else {"budget": dict(budget)})})
    built = study.build(of_policy(asked, file), task=to if isinstance(to, Task) else None)
    found = mapped(built, file.placed(), str(policy))
    with lifecycle.begin(built, Path(out), Warm((str(policy),), (found.policy,))) as opened:
        return Transferred(found, lifecycle.complete(built, opened))


def of_policy(asked: Config, file: PolicyFile) -> Config:
    """`asked` with one trial and, where it has no budget, that of the policy as shares of the dense network."""
    dense = {name: cost.dense for name, cost in file.costs.items() if cost.dense > 0}
    shares = {name: f"{limit.most / dense[name]:.4%}" for name, limit in file.budget.items() if name in dense}
    search = asked.search.model_copy(update={"trials": 1})
    return asked.model_copy(update={"search": search, "budget": asked.budget or shares})
