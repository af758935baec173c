"""Uniform random search: the baseline that every other controller has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial


@dataclass
class Random:
    """Draws each choice's sparsity uniformly, then fits the policy to the budget. Learns nothing."""

    unadvised: ClassVar[bool] = True

    space: SearchSpace
    budget: Budget
    seed: int = 0

    def __post_init__(self) -> None:
        self._asks = Asks(self.budget, self.seed)

    def ask(self) -> Policy:
        """A random policy."""
        point = self._asks.dice().random(len(self.space.cube))
        return self._asks.fresh(self.budget.fit(self.space.cube.policy(point)))

    def tell(self, trial: Trial) -> None:
        """Count the trial."""
        self._asks.tell(trial)
