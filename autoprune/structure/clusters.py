"""Which channels are one unit, which units are one choice, and the slices that they make.

Channels that must go together, by what `structure.labels` has joined, are a unit; units that look alike, with the same
number of positions in the same places, are a choice.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from autoprune.structure import heads
from autoprune.structure.edits import Index, Resize, Role, Slice, layer_of
from autoprune.structure.labels import PAD, Flow, Geometry, Nodes
from autoprune.values.space import Choice, levels_of


@dataclass(frozen=True)
class Found:
    """Groups of channels, as choices, before they are proven."""

    groups: tuple[Choice, ...]
    cuts: tuple[tuple[Slice, ...], ...]
    members: tuple[tuple[int, ...], ...]  # components of each group, in the order of its units
    component: Index  # of each node
    weak: frozenset[int]
    resizes: tuple[tuple[Resize, ...], ...]
    lonely: tuple[int, ...]  # components that are all of what would be a group

    def group_of_node(self, kept: Sequence[int]) -> Index:
        """For each node the place of its group among those that are `kept`, -1 if none."""
        of_component = np.full(int(self.component.max()) + 1, -1)
        for place, group in enumerate(kept):
            of_component[list(self.members[group])] = place
        found: Index = of_component[self.component]
        return found


def cluster(flow: Flow, model: nn.Module, least: Mapping[str, int] = MappingProxyType({})) -> Found:
    """Components of joined nodes are units; units with the same number of positions in the same places are a group.

    `flow` has seen `model`. `least` says of which weights more columns must stay than one.
    """
    component = _components(flow)
    pinned = set(component[_all(nodes for nodes, _ in flow.pins)].tolist())
    signatures = _signatures(flow, component)
    consumed = set(component[_all(flow.consumed)].tolist())
    weak = set(component[_all(flow.renormalised)].tolist())
    alike: dict[object, list[int]] = {}
    for nodes in flow.produced:  # in order of execution, and within a layer in order of channels
        for unit in dict.fromkeys(component[nodes].tolist()):
            if unit not in pinned and unit in consumed:
                alike.setdefault(signatures[unit], []).append(unit)
    members = [tuple(dict.fromkeys(units)) for units in alike.values()]
    tables = _tables(flow, component, members)
    names = _names(flow, tables)
    kinds = _kinds(flow, component, members, weak)
    groups = [_group(flow, *one, least) for one in zip(names, kinds, tables, strict=True)]
    resizes = heads.resizes(flow, model, component, members, tables)
    real = [i for i, g in enumerate(groups) if g.dense > 1]
    lonely = [unit for g, units in zip(groups, members, strict=True) if g.dense == 1 for unit in units]
    return Found(
        tuple(groups[i] for i in real), tuple(tables[i] for i in real), tuple(members[i] for i in real), component,
        frozenset(n for n, i in enumerate(real) if weak & set(members[i])), tuple(resizes[i] for i in real),
        tuple(lonely),
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
    keys = component[_all(columns)] * len(columns) + np.repeat(np.arange(len(columns)), sizes)
    pairs, counts = np.unique(keys, return_counts=True)
    units, places = np.divmod(pairs, len(columns))
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for unit, column, count in zip(units.tolist(), places.tolist(), counts.tolist(), strict=True):
        found[unit].append((column, count))
    return {unit: tuple(places) for unit, places in found.items()}


def _tables(flow: Flow, component: Index, members: Sequence[Sequence[int]]) -> list[tuple[Slice, ...]]:
    """The index tables of each group: for each leaf that it has positions in, those of each unit."""
    place = np.full((int(component.max()) + 1, 2), -1, dtype=np.int64)  # component -> group, unit
    for group, units in enumerate(members):
        place[list(units)] = np.column_stack([np.full(len(units), group), np.arange(len(units))])
    produced, consumed = _mask(flow, flow.produced), _mask(flow, flow.consumed)
    tables: list[list[Slice]] = [[] for _ in members]
    for leaf in flow.leaves:
        nodes = slice(leaf.first, leaf.first + leaf.size)
        owners = place[component[nodes]]  # (size, 2)
        role: Role = "out" if produced[nodes].any() else "in" if consumed[nodes].any() else "along"
        for group in np.unique(owners[:, 0]):
            if group >= 0:
                positions = np.flatnonzero(owners[:, 0] == group)
                by_unit = positions[np.argsort(owners[positions, 1], kind="stable")]
                index = by_unit.reshape(len(members[group]), -1)
                tied = role == "out" and bool(consumed[nodes].any())
                tables[group].append(Slice(leaf.tensor, leaf.dim, index, role, tied))
    return [tuple(cuts) for cuts in tables]


def _mask(flow: Flow, nodes: Iterable[Nodes]) -> NDArray[np.bool_]:
    mask = np.zeros(flow.nodes, dtype=np.bool_)
    mask[_all(nodes)] = True
    return mask


def _names(flow: Flow, tables: Sequence[Sequence[Slice]]) -> list[str]:
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


def _kinds(flow: Flow, component: Index, members: Sequence[Sequence[int]], weak: set[int]) -> list[str]:
    """What the units of each group are: heads; hidden channels, which a normalisation mixes and an addition joins."""
    side_by_side = set(component[_all(flow.heads)].tolist())
    return ["head" if side_by_side & set(units) else "channel" for units in members]


def _group(flow: Flow, name: str, kind: str, cuts: Sequence[Slice], least: Mapping[str, int]) -> Choice:
    producers = [c for c in cuts if c.role == "out"]
    layers = dict.fromkeys(layer for c in (*producers, *cuts) for layer in flow.owners[c.tensor])
    width = min(c.index.shape[1] for c in cuts if c.layer == producers[0].layer)  # of gates, of which there are four, 1
    lowest = max([1, *(-(-least.get(c.tensor, 1) // c.index.shape[1]) for c in cuts if c.role == "in")])
    levels = levels_of(len(cuts[0].index), min(lowest, len(cuts[0].index)))
    made_by = tuple(dict.fromkeys(c.layer for c in producers))
    return Choice(name, levels, kind, layers=tuple(layers), width=width, producers=made_by)


def with_roles(flow: Flow, groups: Sequence[Choice], cuts: Sequence[Sequence[Slice]]) -> tuple[Choice, ...]:
    """The groups with their roles: channels, and the mean geometry of the layers that produce them, see `Geometry`.

    Each fact is a share of its largest, in [0, 1]; 0 where a producer's operator is not known.
    """
    if not groups:
        return ()
    geometry: dict[str, list[Geometry]] = defaultdict(list)
    for work in flow.work:
        geometry[layer_of(work.name)].append(work.geometry)
    facts = []
    for group, tables in zip(groups, cuts, strict=True):
        producers = dict.fromkeys(cut.layer for cut in tables if cut.role == "out")
        known = [shape for layer in producers for shape in geometry[layer]] or [(0, 0, 0, 0, 0)]
        facts.append([group.dense * group.width, *np.mean(known, axis=0)])
    roles = np.array(facts) / np.maximum(np.max(facts, axis=0), 1.0)  # (groups, 6)
    return tuple(dataclasses.replace(g, role=tuple(role)) for g, role in zip(groups, roles.tolist(), strict=True))
