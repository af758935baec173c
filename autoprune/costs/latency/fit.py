"""From measured policies to the latency of every policy: work of like operators takes like time.

An operator takes time for its multiplications, for the activations that it moves, and for its weights. How much is
fitted on whole networks that were timed on the target: for all operators alike, on top of that for each kind, for each
kind at one resolution, and for each layer. All shares are at least zero (Lawson and Hanson 1974, non-negative least
squares), and the finer a share, the more it must explain.

Runtimes compute in blocks of channels, and cross-validation says in which of two ways. A width may cost as much as the
block that it fills (a staircase). Or a width that fills no whole block leaves the fast path, and costs more than a
wider one that does: then there are extra shares for operators whose inputs or outputs do that, and the prediction,
like the latency, is not monotone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from autoprune.values.space import SearchSpace
from autoprune.values.terms import Extent, Floats, Op, Rows


class Blocks(NamedTuple):
    """How many channels a runtime computes together.

    Attributes:
        filled: widths cost as much as the block of this size that they fill; 1: as what they are.
        whole: widths that fill no whole block of one of these sizes are slowed down.
    """

    filled: int = 1
    whole: tuple[int, ...] = ()


TRIED = (
    *(Blocks(size) for size in (1, 4, 8, 16)),
    *(Blocks(1, sizes) for sizes in ((4,), (8,), (16,), (32,), (4, 16), (8, 16), (4, 8, 16), (4, 16, 32))),
)
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)  # of the pull towards coarse shares
_LEVELS = (1.0, 3.0, 10.0, 30.0)  # how much more a finer share must explain
_FOLDS = 5
_NEARLY, _NOTHING = 1.03, 1e-3  # of errors that are alike
_USUAL = 1e-4  # strength while the blocks are chosen
_SURE = 3.0  # how much the dense network counts, whose ratio is known


@dataclass(frozen=True)
class Work:
    """What the operators of a policy do, for many policies at once.

    Attributes:
        space: whose operators they are.
        blocks: of channels.
    """

    space: SearchSpace
    blocks: Blocks = Blocks()  # noqa: RUF009 - a tuple

    def __call__(self, rows: Rows) -> Floats:
        """Shares of the dense network's work, the first constant; (policies, choices) -> (policies, 1 + columns)."""
        shares = self.products(rows) @ self.columns / self.dense[1:]
        return np.concatenate([np.ones((len(rows), 1)), shares], axis=1)

    def products(self, rows: Rows) -> Floats:
        """Multiplications of each operator and elements of each tensor that it moves, (policies, terms)."""
        sizes = rows.astype(np.float64) @ self._per_unit + self._fixed  # (policies, extents)
        filled, moving = self.blocks.filled, self._per_unit.any(0)
        sizes = np.where(moving, np.ceil(sizes / filled) * filled, sizes)
        whole = np.concatenate([sizes, np.ones((len(rows), 1))], axis=1)
        found: Floats = whole[:, self._factors].prod(axis=2) * self._times
        off = [found[:, self._slowed] * ((sizes % size != 0) & moving)[:, self._slowing] for size in self.blocks.whole]
        return np.concatenate([found, *off], axis=1)

    @cached_property
    def columns(self) -> Floats:
        """Which terms each column sums, (terms, columns), 0 or 1."""
        return np.stack([np.isin(np.arange(len(self._names)), members) for _, members in self._keys], 1).astype(float)

    @cached_property
    def dense(self) -> Floats:
        """Every column of the dense network, (1 + columns,); where it is slowed down, of it without being slowed."""
        return np.concatenate([[1.0], self._full @ self.columns])

    @property
    def whole(self) -> Rows:
        """The dense network as the only policy."""
        return np.array([self.space.dense().levels], dtype=np.int64)

    @cached_property
    def pull(self) -> Floats:
        """How much each column must explain to be used, (1 + columns,)."""
        quantities = np.array([quantity for _, quantity in self._names])
        total = {q: self._full[quantities == q].sum() for q in set(quantities.tolist())}
        parts = [self.dense[1 + at] / total[self._names[members[0]][1]] for at, (_, members) in enumerate(self._keys)]
        return np.concatenate([[1.0], np.sqrt([_LEVELS[level] for level, _ in self._keys] / np.array(parts))])

    @cached_property
    def terms(self) -> list[tuple[Op, Op, str]]:
        """Operators with the product that is counted: multiplications, activations, or the weights' tensors."""
        found = []
        for op in (op for op in self.space.ops if op.known):
            last = len(op.moves) - 1
            found.append((op, op, "m"))
            found += [(op, move, "a" if place in (0, last) else "t") for place, move in enumerate(op.moves)]
        return found

    @cached_property
    def _keys(self) -> list[tuple[int, list[int]]]:
        """Of each column its level and the terms that it sums."""
        found: list[tuple[int, list[int]]] = []
        for level, name in enumerate((_all_alike, _kind, _kind_and_place, id)):
            members: dict[Any, list[int]] = {}
            for place, (op, quantity) in enumerate(self._names):
                members.setdefault((name(op), quantity), []).append(place)
            found += [(level, terms) for terms in members.values()]
        return found

    @cached_property
    def _names(self) -> list[tuple[Op, str]]:
        """Of each product its operator and what it counts, the extra ones of widths that fill no block last."""
        plain = [(op, quantity) for op, _, quantity in self.terms]
        return plain + [
            (self.terms[at][0], f"{self.terms[at][2]}{side}{size}")
            for size in self.blocks.whole
            for at, side, _ in self._extra
        ]

    @cached_property
    def _full(self) -> Floats:
        """Products of the dense network, the extra ones as if no width filled a block, (products,)."""
        plain: Floats = Work(self.space, Blocks(self.blocks.filled)).products(self.whole)[0]
        return np.concatenate([plain, *(plain[self._slowed] for _ in self.blocks.whole)])

    @cached_property
    def _extra(self) -> list[tuple[int, str, Extent]]:
        """What a width that fills no block slows down: the term, which side's width it is, and the width."""
        found = []
        for at, (op, term, quantity) in enumerate(self.terms):
            if not op.moves or quantity == "t":
                continue
            sides = (("i", op.moves[0]), ("o", op.moves[-1]))
            for side, move in sides if quantity == "m" else [s for s in sides if s[1] is term]:
                found += [(at, side, extent) for extent in move.extents[:1]]
        return found

    @cached_property
    def _slowed(self) -> list[int]:
        return [at for at, _, _ in self._extra]

    @cached_property
    def _slowing(self) -> list[int]:
        return [self._extents[extent] for _, _, extent in self._extra]

    @cached_property
    def _extents(self) -> dict[Extent, int]:
        found: dict[Extent, int] = {}
        for _, term, _ in self.terms:
            for extent in term.extents:
                found.setdefault(extent, len(found))
        return found

    @cached_property
    def _fixed(self) -> Floats:
        return np.array([extent.fixed for extent in self._extents], dtype=np.float64)

    @cached_property
    def _per_unit(self) -> Floats:
        found = np.zeros((len(self.space), len(self._extents)))
        for extent, column in self._extents.items():
            for choice, elements in extent.per_unit:
                found[choice, column] += elements
        return found

    @cached_property
    def _factors(self) -> NDArray[np.intp]:
        """Whose sizes make each term, (terms, most extents); the last of all is 1."""
        most = max((len(term.extents) for _, term, _ in self.terms), default=0)
        one = len(self._extents)
        rows = [[self._extents[e] for e in t.extents] + [one] * (most - len(t.extents)) for _, t, _ in self.terms]
        return np.array(rows, dtype=np.intp).reshape(len(self.terms), most)

    @cached_property
    def _times(self) -> Floats:
        return np.array([term.times for _, term, _ in self.terms], dtype=np.float64)


