"""The search space and the points in it. Plain values: no model, no torch, no randomness.

A policy holds one sparsity a group. The whole number of units that stay, `kept`, is the same thing said exactly; the
two are converted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are decided together: channels that depend on one another.

    Attributes:
        name: the first layer that produces the group's channels (with #2, #3 ... where one layer feeds several groups).
        of: how many units the dense network has, >= 1.
        layers: every layer whose weights lose rows or columns with a unit, producers first.
        lowest: fewest units that may stay, in [1, of].
        step: units are kept in multiples of this (or all of them).
        width: channels a unit; more than one where whole groups of a grouped convolution leave.
        role: facts that a learning controller may look at, each in [0, 1]; may be empty. A trace says channels, and
            input channels, input height and width, stride and kernel of the producing layers, against their largest.
    """

    name: str
    of: int
    layers: tuple[str, ...] = ()
    lowest: int = 1
    step: int = 1
    width: int = 1
    role: tuple[float, ...] = ()

    def choices(self) -> tuple[int, ...]:
        """Every number of units that may be kept, ascending; the last is `of`."""
        first = -(-self.lowest // self.step) * self.step
        return (*range(first, self.of, self.step), self.of)

    def snap(self, sparsity: float) -> int:
        """The allowed number of kept units nearest to `sparsity`, the fraction removed in [0, 1]."""
        wanted = self.of * (1.0 - sparsity)
        return min(self.choices(), key=lambda kept: (abs(kept - wanted), kept))

    def sparsity(self, kept: int) -> float:
        """The fraction removed when `kept` units stay."""
        return (self.of - kept) / self.of


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of one dimension of a tensor: `fixed` elements and, for each group, some for every kept unit."""

    fixed: int
    per_unit: tuple[tuple[int, int], ...] = ()  # (group's position in the space, elements a kept unit)

    def size(self, kept: Sequence[int]) -> int:
        """Elements of this dimension under `kept`, one number a group."""
        return self.fixed + sum(elements * kept[group] for group, elements in self.per_unit)


@dataclass(frozen=True, slots=True)
class Op:
    """Something whose cost is a product of sizes: `times` x the product of its extents.

    For an operator that is its MACs (`times` is the number of output positions); for a tensor, its elements.

    Attributes:
        kind: of an operator, such as "conv 3x3/1 @ 32x32": those of one kind take like time for like work.
        moves: of an operator, the tensors that it reads and then those that it writes.
    """

    name: str
    times: int
    extents: tuple[Extent, ...]
    kind: str = ""
    moves: tuple[Op, ...] = ()

    def count(self, kept: Sequence[int]) -> int:
        """The product under `kept`, one number a group."""
        total = self.times
        for extent in self.extents:
            total *= extent.size(kept)
        return total


@dataclass(frozen=True, slots=True)
class Policy:
    """One sparsity for every group, in the space's order. Hashable; equal policies are one policy."""

    sparsity: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.sparsity)


@dataclass(frozen=True)
class SearchSpace:
    """What may be decided (groups) and what every decision costs (operators and parameters)."""

    name: str
    groups: tuple[Group, ...]
    ops: tuple[Op, ...] = ()
    parameters: tuple[Op, ...] = ()
    _dense: Policy = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_dense", Policy((0.0,) * len(self.groups)))

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def snap(self, sparsity: Sequence[float] | NDArray[np.float64]) -> Policy:
        """The possible policy nearest to `sparsity`, one number in [0, 1] a group."""
        self._check_length(len(sparsity))
        return self.policy([g.snap(float(s)) for g, s in zip(self.groups, sparsity, strict=True)])

    def policy(self, kept: Sequence[int] | NDArray[np.int64]) -> Policy:
        """The policy that keeps `kept` units, one number a group. Not snapped: see `contains`."""
        self._check_length(len(kept))
        return Policy(tuple(g.sparsity(int(k)) for g, k in zip(self.groups, kept, strict=True)))

    def kept(self, policy: Policy) -> tuple[int, ...]:
        """How many units of each group `policy` keeps."""
        self._check_length(len(policy))
        return tuple(g.of - round(s * g.of) for g, s in zip(self.groups, policy.sparsity, strict=True))

    def contains(self, policy: Policy) -> bool:
        """Whether every group of `policy` keeps a number of units that is allowed."""
        if len(policy) != len(self):
            return False
        kept = self.kept(policy)
        allowed = all(k in g.choices() for g, k in zip(self.groups, kept, strict=True))
        return allowed and self.policy(kept) == policy

    def require(self, policy: Policy) -> None:
        """Raise PolicyError naming the first group of which `policy` keeps no whole number from 1 to all."""
        for group, kept, sparsity in zip(self.groups, self.kept(policy), policy.sparsity, strict=True):
            if not 1 <= kept <= group.of or abs(group.sparsity(kept) - sparsity) > 1e-6:
                units = f"group {group.name!r} of {group.of} units at a sparsity of {sparsity:.6g}"
                raise PolicyError(f"{self.name} has no such network: {units}; 1 to {group.of} whole units can stay")

    def dense(self) -> Policy:
        """The policy that removes nothing."""
        return self._dense

    def thinnest(self) -> Policy:
        """The policy that removes as much as is allowed everywhere."""
        return self.policy([g.choices()[0] for g in self.groups])

    def _check_length(self, given: int) -> None:
        if given != len(self):
            raise PolicyError(f"{self.name} has {len(self)} groups, but {given} numbers were given")
