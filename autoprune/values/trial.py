"""What one evaluation said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoprune.values.space import Policy

_AROUND = {"ask", "journal", "tell"}  # phases of every trial; the others are of its evaluation


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy and what became of it. Immutable: it is told as it was written.

    Attributes:
        number: counted from 0.
        policy: what was evaluated.
        status: "ok" or "failed".
        metric: the task's quality on the holdout, higher is better; None when failed.
        costs: by name of the cost model, lower is better.
        reward: what the controller maximises; None when failed.
        error: why it failed, one line; empty otherwise.
        seconds: time spent, by phase ("ask", "prune", "score" ...).
    """

    number: int
    policy: Policy
    status: Literal["ok", "failed"] = "ok"
    metric: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    reward: float | None = None
    error: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def evaluated(self) -> bool:
        """Whether a network was made for it. A policy that came again has the outcome that it had before."""
        return not self.seconds.keys() <= _AROUND


def policies_per_second(trials: Iterable[Trial]) -> float:
    """How many of `trials` were evaluated, by the sum of their seconds; 0 where none was."""
    spent = [sum(trial.seconds.values()) for trial in trials if trial.evaluated]
    return len(spent) / sum(spent) if sum(spent) else 0.0
