"""What the level of a choice does to a network. Plain values, found by the trace and carried out by `structure.prune`.

A slice takes units from a tensor; a resize brings a number that a module keeps, such as its heads, in line with that; a
skip leaves a module out. Whatever else a level may do (mask weights, round them) has its place here.
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
        tied: whether rows that produce the unit are read, too, as those of an embedding that is the output's layer.
    """

    tensor: str
    dim: int
    index: Index
    role: Role
    tied: bool = False

    @property
    def layer(self) -> str:
        """The layer that owns the tensor, see `layer_of`."""
        return layer_of(self.tensor)


@dataclass(frozen=True)
class Resize:
    """A number that a module keeps as an attribute and that counts units: `num_heads`, or `split_size` in channels.

    Attributes:
        module: qualified name of the module; "" is the network itself.
        attribute: the name of the number; "config.heads" is `heads` of its config, which modules share: it falls where
            they all agree.
        each: by how much it falls with each unit that leaves.
        tensor, dim: where it is seen which units leave; a slice of the same choice.
        index: shape (units,), a position of each unit there.
    """

    module: str
    attribute: str
    each: int
    tensor: str
    dim: int
    index: Index


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
