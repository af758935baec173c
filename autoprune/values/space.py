"""The search space and the points in it: a whole number for every choice. Plain values: no model, no torch, no dice.

A choice takes one of finitely many levels, of which the last is the dense network's. What a level means is the choice's
kind (channels kept, heads kept, 1 or 0 of a block); nothing but the tracer, which finds choices, and the edits, which
carry them out, knows kinds. Controllers see the unit cube: one axis for each choice, or for choices that are tied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import ConfigError, PolicyError
from autoprune.values import people
from autoprune.values.terms import Floats, Op, Rows

Places = NDArray[np.int64]  # (policies, axes): which of its levels each axis of the cube has


@dataclass(frozen=True, slots=True)
class Choice:
    """What is decided by one number.

    Attributes:
        name: of channels, the first layer that produces them (with #2, #3 ... where one layer feeds several choices).
        levels: every number that it may take, ascending, at least 0; the last is the dense network's, or below it.
        kind: what a unit is: "channel", "head", "block" and the like.
        within: the name of the block choice whose level 0 makes this one moot; "" where there is none.
        layers: every layer whose weights lose rows or columns with a unit, producers first.
        role: facts that a learning controller may look at, each in [0, 1]; may be empty. A trace says channels, and
            input channels, input height and width, stride and kernel of the producing layers, against their largest.
        width: channels a unit; more than one where whole groups of a grouped convolution leave.
        producers: of `layers`, those whose output the units are; empty in a space that was made by hand.
        of: the dense network's level, where it is above the last; 0 where it is the last.
    """

    name: str
    levels: tuple[int, ...]
    kind: str = "channel"
    within: str = ""
    layers: tuple[str, ...] = ()
    role: tuple[float, ...] = ()
    width: int = 1
    producers: tuple[str, ...] = ()
    of: int = 0

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.levels, self.levels[1:]))
        if not (
            self.levels
            and rising
            and self.levels[0] >= 0 < self.levels[-1]
            and (self.levels[-1] < self.of or not self.of)
        ):
            few = ", ".join(map(str, self.levels[:8])) or "none"
            below = f", below {self.of}," if self.of else ""
            raise ConfigError(
                f"choice {self.name!r} has the levels {few}; ascending whole numbers from 0 on{below} are right"
            )

    @property
    def dense(self) -> int:
        """The dense network's level."""
        return self.of or self.levels[-1]

    @property
    def reach(self) -> float:
        """The largest sparsity, in [0, 1]."""
        return self.sparsity(self.levels[0])

    def sparsity(self, level: int) -> float:
        """The fraction removed at `level`."""
        return (self.dense - level) / self.dense

    def nearest(self, sparsity: float) -> int:
        """The place among `levels` of the one nearest to `sparsity`, the fraction removed in [0, 1]."""
        wanted = self.dense * (1.0 - sparsity)
        above = min(bisect_left(self.levels, wanted), len(self.levels) - 1)
        below = max(above - 1, 0)
        return below if wanted - self.levels[below] <= self.levels[above] - wanted else above

    def below(self, level: float) -> int:
        """The place among `levels` of the largest that is not above `level`; 0 where none is."""
        return max(bisect_right(self.levels, level) - 1, 0)


@dataclass(frozen=True, slots=True)
class Policy:
    """One level for every choice, in the space's order. Hashable; equal policies are one policy."""

    levels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.levels)

    @classmethod
    def of(cls, levels: Iterable[int]) -> Policy:
        """Of whole numbers of any type."""
        return cls(tuple(int(level) for level in levels))


