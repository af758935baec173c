"""Quasi-random search: scrambled Sobol points, of scipy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.stats import qmc

from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial


@dataclass
class Qmc:
    """Scrambled Sobol points: covers the space more evenly than random search. Learns nothing."""

    unadvised: ClassVar[bool] = True

    space: SearchSpace
    budget: Budget
    seed: int = 0

    def __post_init__(self) -> None:
        self._asks = Asks(self.budget, self.seed)

    def ask(self) -> Policy:
        """The next point of the sequence, fitted to the budget."""
        number, cube = self._asks.asked, self.space.cube
        self._asks.dice()
        if not len(cube):
            return self.space.dense()
        if ahead := number - self._points.num_generated:  # of a resumed run; scipy refuses to advance by 0
            self._points.fast_forward(ahead)
        return self._asks.fresh(self.budget.fit(cube.policy(self._points.random()[0])))

    def tell(self, trial: Trial) -> None:
        """Count the trial."""
        self._asks.tell(trial)

    @cached_property
    def _points(self) -> qmc.Sobol:
        return qmc.Sobol(len(self.space.cube), scramble=True, rng=np.random.default_rng(self.seed))
