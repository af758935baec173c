"""Memory and size of a policy, exactly: what a forward pass holds at its peak, and what the weights take on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.inputs import Inputs
from autoprune.structure.liveness import footprint, peak
from autoprune.structure.trace import Trace
from autoprune.values.budget import FromMany
from autoprune.values.space import SearchSpace
from autoprune.values.terms import Floats, Products, Rows

MIB = 2**20


@dataclass(frozen=True)
class Size(FromMany):
    """MiB of weights and buffers on disk, without the few kilobytes that say what they are."""

    unit: ClassVar[str] = "MiB"

    space: SearchSpace
    trace: Trace

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        return self._state(rows) / MIB

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """As `CostModel.measure`, counted on the model itself."""
        return _state_bytes(model) / MIB

    @cached_property
    def _state(self) -> Products:
        return Products(self.trace.state, len(self.space))


@dataclass(frozen=True)
class Memory(Size):
    """MiB that a forward pass of one example holds at its peak, layer by layer: activations, weights and buffers.

    Runtimes that plan their memory hold less; those that keep weights packed in another layout hold more.
    """

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        blocks = np.stack([sized(rows) for sized in self._blocks], axis=1)  # (policies, blocks)
        held = blocks @ self._alive  # (policies, operators)
        for choice, operators in self.trace.idle:
            idle = [at for at in operators if at < held.shape[1]]
            held[np.ix_(rows[:, choice] == 0, idle)] = 0
        found: Floats = (held.max(axis=1) + self._state(rows)) / MIB
        return found

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """As `CostModel.measure`: seen while `model` runs once."""
        return (peak(footprint(model, example)) + _state_bytes(model)) / MIB

    @cached_property
    def _blocks(self) -> list[Products]:
        if not self.trace.blocks:
            raise ConfigError(
                "memory is not known of a network with layers that are declared as a whole ([[operator]]); "
                "declare the operators that they call"
            )
        return [Products([block.size], len(self.space)) for block in self.trace.blocks]

    @cached_property
    def _alive(self) -> Floats:
        """Which blocks are held during which operator, (blocks, operators), 0 or 1."""
        calls = np.arange(max(block.last for block in self.trace.blocks) + 1)
        return np.array([(block.first <= calls) & (calls <= block.last) for block in self.trace.blocks], dtype=float)


def _state_bytes(model: nn.Module) -> int:
    tensors: Sequence[Tensor] = [*model.parameters(), *model.buffers()]  # each once, however often it is used
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
