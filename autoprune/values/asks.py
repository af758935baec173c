"""What a controller knows of its own asks: dice for each, and what was asked, so that no policy is asked twice.

A controller of a few lines that keeps every promise of `autoprune.testing.controllers`:

    def __init__(self, space, budget, seed=0):
        self.space, self.budget, self.asks = space, budget, Asks(budget, seed)

    def ask(self):
        point = self.asks.dice().random(len(self.space.cube))
        return self.asks.fresh(self.budget.fit(self.space.cube.policy(point)))

    def tell(self, trial):
        self.asks.tell(trial)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autoprune.values.budget import Budget
from autoprune.values.dice import Dice
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

_LISTED = 1000  # in a space with no more policies than that, all are known
_TRIES = 200  # policies about a wish, in any other
_NEAR, _FURTHER = 0.35, 1.05  # standard deviation of the first, in levels, and its factor from one to the next


@dataclass
class Asks:
    """Counts asks and tells, hands out one generator an ask, and remembers what was asked.

    Attributes:
        budget: what every policy meets.
        seed: of all generators.
        seen: what was asked or told, whatever became of it. A trial of another rung than the first does not count.
    """

    budget: Budget
    seed: int
    seen: set[Policy] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)

    @property
    def asked(self) -> int:
        """How many asks there were: the number of the next one."""
        return self._dice.asked

    @property
    def told(self) -> int:
        """How many trials were told."""
        return self._dice.told

    def dice(self) -> np.random.Generator:
        """The generator of the next ask; called once an ask."""
        return self._dice.ask()

    def fresh(self, wish: Policy) -> Policy:
        """What to ask for where a controller would like `wish`, which meets the budget: that, unless it was seen.

        Then the nearest one that was not, which meets the budget, too, and uses it up where that is wanted; `wish`
        again only where none is found. Called last in an ask.
        """
        policy = wish if wish not in self.seen else self._other(wish)
        self.seen.add(policy)
        return policy

    def tell(self, trial: Trial) -> None:
        """Note one trial, asked or not, scored or failed."""
        self._dice.tell()
        if trial.rung == 0:
            self.seen.add(trial.policy)

    def _other(self, wish: Policy) -> Policy:
        rng = self._dice.again()
        if left := [policy for policy in self._every if policy not in self.seen]:
            return self._nearest(wish, left, rng)
        return next((policy for policy in self._about(wish, rng) if policy not in self.seen), wish)

    def _nearest(self, wish: Policy, left: list[Policy], rng: np.random.Generator) -> Policy:
        """The one of `left` nearest to `wish` in the cube, by lot of those as near."""
        cube = self.budget.space.cube
        far = [round(float(np.abs(cube.point(policy) - cube.point(wish)).sum()), 9) for policy in left]
        return left[int(rng.choice(np.flatnonzero(np.array(far) == min(far))))]

    def _about(self, wish: Policy, rng: np.random.Generator) -> Iterator[Policy]:
        """Policies about `wish`, drawn ever further away."""
        cube = self.budget.space.cube
        places = np.array(cube.places(wish), dtype=np.int64)
        last = [len(choice.levels) - 1 for choice in cube.leaders]
        for attempt in range(_TRIES):
            steps = np.rint(rng.normal(0.0, _NEAR * _FURTHER**attempt, len(cube))).astype(np.int64)
            yield self.budget.fit(cube.settled(np.clip(places + steps, 0, last).tolist()))

    @cached_property
    def _every(self) -> list[Policy]:
        """All policies that can be asked, where there are few; else none."""
        return self.budget.every(_LISTED) or []
