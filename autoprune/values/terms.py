"""Costs as arithmetic: sums of products of sizes that are affine in the levels; and a cost that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]  # (policies, choices), the level of each choice
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of one dimension of a tensor: `fixed` elements and, for a choice, some for every unit of its level."""

    fixed: int
    per_unit: tuple[tuple[int, int], ...] = ()  # (choice's position in the space, elements a unit)

    def size(self, levels: Sequence[int]) -> int:
        """Elements of this dimension under `levels`, one number a choice."""
        return self.fixed + sum(elements * levels[choice] for choice, elements in self.per_unit)


@dataclass(frozen=True, slots=True)
class Op:
    """Something whose cost is a product of sizes: `times` x the product of its extents.

    For an operator that is its MACs (`times` is the number of output positions); for a tensor, its elements.

    Attributes:
        kind: of an operator, such as "conv 3x3/1 @ 32x32": those of one kind take like time for like work.
        moves: of an operator, the tensors that it reads and then those that it writes.
        known: whether what it multiplies is; of an operator that nobody has a formula for, `times` is 0.
    """

    name: str
    times: int
    extents: tuple[Extent, ...]
    kind: str = ""
    moves: tuple[Op, ...] = ()
    known: bool = field(default=True, repr=False)

    def count(self, levels: Sequence[int]) -> int:
        """The product under `levels`, one number a choice."""
        total = self.times
        for extent in self.extents:
            total *= extent.size(levels)
        return total


class Products:
    """A sum of products of extents, for many policies at once. Exact below 2**53."""

    def __init__(self, ops: Sequence[Op], choices: int) -> None:
        extents: dict[Extent, int] = {}
        terms: dict[tuple[int, ...], int] = {}
        for op in ops:
            key = tuple(extents.setdefault(extent, len(extents)) for extent in op.extents)
            terms[key] = terms.get(key, 0) + op.times
        self._fixed = np.array([e.fixed for e in extents], dtype=np.float64)  # (extents,)
        self._per_unit = np.zeros((choices, len(extents)))
        for extent, column in extents.items():
            for choice, elements in extent.per_unit:
                self._per_unit[choice, column] += elements
        arities = sorted({len(key) for key in terms})
        self._terms = [_of_arity(terms, arity) for arity in arities]

    def __call__(self, rows: Rows) -> Floats:
        """The sum for each of `rows`, (policies, choices) -> (policies,)."""
        sizes = rows.astype(np.float64) @ self._per_unit + self._fixed  # (policies, extents)
        total = np.zeros(len(rows))
        for columns, times in self._terms:
            total += sizes[:, columns].prod(axis=2) @ times
        return total


def _of_arity(terms: Mapping[tuple[int, ...], int], arity: int) -> tuple[NDArray[np.intp], Floats]:
    """The products of `arity` extents: their columns, shape (terms, arity), and factors, shape (terms,)."""
    some = {key: times for key, times in terms.items() if len(key) == arity}
    columns = np.array(list(some), dtype=np.intp).reshape(len(some), arity)
    return columns, np.array(list(some.values()), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured of a network.

    Attributes:
        ratio: its cost as a share of a reference's, which is the dense network's.
        spread: standard error of that, as a share of it, from the scatter over the rounds.
    """

    ratio: float
    spread: float
