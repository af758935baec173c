"""What the level of a choice does to a network. Plain values, found by the trace and carried out by `structure.prune`.

A level takes positions of tensors away, or leaves modules out; whatever else it may do (mask weights, round them) has
its place here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoprune.structure.skipped import Answer

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
        """The layer that owns the tensor, see `layer_of`."""
        return layer_of(self.tensor)


@dataclass(frozen=True, slots=True)
class Skip:
    """A module that is left out at level 0.

    Attributes:
        module: its name.
        answer: what stands in its place answers, see `structure.skipped`.
    """

    module: str
    answer: Answer


Edit = Slice | Skip


def sliced(edits: Iterable[Edit]) -> tuple[Slice, ...]:
    """The slices among them."""
    return tuple(one for one in edits if isinstance(one, Slice))


@dataclass(frozen=True, slots=True)
class Frozen:
    """Channels that cannot be pruned, and why.

    Attributes:
        name: the layer that makes them or, where none does, that reads them.
        units: how many.
        reason: in the words of the network, after "it": "is the network's output".
        layers: every layer with parameters that go with them.
    """

    name: str
    units: int
    reason: str
    layers: tuple[str, ...] = ()


def layer_of(tensor: str) -> str:
    """The layer that a person sees as the owner of a parameter or buffer, by its qualified name.

    That of a parametrised weight is the parametrised module; that of a tensor on the network itself, the tensor.
    """
    owner, computed, rest = f".{tensor}".partition(".parametrizations.")
    if computed:
        return owner[1:] or rest.partition(".")[0]
    return tensor.rpartition(".")[0] or tensor
