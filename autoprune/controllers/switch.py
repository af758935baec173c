"""Level switches: one choice keeps more, others pay for it, and the better of the two networks stays.

EvoPress (Sieberling et al. 2024, https://arxiv.org/abs/2410.14649) with one offspring at a time: from the best policy
so far, one to three choices are raised and one to three others lowered until the budget holds again, so that the cost
stays what it was. A level of theirs is a tenth of a layer; here it may be one channel, so that a switch is drawn with
a size, which shrinks while switches fail and grows while they succeed (Rechenberg's success rule).

With a `temperature` a slightly worse policy is gone on from, too, ever less so: annealing by thresholds (Dueck and
Scheuer 1990, https://doi.org/10.1016/0021-9991(90)90201-B), which needs no dice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, ShareAbove, require
from autoprune.values.space import Places, Policy, SearchSpace
from autoprune.values.trial import Trial

STEP = 0.1  # first size of a switch
_RISE, _SUCCESS = 0.15, 0.2  # how fast the size adapts, and the share of successes at which it stays
_LARGEST, _SMALLEST = 0.5, 0.03  # of a choice's levels
_MOST = 3  # choices that are raised, and that pay, in one switch
_COOLING = 0.97  # what a trial leaves of the temperature
_TRIES = 8  # switches drawn for one that was not asked before


@dataclass
class Switch:
    """Raises some choices, lowers others, and goes on from the better policy.

    Attributes:
        step: first size of a switch, as a share of a choice's levels, in (0, 1].
        temperature: by how much a policy may be worse than the last and still be gone on from, in standard deviations
            of the rewards so far; 0 never goes on from a worse one.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    step: ShareAbove = STEP
    temperature: Annotated[float, Range(0, 100)] = 0.0

    def __post_init__(self) -> None:
        require(self)
        self._asks, self._size = Asks(self.budget, self.seed), self.step
        self._from: tuple[float, Policy] | None = None
        self._rewards = list[float]()

    def ask(self) -> Policy:
        """The uniform policy first, then a switch of the policy that is gone on from."""
        rng = self._asks.dice()
        if self._from is None:
            return self._asks.fresh(uniform(self.space, self.budget))
        wish = self._from[1]
        for _ in range(_TRIES):
            wish = switched(self.budget, self._from[1], self._size, rng)
            if wish not in self._asks.seen:
                break
        return self._asks.fresh(wish)

    def tell(self, trial: Trial) -> None:
        """Go on from the policy if it is good enough; of a failed trial note only that it was made."""
        self._asks.tell(trial)
        if trial.reward is None:
            return
        if self._from is not None:
            better = trial.reward > self._from[0]
            self._size = float(np.clip(self._size * np.exp(_RISE * (better - _SUCCESS)), _SMALLEST, _LARGEST))
        if self._from is None or trial.reward >= self._from[0] - self._allowance():
            self._from = (trial.reward, trial.policy)
        self._rewards.append(trial.reward)

    def _allowance(self) -> float:
        if not self.temperature:
            return 0.0
        return float(self.temperature * _COOLING ** len(self._rewards) * np.std(self._rewards))


def switched(budget: Budget, policy: Policy, size: float, rng: np.random.Generator) -> Policy:
    """`policy` with one to three choices raised and others lowered, those first that were drawn to pay.

    `size` is the standard deviation of what a choice gains, as a share of its levels. Where the drawn ones cannot pay
    for it, more of them do, in a random order; without a budget one to three are lowered as others are raised.
    """
    cube = budget.space.cube
    last: Places = np.array([len(choice.levels) - 1 for choice in cube.leaders], dtype=np.int64)
    places: Places = np.array(cube.places(policy), dtype=np.int64)
    if not len(last):
        return policy
    order = rng.permutation(len(last))
    raised, paying = order[: rng.integers(1, _MOST + 1)], order[::-1]
    gains = np.maximum(np.rint(np.abs(rng.normal(0.0, size, len(last))) * last), 1).astype(np.int64)
    places[raised] = np.minimum(places + gains, last)[raised]
    few = int(rng.integers(1, _MOST + 1))
    if not budget.limits:
        places[paying[:few]] = np.maximum(places - gains, 0)[paying[:few]]
        return cube.settled(places.tolist())
    places = _paid(budget, places, paying[:few], paying[few:])
    return budget.fit(cube.settled(places.tolist()))


def _paid(budget: Budget, places: Places, first: Places, then: Places) -> Places:
    """`places` with those of `first` lowered alike until the budget holds, and one after the other of `then`."""

    def fits(tried: Places) -> bool:
        return budget.admits(budget.space.cube.settled(tried.tolist()))

    for lowered in (first, *(then[at : at + 1] for at in range(len(then)))):
        before, enough, too_little = places, 1.0, 0.0
        places = _lowered(before, lowered, enough)
        if not fits(places):
            continue
        while (enough - too_little) * before[lowered].max(initial=0) > 0.5:
            middle = (enough + too_little) / 2
            enough, too_little = (middle, too_little) if fits(_lowered(before, lowered, middle)) else (enough, middle)
        return _lowered(before, lowered, enough)
    return places


def _lowered(places: Places, which: Places, share: float) -> Places:
    """`places` with `share` of the way down to the least gone by `which`."""
    found = places.copy()
    found[which] = np.floor(places[which] * (1 - share)).astype(np.int64)
    return found
