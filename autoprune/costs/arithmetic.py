"""MACs and parameters of a policy, exactly, in microseconds.

Both are sums of products of sizes, and each size is affine in the levels, so one trace of the dense network prices
every policy. `measure` counts the same thing on a real network with another's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.errors import ModelError
from autoprune.inputs import Inputs, call, first
from autoprune.structure.formulas import EXTRA
from autoprune.structure.labels import plain
from autoprune.values.budget import FromMany
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Floats, Products, Rows


@dataclass(frozen=True)
class Macs(FromMany):
    """Multiply-accumulates of one forward pass of one example: convolutions and matrix products.

    Raises ModelError, naming it, where an operator reads weights and its MACs are not known.
    """

    unit: ClassVar[str] = "MAC"
    scale: ClassVar[float] = 1.0

    space: SearchSpace

    def __post_init__(self) -> None:
        if self.space.unpriced:
            what, *more = self.space.unpriced
            others = f" and {len(more)} others" if more else ""
            raise ModelError(
                f"the {self.unit}s of {what}{others} are not known, so those of {self.space.name} are not; "
                "a budget on params, size, memory or latency is right"
            )

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        return self.scale * self._products(rows)

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """As `CostModel.measure`, counted on the model itself."""
        return self.scale * count_macs(model, example)

    def by_layer(self, policy: Policy) -> dict[str, float]:
        """As `protocols.ByLayer`."""
        found: dict[str, float] = {}
        for op in self.space.ops:
            found[op.name] = found.get(op.name, 0.0) + self.scale * op.count(policy.levels)
        return found

    @cached_property
    def _products(self) -> Products:
        return Products(self.space.ops, len(self.space))


@dataclass(frozen=True)
class Flops(Macs):
    """Floating-point operations, 2 x MACs."""

    unit: ClassVar[str] = "FLOP"
    scale: ClassVar[float] = 2.0


@dataclass(frozen=True)
class Params(FromMany):
    """Trainable and frozen parameters; buffers are not counted."""

    unit: ClassVar[str] = "param"

    space: SearchSpace

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        return self._products(rows)

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """As `CostModel.measure`, counted on the model itself."""
        return float(sum(p.numel() for p in model.parameters()))

    @cached_property
    def _products(self) -> Products:
        return Products(self.space.parameters, len(self.space))


def count_macs(model: nn.Module, example: Inputs) -> int:
    """MACs of one example by torch's own FlopCounterMode, halved.

    Meanwhile no parameter has a gradient: the counter fails on one that is handed to a layer as it is.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with plain(), FlopCounterMode(display=False, custom_mapping=dict(EXTRA)) as counter:
            call(model, first(example, 1))
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops()) // 2