def _all_alike(op: Op) -> str:
    return ""


def _kind(op: Op) -> str:
    return op.kind.partition(" @")[0]


def _kind_and_place(op: Op) -> str:
    return op.kind


@dataclass(frozen=True)
class Fit:
    """The latency of every policy as a share of the dense network's.

    Attributes:
        work: how policies become columns.
        coefficients: what each column takes in the dense network, >= 0; the first whatever is pruned.
    """

    work: Work
    coefficients: Floats

    def __call__(self, rows: Rows) -> Floats:
        """(policies, choices) -> (policies,)."""
        spent = np.ascontiguousarray(self.work.products(rows) * self._rates)  # rows are then added up alike
        found: Floats = spent.sum(axis=1) + self.coefficients[0]
        return found

    def by_layer(self, row: Rows) -> dict[str, float]:
        """What each layer takes in the network of `row`, (1, choices), as a share of the dense network's time.

        What no pruning changes is under "".
        """
        whole = float(self(self.work.whole)[0])
        found = {"": float(self.coefficients[0]) / whole}
        spent = self.work.products(row)[0] * self._rates / whole
        for (op, _), share in zip(self.work._names, spent.tolist(), strict=True):
            found[op.name] = found.get(op.name, 0.0) + share
        return found

    @cached_property
    def _rates(self) -> Floats:
        """What one of each term takes, (terms,)."""
        rates: Floats = self.work.columns @ (self.coefficients[1:] / self.work.dense[1:])
        return rates


