"""The evolutionary search of MetaPruning: generations, an elite, mutations and crossovers, nothing else.

Liu et al. 2019, https://arxiv.org/abs/1903.10258, algorithm 2, with the numbers of its code: a population of 50, the
best 10 of all so far as parents, 25 mutations in which each gene is drawn anew with a chance of 0.1, 25 crossovers that
take each gene from either parent, and random policies for the rest; 20 generations are 1,000 trials. A gene is
the level of a choice. Where the paper draws again what exceeds the budget, the default here moves it onto
the budget. It needs an evaluator that scores thousands of policies; `evolution` is made for hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import BudgetError, ConfigError, Exhausted
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, ShareAbove, Trials, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

Children = Annotated[int, Range(0, 1_000_000)]
Genes = NDArray[np.int64]  # (axes,), which of its levels each has

FEASIBLE = ("project", "redraw")
_DRAWS = 10_000  # for one policy within the budget
_TRIES = 100  # for one that was not proposed before, of each kind


@dataclass
class Genetic:
    """Evolution as in MetaPruning; proposes no policy twice.

    Attributes:
        population: policies in a generation; the first generation is random.
        parents: how many of the best of all generations so far have children.
        mutations: children of one parent in a generation.
        crossovers: children of two; what is left of the population is random.
        mutate: chance that a gene of a mutation is drawn anew, in [0, 1].
        infeasible: how policies come to meet the budget: "redraw" draws again until one does, as published; "project"
            fits each to the budget, used up to the last unit, so that all of its genes move together.
    """

    unadvised: ClassVar[bool] = True

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: Trials = 50
    parents: Annotated[int, Range(2, 1_000_000)] = 10
    mutations: Children = 25
    crossovers: Children = 25
    mutate: ShareAbove = 0.1
    infeasible: str = "project"

    def __post_init__(self) -> None:
        require(self)
        self._asks = Asks(self.budget, self.seed)
        self._best, self._then = dict[Policy, float](), dict[Policy, float]()  # now; at the end of the last generation
        if self.mutations + self.crossovers > self.population:
            children = f"{self.mutations} mutations and {self.crossovers} crossovers"
            raise ConfigError(
                f"genetic has {children} in a population of {self.population}; no more than that is right"
            )
        if self.infeasible not in FEASIBLE:
            allowed = " or ".join(map(repr, FEASIBLE))
            raise ConfigError(f"genetic has infeasible = {self.infeasible!r}; {allowed} is right")

    def ask(self) -> Policy:
        """The next member of the generation. Raises Exhausted where all policies were proposed before."""
        number, rng = self._asks.asked, self._asks.dice()
        generation, member = divmod(number, self.population)
        best = self._then if self._asks.told >= generation * self.population else self._best
        elite = [np.array(self.space.cube.places(policy), dtype=np.int64) for policy in best]
        kinds: list[Callable[[], Genes]] = [lambda: self._random(rng)]
        if elite and member < self.mutations:
            kinds.insert(0, lambda: self._mutation(elite, rng))
        elif len(elite) > 1 and member < self.mutations + self.crossovers:
            kinds.insert(0, lambda: self._crossover(elite, rng))
        known = len(self._asks.seen)
        policy = self._asks.fresh(self._drawn(kinds))
        if len(self._asks.seen) == known:
            raise Exhausted("genetic finds no policy within the budget that was not proposed before")
        return policy

    def tell(self, trial: Trial) -> None:
        """Note what became of a policy, asked or not; a failed one has no children."""
        self._asks.tell(trial)
        if trial.reward is not None and trial.policy not in self._best:
            best = [*self._best.items(), (trial.policy, trial.reward)]
            self._best = dict(sorted(best, key=lambda entry: -entry[1])[: self.parents])  # ties to the earlier
        if self._asks.told % self.population == 0:
            self._then = self._best

    def _drawn(self, kinds: list[Callable[[], Genes]]) -> Policy:
        """A policy within the budget that was not seen before, of the first kind that has one; else any."""
        for draw in kinds:
            for _ in range(_TRIES):
                policy = self._feasible(draw)
                if policy not in self._asks.seen:
                    return policy
        return policy

    def _feasible(self, draw: Callable[[], Genes]) -> Policy:
        if self.infeasible == "project":
            return self.budget.fit(self.space.cube.settled(draw().tolist()))
        for _ in range(_DRAWS):
            policy = self.space.cube.settled(draw().tolist())
            if self.budget.admits(policy):
                return policy
        raise BudgetError(
            f"genetic drew {_DRAWS:,} policies and none meets the budget; infeasible = 'project' is right for it"
        )

    def _random(self, rng: np.random.Generator) -> Genes:
        return np.array([rng.integers(len(choice.levels)) for choice in self.space.cube.leaders], dtype=np.int64)

    def _mutation(self, elite: list[Genes], rng: np.random.Generator) -> Genes:
        drawn = rng.random(len(self.space.cube)) < self.mutate
        return np.where(drawn, self._random(rng), elite[int(rng.integers(len(elite)))])

    def _crossover(self, elite: list[Genes], rng: np.random.Generator) -> Genes:
        one, other = rng.choice(len(elite), 2, replace=False)
        return np.where(rng.random(len(self.space.cube)) < 0.5, elite[int(one)], elite[int(other)])
