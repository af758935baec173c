"""NetAdapt (Yang et al. 2018, https://arxiv.org/abs/1804.03230): the choice that loses least is shortened, ever again.

From the dense network on, each round lowers the ceilings by one step and has a proposal for each choice: that choice
alone is shortened until the round's ceilings hold. The best proposal is where the next round begins. Every policy that
is asked here meets the whole budget: a proposal is completed with all choices moving together, as `Budget.fit` does,
and scored so. After the last round comes another pass, in steps half as large.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autoprune.errors import ConfigError
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Few, require
from autoprune.values.space import Places, Policy, SearchSpace
from autoprune.values.trial import Trial

_MOST = 64  # steps of a pass; then each is about a channel
_AHEAD = 20  # rounds that are ended after one trial, where all of their proposals were told before


@dataclass
class NetAdapt:
    """Shortens greedily, in steps of equal cost.

    Attributes:
        steps: rounds in which the first pass goes from the dense network to the budget.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    steps: Few = 5
    _rewards: dict[Policy, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        require(self)
        if len(self.space.cube) and not self.budget.limits:
            raise ConfigError("netadapt shortens a network until a budget holds, and there is none; write [budget]")
        self._asks = Asks(self.budget, self.seed)
        self._pass, self._round = self.steps, 1
        self._from = self._last

    def ask(self) -> Policy:
        """The first proposal of the round that was not asked; where all were, one near the best of them."""
        self._asks.dice()
        new = [policy for policy in self._proposals if policy not in self._asks.seen]
        return self._asks.fresh(new[0] if new else max(self._proposals, key=self._reward))

    def tell(self, trial: Trial) -> None:
        """Note the reward; a round of which all proposals were told ends with the best of them."""
        self._asks.tell(trial)
        self._rewards.setdefault(trial.policy, -np.inf if trial.reward is None else trial.reward)
        for _ in range(_AHEAD):
            if not self._proposals.keys() <= self._rewards.keys():
                break
            self._end()

    def _reward(self, policy: Policy) -> float:
        return self._rewards.get(policy, -np.inf)

    def _end(self) -> None:
        self._from = self._proposals[max(self._proposals, key=self._reward)]
        self._round += 1
        if self._round > self._pass:
            self._pass, self._round, self._from = min(2 * self._pass, _MOST), 1, self._last
        del self._proposals

    @cached_property
    def _proposals(self) -> dict[Policy, Places]:
        """The round's policies, completed, and the places of each before that; the dense network where none can be."""
        found: dict[Policy, Places] = {}
        ceilings = self._ceilings(self._round / self._pass)
        order = np.random.default_rng((self.seed, self._pass, self._round)).permutation(len(self._from))
        for axis in order.tolist():
            if (shortened := _shortened(ceilings, self._from, axis)) is not None:
                found.setdefault(self._completed(shortened), shortened)
        return found or {self._completed(self._from): self._from}

    def _completed(self, places: Places) -> Policy:
        return self.budget.fit(self.space.cube.settled(places.tolist()))

    def _ceilings(self, share: float) -> Budget:
        """The budget that is `share` of the way from dense to the one that is asked for."""
        dense = np.array([self.space.dense().levels], dtype=np.int64)
        limits = []
        for limit in self.budget.limits:
            above = max(float(limit.prices(dense)[0]) - limit.allowed, 0.0)
            limits.append(dataclasses.replace(limit, most=limit.allowed + (1 - share) * above, margin=0.0))
        return Budget(self.space, tuple(limits), fill=False)

    @property
    def _last(self) -> Places:
        return np.array([len(leader.levels) - 1 for leader in self.space.cube.leaders], dtype=np.int64)


def _shortened(ceilings: Budget, places: Places, axis: int) -> Places | None:
    """`places` with one axis as low as `ceilings` want; None where that is not enough."""
    cube, found = ceilings.space.cube, places.copy()

    def fits(place: int) -> bool:
        found[axis] = place
        return ceilings.admits(cube.settled(found.tolist()))

    if not fits(0):
        return None
    low, high = 0, int(places[axis])
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    found[axis] = low
    return found
