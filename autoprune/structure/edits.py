"""What the level of a choice does to a network. Plain values, found by the trace and carried out by `structure.prune`.

There is one kind of edit so far, a slice; whatever else a level may do (leave a block out, mask weights, round them)
has its place here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["out", "in", "along"]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """What the units of one choice take from one dimension of one tensor: those that stay keep their positions.

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
class Frozen:
    """Channels that cannot be pruned, and why."""

    name: str
    units: int
    reason: str
