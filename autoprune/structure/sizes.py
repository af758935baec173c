"""What tensors and operators of a network cost under any policy: products of sizes that are affine in its levels."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from autoprune.structure.edits import Index, layer_of
from autoprune.structure.labels import Flow, Labels, Leaf, Nodes
from autoprune.structure.liveness import Held
from autoprune.values.space import Choice
from autoprune.values.terms import Extent, Op


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


def operators(flow: Flow, unit_of: Index, choices: Sequence[Choice]) -> Iterable[Op]:
    """Every operator that multiplies, with its MACs; `unit_of` is the choice of each node, -1 if none."""

    def scaled(name: str, total: int, labels: Labels, sizes: Sequence[int]) -> Op:
        extents = [_extent(nodes, size, unit_of, choices) for nodes, size in zip(labels, sizes, strict=True)]
        return _scaled(name, total, extents, choices)

    for work in flow.work:
        op = scaled(layer_of(work.name), work.macs, work.labels, work.sizes)
        moves = tuple(scaled(op.name, math.prod(sizes), labels, sizes) for sizes, labels in work.moved)
        yield dataclasses.replace(op, kind=work.kind, moves=moves)


def parameters(flow: Flow, unit_of: Index, choices: Sequence[Choice]) -> Iterable[Op]:
    """Every parameter, with its elements."""
    by_tensor: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in flow.leaves:
        if leaf.parameter:
            by_tensor[leaf.tensor].append(leaf)
    for name, leaves in by_tensor.items():
        extents = [_extent(np.arange(x.first, x.first + x.size), x.size, unit_of, choices) for x in leaves]
        yield _scaled(name, math.prod(x.size for x in leaves), extents, choices)
    if flow.scalars:
        yield Op("scalars", len(flow.scalars), ())


def state(flow: Flow, model: nn.Module, unit_of: Index, choices: Sequence[Choice]) -> Iterable[Op]:
    """Every parameter and buffer, with its bytes."""
    by_tensor: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in flow.leaves:
        by_tensor[leaf.tensor].append(leaf)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        extents = [_extent(np.arange(x.first, x.first + x.size), x.size, unit_of, choices) for x in by_tensor[name]]
        yield _scaled(name, tensor.numel() * tensor.element_size(), extents, choices)


def blocks(flow: Flow, held: Iterable[Held], unit_of: Index, choices: Sequence[Choice]) -> Iterable[Block]:
    """The memory of a forward pass, which was made twice: with labels, and to see what is let go of when."""
    for block in held:
        if block.call < 0:
            yield Block(Op("input", block.bytes, ()), block.call, block.gone)
            continue
        sizes, labels, element = flow.made[block.call][block.output]
        extents = [_extent(nodes, size, unit_of, choices) for nodes, size in zip(labels, sizes, strict=True)]
        yield Block(_scaled("activation", math.prod(sizes) * element, extents, choices), block.call, block.gone)


def _extent(nodes: Nodes | None, size: int, unit_of: Index, choices: Sequence[Choice]) -> Extent:
    if nodes is None:
        return Extent(size)
    owners, counts = np.unique(unit_of[nodes], return_counts=True)
    per_unit = [(int(o), int(c) // choices[o].dense) for o, c in zip(owners, counts, strict=True) if o >= 0]
    return Extent(size - sum(elements * choices[o].dense for o, elements in per_unit), tuple(per_unit))


def _scaled(name: str, total: int, extents: Sequence[Extent], choices: Sequence[Choice]) -> Op:
    """An operator of `total` for the dense network; dimensions of a fixed size go into the factor."""
    moving = [e for e in extents if e.per_unit]
    dense = math.prod(e.size([c.dense for c in choices]) for e in moving)
    return Op(name, total // dense, tuple(moving))
