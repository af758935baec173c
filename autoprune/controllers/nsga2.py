"""NSGA-II (Deb 2002), of Optuna: a front of quality and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from optuna.samplers import NSGAIISampler
from optuna.study import StudyDirection

from autoprune.controllers.optuna import DOWN, UP, Words, quiet, seed_of, study_of
from autoprune.errors import ConfigError
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Outcome, Trial

Told = tuple[Policy, tuple[float, ...]]  # and its values

_SCATTER = 0.15  # of the first generation's points in the cube
_GENERATION = "NSGAIISampler:generation"  # where Optuna notes to which generation a trial belongs
_SURVIVORS, _LAST, _NEXT = range(3)  # of all generations before the last whole one, that one, and its children


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

    seeks_front: ClassVar[bool] = True

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: Annotated[int, Range(2, 10_000)] = 20

    def __post_init__(self) -> None:
        require(self)
        self._asks, self._words, self._study = Asks(self.budget, self.seed), Words(self.space), study_of(())
        self._survivors, self._now = list[Told](), list[Told]()

    def ask(self) -> Policy:
        """A child of the last generation's survivors, fitted to the budget."""
        number, cube = self._asks.asked, self.space.cube
        if number < self.population:
            scattered = self._asks.dice().normal(_evenly(number), _SCATTER, len(cube))
            return self._asks.fresh(self.budget.fit(cube.policy(np.clip(scattered, 0.0, 1.0))))
        sampler = self._sampler(seed_of(self._asks.dice()))
        return self._asks.fresh(self.budget.fit(self._words.proposed(self._study, sampler)))

    def tell(self, trial: Trial) -> None:
        """Note the values of the executed policy; a failed trial is only counted."""
        self._asks.tell(trial)
        if not isinstance(trial.outcome, Outcome):
            return
        values, several = trial.outcome.values, len(trial.outcome.values) > 1
        self._now.append((trial.policy, values if several else (*values, self._cost(trial))))
        if len(self._now) == self.population:
            self._select((UP,) * len(values) if several else (UP, DOWN))

    def _select(self, directions: Sequence[StudyDirection]) -> None:
        """End a generation: its best and those of all earlier ones are the next one's parents; others are forgotten."""
        told = [*self._survivors, *self._now]
        ages = [_SURVIVORS] * len(self._survivors) + [_LAST] * len(self._now)
        trials = [self._words.trial(*one, {_GENERATION: age}) for one, age in zip(told, ages, strict=True)]
        self._study = study_of(trials, directions)
        with quiet():
            parents = self._sampler(0).get_parent_population(self._study, _NEXT)  # and keeps them for the asks
        self._survivors, self._now = [told[parent.number] for parent in parents], []

    def _sampler(self, seed: int) -> NSGAIISampler:
        return NSGAIISampler(population_size=self.population, seed=seed)

    def _cost(self, trial: Trial) -> float:
        name = self.budget.limits[0].name if self.budget.limits else "macs"
        if name not in trial.costs:
            raise ConfigError(f"nsga2 minimises the cost {name!r}, but trial {trial.number} has {sorted(trial.costs)}")
        return trial.costs[name]


def _evenly(number: int) -> float:
    """The term of that number of van der Corput's sequence: evenly over [0, 1), wherever it is stopped."""
    return int(f"{number:b}"[::-1], 2) / (1 << number.bit_length())
