"""From a dense network to the groups that can be pruned, the index tables that prune them, and what everything costs.

The network runs once under `structure.labels`, on a copy: the network itself is never touched. Channels that must go
together become units; units that look alike become a group. What the flow says is then *proven*, group by group: a
random half of the units is cut out, and the pruned network must compute what the dense network computes when the next
layers ignore those units. What cannot be proven is frozen and named with its reason, never guessed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from autoprune.errors import ModelError, first_line
from autoprune.structure import operators
from autoprune.structure.edits import Block, Cut, Frozen, Index, Role
from autoprune.structure.labels import PAD, Flow, Geometry, Labels, Leaf, Nodes, plain
from autoprune.structure.liveness import Held, footprint
from autoprune.structure.proof import prove
from autoprune.values.space import Extent, Group, Op

EXACT, SHAPES = "exact", "shapes"


@dataclass(frozen=True)
class Trace:
    """All that is known of a network's structure.

    Attributes:
        groups: in order of execution; every number of units from 1 to all may stay.
        cuts: cuts[i] are the index tables of groups[i].
        ops: every operator that multiplies, with its MACs for one example.
        parameters: every parameter, with its elements.
        state: every parameter and buffer, with its bytes.
        blocks: the memory that a forward pass of one example holds.
        frozen: what may not be pruned.
        proofs: one a group: "exact", or "shapes" where a normalisation over channels allows no more.
    """

    groups: tuple[Group, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    ops: tuple[Op, ...]
    parameters: tuple[Op, ...]
    frozen: tuple[Frozen, ...]
    proofs: tuple[str, ...]
    state: tuple[Op, ...] = ()
    blocks: tuple[Block, ...] = ()


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Trace and prove `model`, which stays as it is, on one `example` batch of shape (n, ...).

    Raises ModelError where the network cannot be copied, fails on the example, or has nothing that could be pruned.
    """
    probe, example = _probe(model), example.cpu()
    outputs, flow = _run(probe, example[:1])
    flow.pin_outputs(outputs)
    found = _cluster(flow)
    refuted = prove(probe, example, found.cuts, found.weak)
    kept = [i for i in range(len(found.groups)) if i not in refuted]
    frozen = (
        *_frozen_by_flow(flow, found),
        *(Frozen(found.groups[i].name, found.groups[i].of, why) for i, why in sorted(refuted.items())),
    )
    if not kept:
        why = (
            "; ".join(f"{f.name}: {f.reason}" for f in frozen[:3])
            or "it has no convolution or linear layer that another reads"
        )
        raise ModelError(f"nothing in this network can be pruned: {why}")
    groups = _with_roles(flow, [found.groups[i] for i in kept], [found.cuts[i] for i in kept])
    unit_of = found.group_of_node(kept)
    return Trace(
        groups=groups,
        cuts=tuple(found.cuts[i] for i in kept),
        ops=tuple(_operators(flow, unit_of, groups)),
        parameters=tuple(_parameters(flow, unit_of, groups)),
        frozen=frozen,
        proofs=tuple(SHAPES if i in found.weak else EXACT for i in kept),
        state=tuple(_state(flow, model, unit_of, groups)),
        blocks=tuple(_blocks(flow, footprint(probe, example), unit_of, groups)),
    )


def _probe(model: nn.Module) -> nn.Module:
    """A copy in eval mode with random weights: in general position, so that no unit is dead and no two are alike."""
    try:
        probe = copy.deepcopy(model).cpu().float().eval()
    except (RuntimeError, TypeError) as wrong:
        raise ModelError(
            f"the network cannot be copied ({first_line(wrong)}); keep computed tensors out of its attributes"
        ) from None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                parameter.copy_(noise * math.sqrt(2.0 / max(1, parameter[0].numel())))
            else:
                parameter.copy_(0.6 + 0.1 * noise)
        for name, buffer in probe.named_buffers():
            if buffer.is_floating_point() and name.endswith(("running_mean", "running_var")):
                centre = 0.0 if name.endswith("mean") else 1.0
                buffer.copy_(centre + 0.2 * torch.rand(buffer.shape, generator=generator))
    return probe


