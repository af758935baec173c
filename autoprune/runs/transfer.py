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
from autoprune.runs import lifecycle, study
from autoprune.runs.journal import RUNS
from autoprune.runs.lifecycle import Result
from autoprune.runs.mapped import Mapped
from autoprune.runs.prior import is_prior
from autoprune.runs.warm import Warm, proposed
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
        policy: a policy file, the directory of a run, what `learn` has written, or an agent.
        to: the network: as the `task` of `search`.
        budget: as of `search`; without one, the search space's, or else the policy's own as shares of dense.
        out: the folder in which the run makes its own.
        tables: further tables of a search space; finetune={"epochs": 0} leaves the finetune out.

    Raises PolicyError where nothing corresponds, or the policy decides what the network has not.
    """
    asked = lifecycle.asked_of(to, {**tables, **({} if budget is None else {"budget": dict(budget)})})
    built = study.build(of_source(asked, Path(policy)), task=to if isinstance(to, Task) else None)
    found = proposed(built, Path(policy))
    with lifecycle.begin(built, Path(out), Warm((str(policy),), (found.policy,)), called="transfer") as opened:
        return Transferred(found, lifecycle.complete(built, opened))


def of_source(asked: Config, path: Path) -> Config:
    """`asked` with one trial and, where it has no budget, that of a policy file as shares of the dense network.

    Raises PolicyError where the file is none, before networks are looked at.
    """
    one = asked.model_copy(update={"search": asked.search.model_copy(update={"trials": 1, "time": 0.0})})
    if path.suffix == ".safetensors" or is_prior(path):
        return one
    file = policy_file.read(path)
    file.placed()
    dense = {name: cost.dense for name, cost in file.costs.items() if cost.dense > 0}
    shares = {name: f"{limit.most / dense[name]:.4%}" for name, limit in file.budget.items() if name in dense}
    return one.model_copy(update={"budget": asked.budget or shares})
