"""What a choice is in its network, apart from its name; and a policy carried over to another network by that.

A role says where a choice stands (stage, position, depth) and of what kind it is (layer, width, kernel, stride), in
numbers that networks of other depths and widths have, too. Choices that are alike but for their position are a row; a
choice of another network gets what its place in the row that is most alike would have, in between of two choices where
the rows differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from autoprune.values.ranges import Range, Share

Whole = Annotated[int, Range(0, 10**9)]
_STAGE, _SHARED = 4.0, 2.0  # how unlike the first and the last stage are, and one layer and several; a doubling is 1
_WORDS = ("kind", "layer")  # what has to be equal


@dataclass(frozen=True, slots=True)
class Role:
    """What a choice is in its network.

    Attributes:
        layer: kind of the first layer that produces its units: "conv", "depthwise", "linear", "embedding", "recurrent",
            or else the name of its class in lower case; "none" where no layer does.
        shared: whether several layers produce them, as those of a residual stream do.
        stage: how many sizes of output larger than its own (of these layers, in positions) the network's choices have.
        position: its place among the choices that are alike, from the first, 0, to the last, 1; 0.5 of a single one.
        depth: its place among all choices, from 0 to 1.
        width: its channels against those of the widest choice.
        channels: how many it has in the dense network, a unit's several counted.
        kernel, stride: of these layers, the largest; 1 where there is none.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}

    layer: str
    shared: bool
    stage: Whole
    position: Share
    depth: Share
    width: Share
    channels: Whole
    kernel: Whole = 1
    stride: Whole = 1

    @property
    def alike(self) -> Hashable:
        """Equal for choices that differ in position only."""
        return self.layer, self.shared, self.stage, self.width, self.kernel, self.stride


@dataclass(frozen=True, slots=True)
class Placed:
    """A choice of a network, by its role; `sparsity` is what a policy removes of it, in [0, 1]."""

    name: str
    kind: str
    role: Role
    sparsity: float = 0.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What a choice gets from a policy for another network.

    Attributes:
        name: of the choice.
        sparsity: in [0, 1], before it is fitted to a budget.
        sources: the choices of the policy that it comes from, one, or two that it lies between; none where `why` says
            the reason.
        why: nothing of the policy corresponds to it; "" where something does.
    """

    name: str
    sparsity: float
    sources: tuple[str, ...] = ()
    why: str = ""


def carried(policy: Sequence[Placed], network: Sequence[Placed]) -> tuple[Carried, ...]:
    """What each choice of `network` gets from `policy`.

    A choice to which nothing corresponds gets the mean of those that got something, or stays dense where the policy
    decides nothing of its kind.
    """
    stages = tuple(max((one.role.stage for one in side), default=0) for side in (policy, network))
    found = [_one(policy, wanted, stages) for wanted in network]
    kinds = {one.kind for one in policy}
    known = [one.sparsity for one in found if not one.why]
    mean = float(np.mean(known)) if known else 0.0
    return tuple(
        Carried(one.name, mean, (), one.why) if one.why and wanted.kind in kinds else one
        for one, wanted in zip(found, network, strict=True)
    )


def _one(policy: Sequence[Placed], wanted: Placed, stages: tuple[int, ...]) -> Carried:
    same = [one for one in policy if one.kind == wanted.kind]
    if not same:
        return Carried(wanted.name, 0.0, (), f"the policy decides nothing of the kind {wanted.kind}")
    same = [one for one in same if one.role.layer == wanted.role.layer]
    if not same:
        return Carried(wanted.name, 0.0, (), f"the policy has no {wanted.kind} choice of a {wanted.role.layer} layer")
    nearest = min(same, key=lambda one: _unlike(one.role, wanted.role, stages))
    row = sorted((one for one in same if one.role.alike == nearest.role.alike), key=lambda one: one.role.position)
    places = [one.role.position for one in row]
    sparsity = float(np.interp(wanted.role.position, places, [one.sparsity for one in row]))
    return Carried(wanted.name, sparsity, _between(row, places, wanted.role.position))


def _between(row: Sequence[Placed], places: Sequence[float], position: float) -> tuple[str, ...]:
    """The one of `row` at `position`, or the two about it."""
    above = min(int(np.searchsorted(places, position - 1e-6)), len(row) - 1)
    exact = above == 0 or abs(places[above] - position) < 1e-6 or position > places[-1]
    return (row[above].name,) if exact else (row[above - 1].name, row[above].name)


def _unlike(one: Role, other: Role, stages: tuple[int, ...]) -> float:
    """How far a row of one network is from that of another; doublings of sizes are one each."""
    stage = abs(one.stage / max(stages[0], 1) - other.stage / max(stages[1], 1))
    sizes = ((one.width, other.width), (one.kernel, other.kernel), (one.stride, other.stride))
    doublings = sum(abs(math.log2(max(a, 1e-6) / max(b, 1e-6))) for a, b in sizes)
    return _STAGE * stage + _SHARED * (one.shared != other.shared) + doublings