def _run(probe: nn.Module, example: Tensor) -> tuple[object, Flow]:
    try:
        with plain(), Flow(probe, operators.handler, operators.scales, operators.geometry) as flow:
            return probe(example), flow
    except Exception as wrong:
        raise ModelError(
            f"the network fails on its example of shape {tuple(example.shape)}: {first_line(wrong)}"
        ) from wrong


@dataclass(frozen=True)
class _Found:
    """Groups before they are proven."""

    groups: tuple[Group, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    members: tuple[tuple[int, ...], ...]  # components of each group, in the order of its units
    component: Index  # of each node
    weak: frozenset[int]
    lonely: tuple[Frozen, ...]

    def group_of_node(self, kept: Sequence[int]) -> Index:
        """For each node the place of its group among those that are `kept`, -1 if none."""
        of_component = np.full(int(self.component.max()) + 1, -1)
        for place, group in enumerate(kept):
            of_component[list(self.members[group])] = place
        found: Index = of_component[self.component]
        return found


def _cluster(flow: Flow) -> _Found:
    """Components of joined nodes are units; units with the same number of positions in the same places are a group."""
    component = _components(flow)
    pinned = set(component[_all(nodes for nodes, _ in flow.pins)].tolist())
    signatures = _signatures(flow, component)
    consumed = set(component[_all(flow.consumed)].tolist())
    weak = set(component[_all(flow.renormalised)].tolist())
    kinds: dict[object, list[int]] = {}
    for nodes in flow.produced:  # in order of execution, and within a layer in order of channels
        for unit in dict.fromkeys(component[nodes].tolist()):
            if unit not in pinned and unit in consumed:
                kinds.setdefault(signatures[unit], []).append(unit)
    members = [tuple(dict.fromkeys(units)) for units in kinds.values()]
    tables = _tables(flow, component, members)
    names = _names(flow, tables)
    groups = [_group(name, cuts) for name, cuts in zip(names, tables, strict=True)]
    real = [i for i, g in enumerate(groups) if g.of > 1]
    lonely = [Frozen(g.name, 1, "all its channels depend on one another") for g in groups if g.of == 1]
    return _Found(
        tuple(groups[i] for i in real), tuple(tables[i] for i in real), tuple(members[i] for i in real), component,
        frozenset(n for n, i in enumerate(real) if weak & set(members[i])), tuple(lonely),
    )  # fmt: skip


def _all(arrays: Iterable[Nodes]) -> Nodes:
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _components(flow: Flow) -> Index:
    left, right = _all(a for a, _ in flow.joins), _all(b for _, b in flow.joins)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(flow.nodes, flow.nodes))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _signatures(flow: Flow, component: Index) -> dict[int, tuple[tuple[int, int], ...]]:
    """For each component how many positions it has in each leaf and in each dimension that scales an operator."""
    columns = [np.arange(leaf.first, leaf.first + leaf.size) for leaf in flow.leaves]
    columns += [nodes[nodes != PAD] for work in flow.work for nodes in work.labels if nodes is not None]
    sizes = [len(column) for column in columns]
    keys = np.stack([component[_all(columns)], np.repeat(np.arange(len(columns)), sizes)])
    pairs, counts = np.unique(keys, axis=1, return_counts=True)
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for unit, column, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found[unit].append((column, count))
    return {unit: tuple(places) for unit, places in found.items()}


