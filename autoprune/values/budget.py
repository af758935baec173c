"""Ceilings on costs, and the nearest policy beneath them.

`fit` never overshoots, and what it returns makes the best use of the budget within one level: no choice could keep one
level more. Where the reward already trades cost against quality (`fill` is off), a policy that fits is left as it is.
`most` is the same ceiling for whoever decides one axis after the other. Inside, a policy is the place of its level
along each axis of the space's cube.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import BudgetError, ConfigError
from autoprune.values.space import Places, Policy, SearchSpace
from autoprune.values.terms import Floats, Rows

_WRITTEN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%|[A-Za-z]*)")
_SHOWN = 0.0005  # a smaller margin is none with one decimal
_MOST = 2.0**53  # of a ceiling: whole numbers up to that are what they are as floats
_GRID = 33  # points a round of the line search; two rounds find the best of 1,024


class Predicts(Protocol):
    """What a ceiling needs of a cost."""

    @property
    def unit(self) -> str:
        """What is counted: MAC, param, ms, MiB."""
        ...

    def predict(self, policy: Policy) -> float:
        """The cost of the network that `policy` describes."""
        ...


@runtime_checkable
class PredictsMany(Protocol):
    """A cost that prices many policies at once; others are asked one by one."""

    def predict_many(self, rows: Rows) -> Floats:
        """The cost of each of `rows`, the levels of policies, (policies, choices) -> (policies,)."""
        ...


@runtime_checkable
class KeepsAway(Protocol):
    """A cost that is predicted with an error and then measured, so that policies stay below a ceiling on it."""

    margin: float  # by which share a measurement may exceed what is predicted
    noise: float  # by which share one measurement may differ from another


class FromMany:
    """`predict` for costs that have `predict_many`."""

    def predict(self, policy: Policy) -> float:
        """The cost of the network that `policy` describes."""
        return float(self.predict_many(np.array([policy.levels], dtype=np.int64))[0])

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Limit:
    """One ceiling.

    Attributes:
        name: of the cost, as the user wrote it ("macs").
        cost: the model that predicts it.
        most: the largest allowed value, in the cost's unit.
        asked: the ceiling as it was written ("50%", "20e6").
        dense: what the dense network costs; 0 where that is not told.
        margin: by which share a measurement may exceed what is predicted, so that predictions stay as far below.
    """

    name: str
    cost: Predicts
    most: float
    asked: str = ""
    margin: float = 0.0
    dense: float = 0.0

    @property
    def allowed(self) -> float:
        """The largest value that may be predicted. What is measured may be `most`."""
        return self.most / (1 + self.margin)

    def prices(self, rows: Rows) -> Floats:
        """What `cost` says of each of `rows`, the levels of policies, (policies, choices) -> (policies,)."""
        if isinstance(self.cost, PredictsMany):
            return self.cost.predict_many(rows)
        return np.array([self.cost.predict(Policy.of(row)) for row in rows])

    def sentence(self) -> str:
        """The ceiling and, where there is a margin, what may be predicted, for people."""
        unit, share = self.cost.unit, f", {self.most / self.dense:.1%} of dense" if self.dense else ""
        if 0 < self.dense < self.most:
            share = f", which is no limit: the dense network has {_amount(self.dense)} {unit}"
        said = f"{self.name} at most {_amount(self.most)} {unit}{share}"
        if self.margin < _SHOWN:
            return said
        kept = f", {self.allowed / self.dense:.1%} of dense" if self.dense else ""
        return (
            f"{said}; policies are kept to a predicted {_amount(self.allowed)} {unit}{kept}, since measurements of "
            f"most policies exceed what is predicted by no more than {self.margin:.1%}"
        )

    def unmet(self, space: SearchSpace) -> str:
        """Why no policy of `space` meets this ceiling; "" where one does."""
        least, unit = self.cost.predict(space.thinnest()), self.cost.unit
        if least <= self.allowed:
            return ""
        share = least / self.cost.predict(space.dense())
        asked = f"a budget of {_amount(self.most)} {unit} ({self.name}={self.asked or self.most})"
        kept = (
            f", of which {_amount(self.allowed)} may be predicted (a margin of {self.margin:.1%}),"
            if self.margin
            else ""
        )
        said = f"{asked}{kept} cannot be met: the smallest reachable is {_amount(least)} {unit}, {share:.1%} of dense"
        return f"{said} ({self.name}={self.asked}% is a share)" if _as_percent(self.asked) else said


def _as_percent(asked: str) -> bool:
    """Whether a ceiling that cannot be met was written as people write a share, but for the sign."""
    try:
        return 1 < float(asked) <= 100
    except ValueError:
        return False


@dataclass(frozen=True)
class Budget:
    """All ceilings at once. Without any, every policy fits."""

    space: SearchSpace
    limits: tuple[Limit, ...] = ()
    fill: bool = True

    def __post_init__(self) -> None:
        for limit in self.limits:
            if fault := limit.unmet(self.space):
                raise BudgetError(fault)

    def admits(self, policy: Policy) -> bool:
        """Whether `policy` meets every ceiling."""
        return bool(self._meeting(np.array([policy.levels], dtype=np.int64))[0])

    def fit(self, policy: Policy) -> Policy:
        """The policy nearest to `policy` that meets the budget and, with `fill`, uses it up.

        All choices move together towards the thinnest network (or, where there is room, towards the dense one); what
        rounding leaves over goes, a level at a time, to the choices that lost most against what was asked.
        """
        if not self.limits:
            return policy
        cube = self.space.cube
        wanted: Places = np.array(cube.places(policy), dtype=np.int64)
        fits = bool(self._feasible(wanted[None])[0])
        if fits and not self.fill:
            return policy
        moved = self._towards(wanted, self._last) if fits else self._towards(np.zeros_like(wanted), wanted)
        return cube.settled(self._top_up(moved, wanted, self._last if self.fill else wanted).tolist())

    def most(self, decided: Sequence[int]) -> int:
        """The highest place that the next axis may have, where those before it have the places `decided`.

        With every later axis at its least level the budget then still holds, exactly. Where `decided` has overspent
        already, it is 0, the least.
        """
        at = len(decided)
        fits, exceeds = 0, int(self._last[at]) + 1  # the first is held to fit, since it is the thinnest
        while exceeds - fits > 1:
            tried = np.unique(np.linspace(fits + 1, exceeds - 1, _GRID).astype(np.int64))
            rows = np.zeros((len(tried), len(self._last)), dtype=np.int64)
            rows[:, :at], rows[:, at] = decided, tried
            good = int(np.logical_and.accumulate(self._feasible(rows)).sum())
            fits, exceeds = (
                (int(tried[good - 1]) if good else fits),
                (int(tried[good]) if good < len(tried) else exceeds),
            )
        return fits

    def every(self, most: int) -> list[Policy] | None:
        """All policies that `fit` leaves as they are; None where looking for them there are more than `most` to follow.

        Axis after axis, levels are left out with which the thinnest rest exceeds the budget, or with which even the
        dense rest would leave room for one level more.
        """
        rows: Places = np.zeros((1, len(self._last)), dtype=np.int64)
        for axis, last in enumerate(self._last.tolist()):
            rows = np.repeat(rows, last + 1, axis=0)
            rows[:, axis] = np.arange(len(rows)) % (last + 1)
            rows = rows[self._feasible(rows)]
            if self.fill and self.limits:
                rows = rows[~self._roomy(rows, axis + 1)]
            if len(rows) > most:
                return None
        return list(dict.fromkeys(Policy.of(row) for row in self.space.cube.rows(rows)))

    def _roomy(self, places: Places, decided: int) -> NDArray[np.bool_]:
        """Which rows could keep a level more along one of the first `decided` axes, whatever the others have."""
        found = np.zeros(len(places), dtype=np.bool_)
        for axis in range(decided):
            raised = places.copy()
            raised[:, axis] += 1
            raised[:, decided:] = self._last[decided:]
            able = places[:, axis] < self._last[axis]
            found[able] |= self._feasible(raised[able])
        return found

    def _feasible(self, places: Places) -> NDArray[np.bool_]:
        """Which rows of `places`, (policies, axes), meet every ceiling."""
        return self._meeting(self.space.cube.rows(places))

    def _meeting(self, rows: Rows) -> NDArray[np.bool_]:
        fits = np.ones(len(rows), dtype=np.bool_)
        for limit in self.limits:
            fits &= limit.prices(rows) <= limit.allowed
        return fits

    def _towards(self, start: Places, end: Places) -> Places:
        """The last feasible point on the line of levels from `start`, which is feasible, to `end`."""
        low, high, best = 0.0, 1.0, start
        first, last = self._levels(start), self._levels(end)
        for _ in range(2):
            shares = np.linspace(low, high, _GRID)
            points = np.maximum(self.space.cube.below(first + shares[:, None] * (last - first)), start)
            at = int(np.flatnonzero(self._feasible(points)).max(initial=0))
            best = points[at]
            low, high = shares[at], shares[min(at + 1, _GRID - 1)]
        return best

    def _top_up(self, places: Places, wanted: Places, ceiling: Places) -> Places:
        """Raise axes by one level each as long as any can be, those furthest below `wanted` first."""
        places, dense, asked = places.copy(), self._levels(self._last), self._levels(wanted)
        closed = np.zeros(len(places), dtype=np.bool_)
        while not closed.all():
            closed |= places >= ceiling
            rows = np.flatnonzero(~closed)
            if not len(rows):
                break
            candidates = np.repeat(places[None], len(rows), axis=0)
            candidates[np.arange(len(rows)), rows] += 1
            fits = self._feasible(candidates)
            closed[rows[~fits]] = True  # costs only rise from here: what does not fit now never will
            if fits.any():
                open_rows = rows[fits]
                places[open_rows[np.argmax(((asked - self._levels(places)) / dense)[open_rows])]] += 1
        return places

    def _levels(self, places: Places) -> Floats:
        """The levels of each axis's first choice at `places`, (axes,)."""
        return np.array([c.levels[at] for c, at in zip(self.space.cube.leaders, places, strict=True)], dtype=np.float64)

    @cached_property
    def _last(self) -> Places:
        """The place of the dense level along each axis."""
        return np.array([len(choice.levels) - 1 for choice in self.space.cube.leaders], dtype=np.int64)


