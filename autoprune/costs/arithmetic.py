"""MACs and parameters of a policy, exactly, in microseconds.

Both are sums of products of sizes, and each size is affine in the kept units, so one trace of the dense network prices
every policy. `measure` counts the same thing on a real network with another's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.structure.labels import plain
from autoprune.values.space import Extent, Op, Policy, SearchSpace

Kept = NDArray[np.int64]


class Products:
    """A sum of products of extents, for many policies at once. Exact below 2**53."""

    def __init__(self, ops: Sequence[Op], groups: int) -> None:
        extents: dict[Extent, int] = {}
        terms: dict[tuple[int, ...], int] = {}
        for op in ops:
            key = tuple(extents.setdefault(extent, len(extents)) for extent in op.extents)
            terms[key] = terms.get(key, 0) + op.times
        self._fixed = np.array([e.fixed for e in extents], dtype=np.float64)  # (extents,)
        self._per_unit = np.zeros((groups, len(extents)))
        for extent, column in extents.items():
            for group, elements in extent.per_unit:
                self._per_unit[group, column] += elements
        arities = sorted({len(key) for key in terms})
        self._terms = [_of_arity(terms, arity) for arity in arities]

    def __call__(self, kept: Kept) -> NDArray[np.float64]:
        """The sum for each row of `kept`, shape (policies, groups) -> (policies,)."""
        sizes = kept.astype(np.float64) @ self._per_unit + self._fixed  # (policies, extents)
        total = np.zeros(len(kept))
        for columns, times in self._terms:
            total += sizes[:, columns].prod(axis=2) @ times
        return total


def _of_arity(terms: Mapping[tuple[int, ...], int], arity: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The products of `arity` extents: their columns, shape (terms, arity), and factors, shape (terms,)."""
    some = {key: times for key, times in terms.items() if len(key) == arity}
    columns = np.array(list(some), dtype=np.intp).reshape(len(some), arity)
    return columns, np.array(list(some.values()), dtype=np.float64)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass of one example: convolutions and matrix products."""

    space: SearchSpace
    scale: float = field(default=1.0, init=False)

    @property
    def unit(self) -> str:
        """As `CostModel.unit`."""
        return "MAC"

    @cached_property
    def _products(self) -> Products:
        return Products(self.space.ops, len(self.space))

    def predict(self, policy: Policy) -> float:
        """As `PredictiveCost.predict`."""
        return float(self.predict_many(np.array([self.space.kept(policy)]))[0])

    def predict_many(self, kept: Kept) -> NDArray[np.float64]:
        """The cost of each row of `kept`, shape (policies, groups) -> (policies,)."""
        return self.scale * self._products(kept)

    def measure(self, model: nn.Module, example: Tensor) -> float:
        """As `CostModel.measure`, counted on the model itself."""
        return self.scale * count_macs(model, example)


@dataclass(frozen=True)
class Flops(Macs):
    """Floating-point operations, 2 x MACs."""

    scale: float = field(default=2.0, init=False)

    @property
    def unit(self) -> str:
        """As `CostModel.unit`."""
        return "FLOP"


@dataclass(frozen=True)
class Params:
    """Trainable and frozen parameters; buffers are not counted."""

    space: SearchSpace

    @property
    def unit(self) -> str:
        """As `CostModel.unit`."""
        return "param"

    @cached_property
    def _products(self) -> Products:
        return Products(self.space.parameters, len(self.space))

    def predict(self, policy: Policy) -> float:
        """As `PredictiveCost.predict`."""
        return float(self.predict_many(np.array([self.space.kept(policy)]))[0])

    def predict_many(self, kept: Kept) -> NDArray[np.float64]:
        """The cost of each row of `kept`, shape (policies, groups) -> (policies,)."""
        return self._products(kept)

    def measure(self, model: nn.Module, example: Tensor) -> float:
        """As `CostModel.measure`, counted on the model itself."""
        return float(sum(p.numel() for p in model.parameters()))


def count_macs(model: nn.Module, example: Tensor) -> int:
    """MACs of one example by torch's own FlopCounterMode, halved."""
    with plain(), FlopCounterMode(display=False) as counter:
        model(example[:1])
    return int(counter.get_total_flops()) // 2