def _tables(flow: Flow, component: Index, members: Sequence[Sequence[int]]) -> list[tuple[Cut, ...]]:
    """The index tables of each group: for each leaf that it has positions in, those of each unit."""
    place = np.full((int(component.max()) + 1, 2), -1, dtype=np.int64)  # component -> group, unit
    for group, units in enumerate(members):
        place[list(units)] = np.column_stack([np.full(len(units), group), np.arange(len(units))])
    produced, consumed = _mask(flow, flow.produced), _mask(flow, flow.consumed)
    tables: list[list[Cut]] = [[] for _ in members]
    for leaf in flow.leaves:
        nodes = slice(leaf.first, leaf.first + leaf.size)
        owners = place[component[nodes]]  # (size, 2)
        role: Role = "out" if produced[nodes].any() else "in" if consumed[nodes].any() else "along"
        for group in np.unique(owners[:, 0]):
            if group >= 0:
                positions = np.flatnonzero(owners[:, 0] == group)
                by_unit = positions[np.argsort(owners[positions, 1], kind="stable")]
                index = by_unit.reshape(len(members[group]), -1)
                tables[group].append(Cut(leaf.tensor, leaf.dim, index, role))
    return [tuple(cuts) for cuts in tables]


def _mask(flow: Flow, nodes: Iterable[Nodes]) -> NDArray[np.bool_]:
    mask = np.zeros(flow.nodes, dtype=np.bool_)
    mask[_all(nodes)] = True
    return mask


def _names(flow: Flow, tables: Sequence[Sequence[Cut]]) -> list[str]:
    """The first producer of each group in order of execution, numbered where it produces several."""
    owner = {leaf.first: leaf.tensor for leaf in flow.leaves}
    rank: dict[str, int] = {}
    for nodes in flow.produced:
        rank.setdefault(owner.get(int(nodes[0]), ""), len(rank))
    seen: Counter[str] = Counter()
    names = []
    for cuts in tables:
        producers = [c for c in cuts if c.role == "out"]
        first = min(producers, key=lambda c: rank.get(c.tensor, len(rank))).layer
        seen[first] += 1
        names.append(first if seen[first] == 1 else f"{first}#{seen[first]}")
    return names


def _group(name: str, cuts: Sequence[Cut]) -> Group:
    producers = [c for c in cuts if c.role == "out"]
    layers = dict.fromkeys(c.layer for c in (*producers, *cuts))
    return Group(name, of=len(cuts[0].index), layers=tuple(layers), width=producers[0].index.shape[1])


def _with_roles(flow: Flow, groups: Sequence[Group], cuts: Sequence[Sequence[Cut]]) -> tuple[Group, ...]:
    """The groups with their roles: channels, and the mean geometry of the layers that produce them, see `Geometry`.

    Each fact is a share of its largest, in [0, 1]; 0 where a producer's operator is not known.
    """
    geometry: dict[str, list[Geometry]] = defaultdict(list)
    for work in flow.work:
        geometry[work.name.rpartition(".")[0] or work.name].append(work.geometry)
    facts = []
    for group, tables in zip(groups, cuts, strict=True):
        producers = dict.fromkeys(cut.layer for cut in tables if cut.role == "out")
        known = [shape for layer in producers for shape in geometry[layer]] or [(0, 0, 0, 0, 0)]
        facts.append([group.of * group.width, *np.mean(known, axis=0)])
    roles = np.array(facts) / np.maximum(np.max(facts, axis=0), 1.0)  # (groups, 6)
    return tuple(dataclasses.replace(g, role=tuple(role)) for g, role in zip(groups, roles.tolist(), strict=True))


def _frozen_by_flow(flow: Flow, found: _Found) -> Iterable[Frozen]:
    """What the flow pinned, by producing layer and reason; and what nobody reads."""
    reasons: dict[int, str] = {}
    for nodes, why in flow.pins:
        for unit in np.unique(found.component[nodes]).tolist():
            reasons.setdefault(unit, why)
    grouped = {unit for units in found.members for unit in units}
    owner = {leaf.first: leaf.tensor for leaf in flow.leaves}
    seen: set[int] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for nodes in flow.produced:
        layer = owner.get(int(nodes[0]), "?").rpartition(".")[0]
        units = set(found.component[nodes].tolist()) - seen - grouped
        seen |= units
        for unit in units:
            if unit in reasons:
                counts[layer, reasons[unit]] += 1
    yield from (Frozen(layer, units, why) for (layer, why), units in counts.items())
    yield from found.lonely


