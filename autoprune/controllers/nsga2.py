"""NSGA-II (Deb 2002), of Optuna: a front of quality and cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from optuna.samplers import NSGAIISampler

from autoprune.controllers.optuna import DOWN, UP, Told, seed_of
from autoprune.errors import ConfigError
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Outcome, Trial

_SCATTER = 0.15  # of the first generation's points in the cube
_GENERATION = "NSGAIISampler:generation"  # where Optuna notes to which generation a trial belongs


@dataclass
class Nsga2:
    """NSGA-II (Deb 2002) with two objectives: the reward up, one cost down; or the values of a reward that has several.

    The cost is that of the first ceiling of the budget, MACs without one. Worth its name where the budget leaves room,
    i.e. with a reward that knows costs or without a budget; else every policy costs the same.

    The first generation is scattered about policies of one sparsity everywhere, from dense to the thinnest: drawing
    each choice alone would give policies of about the same cost, and a front that spans little.

    Attributes:
        population: trials in a generation.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: int = 20

    def __post_init__(self) -> None:
        self._asks, self._told = Asks(self.budget, self.seed), Told(self.space, (UP, DOWN))
        if self.population < 2:
            raise ConfigError(f"nsga2 has a population of {self.population}; at least 2 is right")

    def ask(self) -> Policy:
        """A child of the last generation's survivors, fitted to the budget."""
        number, cube = self._asks.asked, self.space.cube
        if number < self.population:
            scattered = self._asks.dice().normal(_evenly(number), _SCATTER, len(cube))
            return self._asks.fresh(self.budget.fit(cube.policy(np.clip(scattered, 0.0, 1.0))))
        sampler = NSGAIISampler(population_size=self.population, seed=seed_of(self._asks.dice()))
        return self._asks.fresh(self.budget.fit(self._told.sampled(sampler)))

    def tell(self, trial: Trial) -> None:
        """Note the values of the executed policy; a failed trial is only counted."""
        self._asks.tell(trial)
        if isinstance(trial.outcome, Outcome):
            values, several = trial.outcome.values, len(trial.outcome.values) > 1
            self._told.directions = (UP,) * len(values) if several else (UP, DOWN)
            found = values if several else (*values, self._cost(trial))
            self._told.add(trial.policy, found, {_GENERATION: len(self._told.trials) // self.population})

    def _cost(self, trial: Trial) -> float:
        name = self.budget.limits[0].name if self.budget.limits else "macs"
        if name not in trial.costs:
            raise ConfigError(f"nsga2 minimises the cost {name!r}, but trial {trial.number} has {sorted(trial.costs)}")
        return trial.costs[name]


def _evenly(number: int) -> float:
    """The term of that number of van der Corput's sequence: evenly over [0, 1), wherever it is stopped."""
    return int(f"{number:b}"[::-1], 2) / (1 << number.bit_length())
