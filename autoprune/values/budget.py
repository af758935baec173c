"""Ceilings on costs, and the nearest policy beneath them.

`fit` never overshoots, and what it returns makes the best use of the budget within one step: no group could keep one
step more. Where the reward already trades cost against quality (`fill` is off), a policy that fits is left as it is.
`most` is the same ceiling for whoever decides one group after the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import BudgetError, ConfigError
from autoprune.protocols import PredictiveCost
from autoprune.values.space import Policy, SearchSpace

Kept = NDArray[np.int64]
_WRITTEN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%|[A-Za-z]*)")
_GRID = 33  # points a round of the line search; two rounds find the best of 1,024


class Priced(PredictiveCost, Protocol):
    """A cost that prices many policies at once."""

    def predict_many(self, kept: Kept) -> NDArray[np.float64]:
        """The cost of each row of `kept`, shape (policies, groups) -> (policies,)."""
        ...


@dataclass(frozen=True)
class Limit:
    """One ceiling.

    Attributes:
        name: of the cost, as the user wrote it ("macs").
        cost: the model that predicts it.
        most: the largest allowed value, in the cost's unit.
        asked: the ceiling as it was written ("50%", "20e6").
        margin: by which share of it a policy must stay below, since a measurement differs from time to time.
    """

    name: str
    cost: Priced
    most: float
    asked: str = ""
    margin: float = 0.0

    @property
    def allowed(self) -> float:
        """The largest value that may be predicted or measured."""
        return self.most / (1 + self.margin)


@dataclass(frozen=True)
class Budget:
    """All ceilings at once. Without any, every policy fits."""

    space: SearchSpace
    limits: tuple[Limit, ...] = ()
    fill: bool = True

    def __post_init__(self) -> None:
        thinnest = self.space.thinnest()
        for limit in self.limits:
            least = limit.cost.predict(thinnest)
            if least > limit.allowed:
                dense = limit.cost.predict(self.space.dense())
                raise BudgetError(
                    f"a budget of {limit.most:.12g} {limit.cost.unit} ({limit.name}={limit.asked or limit.most}) "
                    f"cannot be met: the smallest reachable is {least:.12g} {limit.cost.unit}, "
                    f"{least / dense:.1%} of dense"
                )

    def admits(self, policy: Policy) -> bool:
        """Whether `policy` meets every ceiling."""
        return bool(self._feasible(np.array([self.space.kept(policy)]))[0])

    def fit(self, policy: Policy) -> Policy:
        """The policy nearest to `policy` that meets the budget and, with `fill`, uses it up.

        All groups move together towards the thinnest network (or, where there is room, towards the dense one); what
        rounding leaves over goes, a step at a time, to the groups that lost most against what was asked.
        """
        wanted = np.array(self.space.kept(policy))
        if not self.limits:
            return policy
        fits = bool(self._feasible(wanted[None])[0])
        if fits and not self.fill:
            return policy
        moved = self._towards(wanted, self._of) if fits else self._towards(self._least, wanted)
        ceiling = self._of if self.fill else wanted
        return self.space.policy(self._top_up(moved, wanted, ceiling))

    def most(self, decided: Sequence[int]) -> int:
        """The most units that the next group may keep, where the groups before it keep `decided`.

        With every later group at its thinnest the budget then still holds, exactly: only numbers of units that are
        allowed are tried. Where `decided` has overspent already, it is the fewest that are allowed.
        """
        at = len(decided)
        choices = np.array(self.space.groups[at].choices(), dtype=np.int64)
        fits, exceeds = 0, len(choices)  # the first is held to fit, since it is the thinnest
        while exceeds - fits > 1:
            tried = np.unique(np.linspace(fits + 1, exceeds - 1, _GRID).astype(np.int64))
            rows = np.repeat(self._least[None], len(tried), axis=0)
            rows[:, :at], rows[:, at] = decided, choices[tried]
            good = int(np.logical_and.accumulate(self._feasible(rows)).sum())
            fits, exceeds = (
                (int(tried[good - 1]) if good else fits),
                (int(tried[good]) if good < len(tried) else exceeds),
            )
        return int(choices[fits])

    def _feasible(self, kept: Kept) -> NDArray[np.bool_]:
        """Which rows of `kept`, shape (policies, groups), meet every ceiling."""
        fits = np.ones(len(kept), dtype=np.bool_)
        for limit in self.limits:
            fits &= limit.cost.predict_many(kept) <= limit.allowed
        return fits

    def _towards(self, start: Kept, end: Kept) -> Kept:
        """The last feasible point on the line from `start`, which is feasible, to `end`."""
        low, high, best = 0.0, 1.0, start
        for _ in range(2):
            shares = np.linspace(low, high, _GRID)
            points = self._round_down((start + shares[:, None] * (end - start)).astype(np.float64))
            points = np.maximum(points, start)
            last = int(np.flatnonzero(self._feasible(points)).max(initial=0))
            best = points[last]
            low, high = shares[last], shares[min(last + 1, _GRID - 1)]
        return best

    def _top_up(self, kept: Kept, wanted: Kept, ceiling: Kept) -> Kept:
        """Raise groups by one step each as long as any can be, those furthest below `wanted` first."""
        kept = kept.copy()
        closed = np.zeros(len(kept), dtype=np.bool_)
        while not closed.all():
            raised = self._next(kept)
            closed |= (raised <= kept) | (raised > ceiling)
            rows = np.flatnonzero(~closed)
            if not len(rows):
                break
            candidates = np.repeat(kept[None], len(rows), axis=0)
            candidates[np.arange(len(rows)), rows] = raised[rows]
            fits = self._feasible(candidates)
            closed[rows[~fits]] = True  # costs only rise from here: what does not fit now never will
            if fits.any():
                open_rows = rows[fits]
                chosen = open_rows[np.argmax((wanted - kept)[open_rows] / self._of[open_rows])]
                kept[chosen] = raised[chosen]
        return kept

    def _round_down(self, kept: NDArray[np.float64]) -> Kept:
        floored = np.floor(kept / self._step + 1e-9).astype(np.int64) * self._step
        floored = np.where(kept >= self._of - 1e-9, self._of, floored)
        lifted: Kept = np.maximum(floored, self._least)
        return lifted

    def _next(self, kept: Kept) -> Kept:
        """One step more for each group, at most all of it."""
        stepped: Kept = np.minimum((kept // self._step + 1) * self._step, self._of)
        return stepped

    @cached_property
    def _of(self) -> Kept:
        return np.array([g.of for g in self.space], dtype=np.int64)

    @cached_property
    def _step(self) -> Kept:
        return np.array([g.step for g in self.space], dtype=np.int64)

    @cached_property
    def _least(self) -> Kept:
        return np.array([g.choices()[0] for g in self.space], dtype=np.int64)


def ceiling(written: str | float, dense: float, unit: str = "") -> float:
    """What a written ceiling allows, given the dense cost.

    "50%" is half of dense; a number in (0, 1] is a share of dense; any other number is absolute ("20e6").
    Raises ConfigError for anything else.
    """
    text = str(written).strip()
    wrong = ConfigError(
        f"a budget of {text!r} is not understood; write a share of dense ('50%', 0.5) or a number ('20e6', '3ms')"
    )
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise wrong
    value, given = float(found[1]), found[2]
    if given == "%":
        if not 0 < value <= 100:
            raise ConfigError(f"a budget of {text!r} is not in (0%, 100%]")
        return value / 100 * dense
    if not 0 < value < float("inf"):
        raise wrong
    if given and unit and given != unit:
        raise ConfigError(f"a budget of {text!r} is in {given}, but that cost is in {unit}")
    return value * dense if value <= 1 and not given else value


def limits(written: Mapping[str, str | float], costs: Mapping[str, Priced], space: SearchSpace) -> tuple[Limit, ...]:
    """A ceiling for each entry of `written`. Raises ConfigError where a cost is unknown."""
    found = []
    for name, value in written.items():
        if name not in costs:
            raise ConfigError(f"a budget on {name!r} needs a cost of that name; there are {', '.join(sorted(costs))}")
        dense = costs[name].predict(space.dense())
        most = ceiling(value, dense, costs[name].unit)
        found.append(Limit(name, costs[name], most, str(value), float(getattr(costs[name], "margin", 0.0))))
    return tuple(found)
