"""The account of a network: every layer with parameters is in a choice or in the frozen list, with a reason.

And every operator that reads weights has MACs that are known, or multiplies nothing, or is named: nothing is left out
of a sum in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from autoprune.structure import operators
from autoprune.structure.clusters import Found
from autoprune.structure.edits import Frozen, Index, layer_of
from autoprune.structure.labels import Flow
from autoprune.values.space import Choice
from autoprune.values.terms import Op

NO_READER = "is read by no layer after it"
UNUSED = "is not used in the forward pass"

_NAMES = """
scatter_reduce index_fill take masked_select diag_embed diag block_diag resize set view_as_real view_as_complex real
imag _conj conj resolve_conj resolve_neg rot90 tile repeat_interleave one_hot to_dense
median mode nonzero searchsorted bucketize unique2 _unique2 unique_consecutive cummax cummin aminmax histc bincount
isin is_nonzero item _local_scalar_dense _assert_async _embedding_bag embedding_bag _embedding_bag_forward_only
fractional_max_pool2d fractional_max_pool3d multinomial normal uniform random exponential
norm std_mean cumprod logcumsumexp renorm embedding_renorm sum_to_size
"""
_FREE = frozenset(_NAMES.split())  # not followed; they move, pick, compare or sum, and multiply nothing that is a MAC


@dataclass
class _Entry:
    """What is frozen for one reason in one layer."""

    name: str
    reason: str
    units: set[int] = field(default_factory=set)  # components


def frozen(
    flow: Flow, found: Found, refuted: Mapping[int, str], covered: frozenset[str] = frozenset()
) -> tuple[Frozen, ...]:
    """All that cannot be pruned: what was pinned, group by group what the proof `refuted`, and layers of neither.

    What is of `covered` layers alone is left out: they are in a choice of another kind.
    """
    kept = [group for place, group in enumerate(found.groups) if place not in refuted]
    reasons = _reasons(flow, found)
    pinned = [*_pinned(flow, found, reasons)]
    wrong = ((found.groups[place], why) for place, why in sorted(refuted.items()))
    disproven = [Frozen(group.name, group.dense, why, group.layers) for group, why in wrong]
    named = _layers_of([*kept, *pinned, *disproven])
    every = (*pinned, *disproven, *_rest(flow, found, reasons, named))
    return tuple(one for one in every if not covered.issuperset(one.layers))


def _pinned(flow: Flow, found: Found, reasons: Mapping[int, str]) -> Iterable[Frozen]:
    """What layers make and is in no group, by layer and reason."""
    grouped = {unit for units in found.members for unit in units}
    owner = {leaf.first: leaf.tensor for leaf in flow.leaves}
    entries: dict[tuple[str, str], _Entry] = {}
    for nodes in flow.produced:
        layer = layer_of(owner.get(int(nodes[0]), "")) or "?"
        for unit in np.unique(found.component[nodes]).tolist():
            if unit not in grouped:
                grouped.add(unit)
                why = reasons.get(unit, NO_READER)
                entries.setdefault((layer, why), _Entry(layer, why)).units.add(unit)
    places = np.full(int(found.component.max()) + 1, -1)
    for number, entry in enumerate(entries.values()):
        places[list(entry.units)] = number
    layers = _layers(flow, places[found.component], len(entries))
    for entry, others in zip(entries.values(), layers, strict=True):
        yield Frozen(entry.name, len(entry.units), entry.reason, tuple(dict.fromkeys((entry.name, *others))))


def _reasons(flow: Flow, found: Found) -> dict[int, str]:
    """Why each component is pinned: the first reason that was given."""
    reasons: dict[int, str] = {}
    for nodes, why in flow.pins:
        for unit in np.unique(found.component[nodes]).tolist():
            reasons.setdefault(unit, why)
    return {**dict.fromkeys(found.lonely, "makes channels that all depend on one another"), **reasons}


def _layers(flow: Flow, entry_of: Index, entries: int) -> list[list[str]]:
    """For each entry the layers that have positions in it; `entry_of` is the entry of each node, -1 if none."""
    layers: list[list[str]] = [[] for _ in range(entries)]
    for leaf in flow.leaves:
        for number in np.unique(entry_of[leaf.first : leaf.first + leaf.size]).tolist():
            if number >= 0:
                layers[number] += flow.owners[leaf.tensor]
    return layers


def _rest(flow: Flow, found: Found, reasons: Mapping[int, str], named: set[str]) -> Iterable[Frozen]:
    """The layers with parameters that are named nowhere: they make no channels, or are not used."""
    first: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for leaf in (leaf for leaf in flow.leaves if leaf.parameter):
        units = np.unique(found.component[leaf.first : leaf.first + leaf.size]).tolist()
        why = next((reasons[unit] for unit in units if unit in reasons), "")
        for layer in flow.owners[leaf.tensor]:
            sizes[layer] = max(sizes.get(layer, 0), leaf.size if leaf.dim == 0 else 0)
            first[layer] = first.get(layer, "") or why
    for name in flow.scalars:
        for layer in flow.owners[name]:
            sizes.setdefault(layer, 1)
            first.setdefault(layer, "is a single number")
    used = {layer for name in flow.used for layer in flow.owners[name]}
    for layer, units in sizes.items():
        if layer not in named:
            yield Frozen(layer, units, (first[layer] or NO_READER) if layer in used else UNUSED, (layer,))


def unpriced(flow: Flow) -> list[Op]:
    """The operators that read weights and may multiply by them, and whose MACs are not known."""
    unknown = (one for one in flow.uncounted if not _free(one.op, one.func))
    return [Op(what, 0, (), known=False) for what in dict.fromkeys(one.what for one in unknown)]


def _free(op: str, func: object) -> bool:
    return op in _FREE or (operators.is_known(func, op) and not operators.multiplies(op))


def _layers_of(entries: Iterable[Choice | Frozen]) -> set[str]:
    return {layer for one in entries for layer in one.layers}


def unaccounted(model: nn.Module, choices: Iterable[Choice], frozen: Iterable[Frozen]) -> list[str]:
    """The layers of `model` with parameters that are in no choice and not among the `frozen`: none, if all is well."""
    named = _layers_of(choices) | _layers_of(frozen)
    owners = dict.fromkeys(layer_of(name) for name, _ in model.named_parameters(remove_duplicate=False))
    return [layer for layer in owners if layer not in named]