def fitted(work: Work, rows: Rows, ratios: Floats, strength: float) -> Fit:
    """The shares that come nearest to `ratios`, relative to each, with `strength` of the pull towards coarse ones."""
    shares = work(rows) / ratios[:, None] / math.sqrt(len(ratios))
    dense = _SURE * work(work.whole) / math.sqrt(len(ratios))
    pull = np.diag(math.sqrt(strength) * work.pull)
    wanted = np.concatenate([np.full(len(ratios), 1 / math.sqrt(len(ratios))), [_SURE / math.sqrt(len(ratios))]])
    matrix = np.concatenate([shares, dense, pull])
    found, _ = nnls(matrix, np.concatenate([wanted, np.zeros(len(pull))]), maxiter=30 * matrix.shape[1])
    return Fit(work, found)


def chosen(space: SearchSpace, rows: Rows, ratios: Floats, tried: Sequence[Blocks] = TRIED) -> tuple[Blocks, float]:
    """The blocks of channels that predict best what was left out, in five folds, and then the strength that does.

    Of blocks that predict nearly as well the first of those `tried` is taken.
    """
    missed = {blocks: _missed(Work(space, blocks), rows, ratios, _USUAL) for blocks in tried}
    blocks = next(it for it in tried if missed[it] <= _NEARLY * min(missed.values()) + _NOTHING)
    work = Work(space, blocks)
    return blocks, min(STRENGTHS, key=lambda strength: _missed(work, rows, ratios, strength))


def _missed(work: Work, rows: Rows, ratios: Floats, strength: float) -> float:
    """The mean relative error of what was left out."""
    folds = np.arange(len(ratios)) % _FOLDS
    errors = np.zeros(len(ratios))
    for fold in range(_FOLDS):
        out = folds == fold
        fit = fitted(work, rows[~out], ratios[~out], strength)
        errors[out] = np.abs(fit(rows[out]) / ratios[out] - 1)
    return float(errors.mean())


def restored(space: SearchSpace, state: Mapping[str, Any]) -> Fit:
    """The fit that `state` describes. Raises KeyError, TypeError or ValueError where it is none of this space."""
    blocks = Blocks(int(state["filled"]), tuple(map(int, state["whole"])))
    if min(blocks.filled, *blocks.whole, blocks.filled) < 1:
        raise ValueError(f"blocks of {blocks.filled} and {blocks.whole} channels cannot be")
    work, found = Work(space, blocks), np.array(state["coefficients"], dtype=np.float64)
    if found.shape != work.dense.shape or not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"{len(work.dense)} coefficients of 0 or more are right")
    return Fit(work, found)


def state_of(fit: Fit) -> dict[str, Any]:
    """A fit as JSON holds it."""
    blocks = fit.work.blocks
    return {"filled": blocks.filled, "whole": list(blocks.whole), "coefficients": fit.coefficients.tolist()}
