"""LeGR (Chin et al. 2020, https://arxiv.org/abs/1904.12368): a global ranking is learnt, by evolution.

All units of the network stand in one order, by a score that is affine in each layer, a x + b, and those that come last
leave until the budget holds. What is searched are the a and b. Evolution ages: the best of a few drawn by lot has a
child, which takes the place of the oldest (Real et al. 2019, arXiv:1802.01548). Controllers see no weights, so that x,
which is a filter's norm there, is its rank within the layer here; of a policy that was told, b is what the layer keeps
and a is 1.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, ShareAbove, Trials, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Floats
from autoprune.values.trial import Trial

_HALVINGS = 30
_MUTATED = 0.1  # share of the choices whose a and b change in a child
_TRIES = 8  # children bred for one that was not asked before


@dataclass
class LeGR:
    """Evolves an affine transformation of each choice's ranks, after which all units are in one order.

    Attributes:
        population: the last so many trials, of which parents are drawn; as many are random at first.
        sample: how many are drawn for each child, of which the best has it.
        size: deviation of a change, of log a and, as a share of the choice, of b.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: Trials = 64
    sample: Annotated[int, Range(1, 10_000)] = 16
    size: ShareAbove = 0.3

    def __post_init__(self) -> None:
        require(self)
        self._asks = Asks(self.budget, self.seed)
        self._living = deque[tuple[float, Floats]](maxlen=self.population)

    def ask(self) -> Policy:
        """The uniform policy first, then random rankings, then children."""
        number, rng = self._asks.asked, self._asks.dice()
        if number == 0:
            return self._asks.fresh(uniform(self.space, self.budget))
        for _ in range(_TRIES):
            policy = self._child(rng)
            if policy not in self._asks.seen:
                break
        return self._asks.fresh(policy)

    def tell(self, trial: Trial) -> None:
        """The newest takes the place of the oldest; of a failed one note only that it was made."""
        self._asks.tell(trial)
        if trial.reward is not None:
            self._living.append((trial.reward, self.space.cube.point(trial.policy)))

    def _child(self, rng: np.random.Generator) -> Policy:
        axes = len(self.space.cube)
        changes = rng.normal(0.0, self.size, (2, axes))
        if len(self._living) < self.population:
            parent = self.space.cube.point(uniform(self.space, self.budget))
        else:
            drawn = rng.integers(len(self._living), size=self.sample)
            parent = max((self._living[at] for at in drawn), key=lambda member: member[0])[1]
            changed = rng.permutation(axes) < max(1, round(_MUTATED * axes))
            changes = changes * changed
        return self._ranked(np.exp(changes[0]), changes[1] - parent)

    def _ranked(self, slope: Floats, offset: Floats) -> Policy:
        """What is left below a threshold of slope x + offset, x in [0, 1] a unit, that the budget allows."""
        cube = self.space.cube

        def policy(threshold: float) -> Policy:
            return cube.policy(np.clip((threshold - offset) / slope, 0.0, 1.0))

        if not self.budget.limits:
            return policy(0.0)
        mild, hard = float(np.min(offset, initial=0.0)), float(np.max(offset + slope, initial=1.0))
        for _ in range(_HALVINGS):
            middle = (mild + hard) / 2
            mild, hard = (mild, middle) if self.budget.admits(policy(middle)) else (middle, hard)
        return self.budget.fit(policy(hard))