@dataclass(frozen=True)
class SearchSpace:
    """What may be decided (choices) and what every decision costs (operators and parameters).

    Attributes:
        ties: choices, by position, that move together; they have as many levels.
    """

    name: str
    choices: tuple[Choice, ...]
    ops: tuple[Op, ...] = ()
    parameters: tuple[Op, ...] = ()
    ties: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        tied = [place for tie in self.ties for place in tie]
        if len(tied) != len(set(tied)) or not all(0 <= place < len(self.choices) for place in tied):
            raise ConfigError(f"the ties of {self.name} are {self.ties}; each choice, by position, in one tie is right")
        for tie in self.ties:
            counts = [len(self.choices[place].levels) for place in tie]
            if len(set(counts)) > 1:
                names = ", ".join(f"{self.choices[at].name} ({count})" for at, count in zip(tie, counts, strict=True))
                raise ConfigError(f"{names} have different numbers of levels; only choices of as many can be tied")
        blocks = {choice.name for choice in self.choices if choice.levels[0] == 0}
        if lost := [choice for choice in self.choices if choice.within and choice.within not in blocks]:
            inside = f"choice {lost[0].name!r} lies within {lost[0].within!r}"
            raise ConfigError(f"{inside}, which {self.name} has not as a choice with level 0")

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The operators whose MACs are not known, for people."""
        return tuple(op.name for op in self.ops if not op.known)

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        rows = [(c.name, c.kind, c.dense, c.levels[0], len(c.levels), ", ".join(c.layers)) for c in self.choices]
        head = ("choice", "kind", "units", "lowest", "levels", "layers")
        return people.table(f"Search space {self.name}: {people.counted(len(self), 'choice')}", head, rows)

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[Choice]:
        return iter(self.choices)

    def snap(self, sparsity: Sequence[float] | Floats) -> Policy:
        """The possible policy nearest to `sparsity`, one number in [0, 1] a choice; tied choices meet in the middle."""
        self._require_length(len(sparsity))
        nearest = [choice.nearest(float(s)) for choice, s in zip(self.choices, sparsity, strict=True)]
        moot = self._moot([choice.levels[place] for choice, place in zip(self.choices, nearest, strict=True)])
        told = [[nearest[at] for at in axis if at not in moot] or [nearest[axis[0]]] for axis in self.cube.axes]
        return self.cube.settled([round(sum(places) / len(places)) for places in told])

    def sparsity(self, policy: Policy) -> tuple[float, ...]:
        """The fraction that `policy` removes of each choice."""
        return tuple(c.sparsity(level) for c, level in zip(self.choices, policy.levels, strict=True))

    def contains(self, policy: Policy) -> bool:
        """Whether `policy` has an allowed level for every choice, ties hold, and what is moot is dense."""
        if len(policy) != len(self):
            return False
        allowed = all(level in c.levels for c, level in zip(self.choices, policy.levels, strict=True))
        return allowed and self.cube.settled(self.cube.places(policy)) == policy

    def contains_rows(self, rows: Rows) -> NDArray[np.bool_]:
        """As `contains`, of many policies at once: (policies, choices) -> (policies,)."""
        right = np.ones(len(rows), dtype=np.bool_)
        places = np.zeros(rows.shape, dtype=np.int64)
        moot = np.zeros(rows.shape, dtype=np.bool_)
        for place, block in self.gates:
            moot[:, place] |= rows[:, block] == 0
        for at, choice in enumerate(self.choices):
            levels = np.array(choice.levels)
            places[:, at] = np.minimum(np.searchsorted(levels, rows[:, at]), len(levels) - 1)
            right &= levels[places[:, at]] == rows[:, at]
            right &= ~moot[:, at] | (rows[:, at] == levels[-1])
        for tie in self.ties:
            told = np.ma.masked_array(places[:, tie], moot[:, tie])
            right &= (told.max(axis=1) == told.min(axis=1)).filled(True)
        return right

    def require(self, policy: Policy) -> None:
        """Raise PolicyError naming the first choice of which `policy` asks what the network cannot have."""
        self._require_length(len(policy))
        for choice, level in zip(self.choices, policy.levels, strict=True):
            if not (1 <= level <= choice.dense or level in choice.levels):
                units = f"{choice.kind} choice {choice.name!r} with {level} of {choice.dense} units"
                raise PolicyError(f"{self.name} has no such network: {units}; 1 to {choice.dense} can stay")

    def dense(self) -> Policy:
        """The policy that removes nothing."""
        return Policy(tuple(choice.dense for choice in self.choices))

    def thinnest(self) -> Policy:
        """The policy that removes as much as is allowed everywhere."""
        return self.canonical(Policy(tuple(choice.levels[0] for choice in self.choices)))

    def canonical(self, policy: Policy) -> Policy:
        """`policy` with the last level for what lies in a block that is left out: equal networks are one policy."""
        moot = self._moot(policy.levels)
        pairs = enumerate(zip(self.choices, policy.levels, strict=True))
        return (
            Policy(tuple(c.levels[-1] if place in moot else level for place, (c, level) in pairs)) if moot else policy
        )

    def _moot(self, levels: Sequence[int]) -> set[int]:
        """The choices, by position, that lie in a block that is left out."""
        return {place for place, block in self.gates if levels[block] == 0}

    @cached_property
    def gates(self) -> tuple[tuple[int, int], ...]:
        """Each choice that lies within a block, and that block, by position; of blocks within blocks every one."""
        place, found = {choice.name: at for at, choice in enumerate(self.choices)}, list[tuple[int, int]]()
        for at, choice in enumerate(self.choices):
            outer = choice.within
            while outer and (at, place[outer]) not in found:
                found.append((at, place[outer]))
                outer = self.choices[place[outer]].within
        return tuple(found)

    def _require_length(self, given: int) -> None:
        if given != len(self):
            raise PolicyError(f"{self.name} has {len(self)} choices, but {given} numbers were given")

    @cached_property
    def cube(self) -> Cube:
        """The space as controllers see it."""
        return Cube(self)


class Cube:
    """A space as the unit cube: an axis for each choice that leaves one, or for a tie of them; 0 is dense, 1 the least.

    Attributes:
        axes: the choices, by position, that move along each axis, in the order of their first.
        leaders: the first choice of each axis.
        reach: (axes,), the largest sparsity along each.
    """

    def __init__(self, space: SearchSpace) -> None:
        tied = {place: tie for tie in space.ties for place in tie}
        every = dict.fromkeys(tied.get(place, (place,)) for place in range(len(space)))
        self._space = space
        self.axes = tuple(axis for axis in every if len(space.choices[axis[0]].levels) > 1)
        self.leaders = tuple(space.choices[axis[0]] for axis in self.axes)
        self.reach: Floats = np.array([leader.reach for leader in self.leaders], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.axes)

    def policy(self, point: Sequence[float] | Floats) -> Policy:
        """The possible policy nearest to `point`, one number in [0, 1] an axis."""
        sparsity = np.asarray(point, dtype=np.float64) * self.reach
        return self.settled([c.nearest(s) for c, s in zip(self.leaders, sparsity.tolist(), strict=True)])

    def point(self, policy: Policy) -> Floats:
        """Where `policy` lies, (axes,); what lies outside is put on the nearest face."""
        found = []
        for axis, leader, telling in zip(self.axes, self.leaders, self._telling(policy), strict=True):
            place = self._space.choices[telling].below(policy.levels[telling])
            level = policy.levels[telling] if telling == axis[0] else leader.levels[place]
            found.append(leader.sparsity(level))
        clipped: Floats = np.clip(np.array(found, dtype=np.float64) / self.reach, 0.0, 1.0)
        return clipped

    def places(self, policy: Policy) -> list[int]:
        """For each axis, which of its levels `policy` has; of a level in between, the next below."""
        return [self._space.choices[place].below(policy.levels[place]) for place in self._telling(policy)]

    def below(self, levels: Floats) -> Places:
        """The places of the largest levels that are not above `levels`, (policies, axes); 0 where none is."""
        apart, ladder, starts = self._ladder
        found = np.searchsorted(ladder, np.minimum(levels, apart - 1) + 1e-9 + apart * np.arange(len(self)), "right")
        places: Places = np.maximum(found - 1 - starts, 0)
        return places

    def settled(self, places: Sequence[int]) -> Policy:
        """The policy that has, along each axis, the level at that place."""
        return Policy.of(self.rows(np.array([places], dtype=np.int64))[0])

    def rows(self, places: Places) -> Rows:
        """The levels of all choices, (policies, axes) -> (policies, choices); of what is moot the last one."""
        if len(self) < len(self._space):
            places = np.concatenate([places, np.full((len(places), 1), -1)], axis=1)[:, self._axis]
        found: Rows = self._table[np.arange(len(self._space)), places]  # (policies, choices)
        for place, out in [(place, found[:, block] == 0) for place, block in self._space.gates]:
            found[out, place] = self._space.choices[place].levels[-1]
        return found

    def _telling(self, policy: Policy) -> list[int]:
        """For each axis the choice, by position, that says where `policy` is: the first that is not moot."""
        moot = self._space._moot(policy.levels)
        return [next((place for place in axis if place not in moot), axis[0]) for axis in self.axes]

    @cached_property
    def _ladder(self) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """The levels of all axes in one ascending row, how far apart axes lie in it, and where each begins."""
        apart = max((leader.dense for leader in self.leaders), default=0) + 2
        rungs = [np.array(leader.levels) + apart * at for at, leader in enumerate(self.leaders)]
        starts = np.cumsum([0, *(len(rung) for rung in rungs)])[:-1]
        return apart, np.concatenate([np.zeros(0, dtype=np.int64), *rungs]), starts

    @cached_property
    def _axis(self) -> NDArray[np.intp]:
        """The axis of each choice; the last number, one more than there are axes, where it has none."""
        found = np.full(len(self._space), len(self.axes), dtype=np.intp)
        for number, axis in enumerate(self.axes):
            found[list(axis)] = number
        return found

    @cached_property
    def _table(self) -> Rows:
        """(choices, most levels): the levels of each from the first on, and the last one in what is left over."""
        most = max((len(choice.levels) for choice in self._space), default=1)
        table = np.repeat(np.array([[choice.levels[-1]] for choice in self._space], dtype=np.int64), most, axis=1)
        for row, choice in zip(table, self._space, strict=True):
            row[: len(choice.levels)] = choice.levels
        return table


def levels_of(dense: int, lowest: int = 1, step: int = 1) -> tuple[int, ...]:
    """Multiples of `step` from `lowest` on, and `dense`, which is the last."""
    first = -(-lowest // step) * step
    return (*range(first, dense, step), dense)
