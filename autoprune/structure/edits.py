"""Index tables: which positions of which tensors belong to each unit of a group. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoprune.values.space import Op

Role = Literal["out", "in", "along"]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """What one group takes from one dimension of one tensor.

    Attributes:
        tensor: qualified name of a parameter or buffer ("layer1.0.conv1.weight").
        dim: the dimension.
        index: shape (units, m), the positions in that dimension that belong to each unit.
        role: "out", rows that produce the unit; "in", columns of the layers that read it; "along", what lies between
            (normalisation, bias).
    """

    tensor: str
    dim: int
    index: Index
    role: Role

    @property
    def layer(self) -> str:
        """The module that owns the tensor."""
        return self.tensor.rpartition(".")[0] or self.tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that a forward pass of one example holds.

    Attributes:
        size: its bytes.
        first, last: the operators, counted from 0, during which it is there; -1 is before the first.
    """

    size: Op
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """Channels that cannot be pruned, and why."""

    name: str
    units: int
    reason: str