def _amount(value: float) -> str:
    """A cost as people read it: whole numbers of what is counted, four digits of what is measured."""
    return f"{value:,.0f}" if value >= 1e3 else f"{value:.4g}"


def ceiling(written: str | float, dense: float, unit: str = "") -> float:
    """What a written ceiling allows, given the dense cost.

    "50%" is half of dense; a number in (0, 1] is a share of dense; any other number is absolute ("20e6").
    Raises ConfigError for anything else, and for a whole 1, which could be either.
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
    if value > _MOST:
        raise ConfigError(f"a budget of {text!r} is more than any network costs; up to {_MOST:.0e} is right")
    if value == 1 and not given and "." not in found[1]:
        one = f"1{unit or 'ms'}"
        raise ConfigError(f"a budget of {text!r} could be all of dense or one unit; write '100%' or, say, '{one}'")
    if given and unit and given != unit:
        raise ConfigError(f"a budget of {text!r} is in {given}, but that cost is in {unit}")
    return value * dense if value <= 1 and not given else value


def limits(written: Mapping[str, str | float], costs: Mapping[str, Predicts], space: SearchSpace) -> tuple[Limit, ...]:
    """A ceiling for each entry of `written`. Raises ConfigError where a cost is unknown."""
    found = []
    for name, value in written.items():
        if name not in costs:
            raise ConfigError(f"a budget on {name!r} needs a cost of that name; there are {', '.join(sorted(costs))}")
        cost, dense = costs[name], costs[name].predict(space.dense())
        margin = cost.margin if isinstance(cost, KeepsAway) else 0.0
        found.append(Limit(name, cost, ceiling(value, dense, cost.unit), str(value), margin, dense))
    return tuple(found)