def _extent(nodes: Nodes | None, size: int, unit_of: Index, groups: Sequence[Group]) -> Extent:
    if nodes is None:
        return Extent(size)
    owners, counts = np.unique(unit_of[nodes], return_counts=True)
    per_unit = [(int(o), int(c) // groups[o].of) for o, c in zip(owners, counts, strict=True) if o >= 0]
    return Extent(size - sum(elements * groups[o].of for o, elements in per_unit), tuple(per_unit))


def _scaled(name: str, total: int, extents: Sequence[Extent], groups: Sequence[Group]) -> Op:
    """An operator of `total` for the dense network; dimensions of a fixed size go into the factor."""
    moving = [e for e in extents if e.per_unit]
    dense = math.prod(e.size([g.of for g in groups]) for e in moving)
    return Op(name, total // dense, tuple(moving))


def _operators(flow: Flow, unit_of: Index, groups: Sequence[Group]) -> Iterable[Op]:
    def scaled(name: str, total: int, labels: Labels, sizes: Sequence[int]) -> Op:
        extents = [_extent(nodes, size, unit_of, groups) for nodes, size in zip(labels, sizes, strict=True)]
        return _scaled(name, total, extents, groups)

    for work in flow.work:
        name = work.name.removesuffix(".weight")
        op = scaled(name, work.macs, work.labels, work.sizes)
        moves = tuple(scaled(name, math.prod(sizes), labels, sizes) for sizes, labels in work.moved)
        yield dataclasses.replace(op, kind=work.kind, moves=moves)


def _parameters(flow: Flow, unit_of: Index, groups: Sequence[Group]) -> Iterable[Op]:
    by_tensor: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in flow.leaves:
        if leaf.parameter:
            by_tensor[leaf.tensor].append(leaf)
    for name, leaves in by_tensor.items():
        extents = [_extent(np.arange(x.first, x.first + x.size), x.size, unit_of, groups) for x in leaves]
        yield _scaled(name, math.prod(x.size for x in leaves), extents, groups)
    scalars = flow.scalars
    if scalars:
        yield Op("scalars", scalars, ())


def _state(flow: Flow, model: nn.Module, unit_of: Index, groups: Sequence[Group]) -> Iterable[Op]:
    by_tensor: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in flow.leaves:
        by_tensor[leaf.tensor].append(leaf)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        extents = [_extent(np.arange(x.first, x.first + x.size), x.size, unit_of, groups) for x in by_tensor[name]]
        yield _scaled(name, tensor.numel() * tensor.element_size(), extents, groups)


def _blocks(flow: Flow, held: Iterable[Held], unit_of: Index, groups: Sequence[Group]) -> Iterable[Block]:
    """The same pass was made twice: once with labels, once to see what is let go of when."""
    for block in held:
        if block.call < 0:
            yield Block(Op("input", block.bytes, ()), block.call, block.gone)
            continue
        sizes, labels, element = flow.made[block.call][block.output]
        extents = [_extent(nodes, size, unit_of, groups) for nodes, size in zip(labels, sizes, strict=True)]
        yield Block(_scaled("activation", math.prod(sizes) * element, extents, groups), block.call, block.gone)


def restrict(group: Group, *, max_sparsity: float, step: int) -> Group:
    """`group` with at most `max_sparsity` of its units removed, kept in multiples of `step` channels.

    A unit of several channels (a group of a grouped convolution) counts as that many. Zero `max_sparsity` freezes.
    """
    lowest = max(1, math.ceil(group.of * (1.0 - max_sparsity) - 1e-9))
    return dataclasses.replace(group, lowest=min(lowest, group.of), step=step // math.gcd(step, group.width))
