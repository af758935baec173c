"""CMA-ES with margin (Hamano et al. 2022, https://arxiv.org/abs/2205.13482), by the library behind Optuna's.

CMA-ES (Hansen 2016, arXiv:1604.00772) whose distribution does not become narrower along an axis than a level is wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from cmaes import CMAwM

from autoprune.controllers.optuna import seed_of
from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, ShareAbove, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Floats
from autoprune.values.trial import Trial


@dataclass
class CmaEs:
    """CMA-ES with margin, around the uniform policy.

    Replay is exact because it is seeded anew for each ask, and moves on told trials only.

    Attributes:
        population: trials between two moves of the distribution.
        sigma: first standard deviation, as a share of each choice's largest sparsity, in (0, 1].
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: Annotated[int, Range(4, 10_000)] = 10
    sigma: ShareAbove = 0.2

    def __post_init__(self) -> None:
        require(self)
        self._asks, self._waiting = Asks(self.budget, self.seed), list[tuple[Floats, float]]()

    def ask(self) -> Policy:
        """A draw from the distribution, fitted to the budget."""
        seed = seed_of(self._asks.dice())
        if not len(self.space.cube):
            return self.space.dense()
        self._cma.reseed_rng(seed)
        point, _ = self._cma.ask()
        return self._asks.fresh(self.budget.fit(self.space.cube.policy(point)))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; with `population` of them the distribution moves."""
        self._asks.tell(trial)
        if trial.reward is None or not len(self.space.cube):
            return
        self._waiting.append((self.space.cube.point(trial.policy), -trial.reward))
        if len(self._waiting) == self.population:
            self._cma.tell(self._waiting)
            self._waiting = []

    @cached_property
    def _cma(self) -> CMAwM:
        mean = self.space.cube.point(uniform(self.space, self.budget))
        return CMAwM(
            mean=mean,
            sigma=self.sigma,
            bounds=np.array([[0.0, 1.0]] * len(mean)),
            steps=np.array([1 / (len(leader.levels) - 1) for leader in self.space.cube.leaders]),
            seed=0,
            population_size=self.population,
        )
