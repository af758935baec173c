"""Elitist evolution for small budgets of trials: bred from the best so far, and only the most promising child is asked.

It starts from the uniform policy, policies scattered about it and policies anywhere. Then, for each ask, it breeds a
brood: parents among the best of all trials (the better the likelier), uniform crossover, a normal step in the sparsity
of some choices, now and then a choice drawn anew, and the fit to the budget. A ridge regression of the reward on the
sparsities and their squares, over the best trials told, chooses which child is worth an evaluation; the brood is small,
since such a sum misleads where choices depend on one another. The step grows while children reach the elite and shrinks
while they do not (Rechenberg's success rule). A policy told, or asked in this life, is not proposed again while others
are found.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprune.controllers import rules
from autoprune.controllers.ridge import promise
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Few, Share, Trials, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Floats
from autoprune.values.trial import Trial

Told = tuple[float, Floats]  # a reward, and where its policy lies in the cube

_SCATTER = 0.25  # standard deviation of the first policies about the uniform one
_SMALLEST_STEP = 0.02
_MANY = 28  # choices; of more a smaller share changes at once, so that about as many do
_RISE, _SUCCESS = 0.15, 0.25  # how fast the step adapts, and the share of successes at which it stays
_REMEMBERED = 200  # best trials that the regression looks at
_TRIES = 4  # policies bred for each one wanted, at most


@dataclass
class Evolution:
    """Breeds policies from the best so far and asks for the most promising child.

    Attributes:
        startup: trials that make the first population.
        parents: how many of the best trials breed.
        brood: children bred for an ask, of which one is evaluated; 1 is evolution without a model.
        step: first standard deviation of a mutation, in sparsity.
        mutate: chance that a choice takes a step, in [0, 1]; less where there are more than 28.
        renew: chance that a choice is drawn anew, in [0, 1]; likewise.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    startup: Trials = 10
    parents: Trials = 8
    brood: Few = 3
    step: Share = 0.15
    mutate: Share = 0.25
    renew: Share = 0.03

    def __post_init__(self) -> None:
        require(self)
        self._asks, self._factor = Asks(self.budget, self.seed), 1.0
        self._scored = 0
        self._best = list[Told]()  # of all that were scored, as many as are looked at; best first, ties to the earlier

    def ask(self) -> Policy:
        """The uniform policy first, then the startup population, then the best child of each brood."""
        number, rng = self._asks.asked, self._asks.dice()
        return self._asks.fresh(self._uniform if number == 0 else self._next(number, rng))

    def tell(self, trial: Trial) -> None:
        """Learn from the reward; of a failed trial only that it need not be tried again."""
        self._asks.tell(trial)
        if trial.reward is None:
            return
        if self._scored >= self.startup:
            success = trial.reward > self._elite[-1][0]
            self._factor *= float(np.exp(_RISE * (success - _SUCCESS)))
            self._factor = float(np.clip(self._factor, _SMALLEST_STEP / max(self.step, _SMALLEST_STEP), 1.0))
        self._scored += 1
        bisect.insort(self._best, (trial.reward, self.space.cube.point(trial.policy)), key=lambda told: -told[0])
        del self._best[max(self.parents, _REMEMBERED) :]

    def _next(self, number: int, rng: np.random.Generator) -> Policy:
        if self._scored < self.startup:
            return self._unseen(lambda: self._first(number, rng), 1)[0]
        elite = self._elite
        children = self._unseen(lambda: self._child(elite, rng), self.brood)
        if len(children) == 1:
            return children[0]
        best = self._best[:_REMEMBERED]
        points, rewards = np.array([point for _, point in best]), np.array([reward for reward, _ in best])
        expected = promise(points, rewards, np.array([self.space.cube.point(child) for child in children]))
        return children[int(np.argmax(expected))]

    def _unseen(self, draw: Callable[[], Policy], wanted: int) -> list[Policy]:
        """Up to `wanted` different policies not seen before; a seen one, if nothing else comes up."""
        found: dict[Policy, None] = {}
        for _ in range(_TRIES * wanted):
            policy = draw()
            if policy not in self._asks.seen:
                found[policy] = None
            if len(found) == wanted:
                break
        return list(found) or [policy]

    def _first(self, number: int, rng: np.random.Generator) -> Policy:
        """About the uniform policy and anywhere, in turns."""
        cube, uniform = self.space.cube, self.space.cube.point(self._uniform)
        if number % 2:
            return self._fit(uniform + self._share * rng.normal(0.0, _SCATTER, len(cube)) / cube.reach)
        anywhere = rng.random(len(cube))
        return self._fit(np.where(rng.random(len(cube)) < self._share, anywhere, uniform))

    def _child(self, elite: list[Told], rng: np.random.Generator) -> Policy:
        axes, reach = len(self.space.cube), self.space.cube.reach
        chance = np.arange(len(elite), 0, -1.0)
        one, other = (elite[i][1] for i in rng.choice(len(elite), 2, p=chance / chance.sum()))
        child = np.where(rng.random(axes) < 0.5, one, other)
        stepping = rng.random(axes) < self.mutate * self._share
        stepping |= np.arange(axes) == (rng.integers(axes) if axes else 0)  # at least one
        child = child + stepping * rng.normal(0.0, self.step * self._factor, axes) / reach
        renewed = rng.random(axes) < self.renew * self._share
        return self._fit(np.where(renewed, rng.random(axes), child))

    @property
    def _share(self) -> float:
        return min(1.0, _MANY / max(len(self.space.cube), 1))

    @property
    def _elite(self) -> list[Told]:
        """The trials that breed, best first."""
        return self._best[: self.parents]

    def _fit(self, point: Floats) -> Policy:
        return self.budget.fit(self.space.cube.policy(np.clip(point, 0.0, 1.0)))

    @cached_property
    def _uniform(self) -> Policy:
        return rules.uniform(self.space, self.budget)
