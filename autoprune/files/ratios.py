"""A policy in the words of Torch-Pruning: its `pruning_ratio_dict`, by names of layers instead of modules.

Torch-Pruning (Fang et al. 2023, https://arxiv.org/abs/2301.12900; 1.6) keeps int(channels * (1 - ratio)) of each layer
that the dictionary names, and leaves the others as they are with pruning_ratio=0. The widths are those of the policy,
for the same network; which channels go, its own criterion says.
"""

from __future__ import annotations

from collections import Counter

from autoprune.errors import PolicyError
from autoprune.files.policy_file import ChoiceEntry, PolicyFile

_LAYERS = ("conv", "linear")


def pruning_ratios(file: PolicyFile) -> dict[str, float]:
    """The ratio of every layer that produces channels, in [0, 1). Raises PolicyError for what has no such ratio."""
    file.placed()  # refuses files that do not say what produces what
    makers = Counter(layer for entry in file.choices for layer in entry.producers)
    for entry in file.choices:
        if why := _beyond(entry, makers):
            raise PolicyError(f"torch-pruning has no ratio for choice {entry.name!r}: {why}")
    return {layer: _ratio(entry.kept, entry.of) for entry in file.choices for layer in entry.producers}


def _beyond(entry: ChoiceEntry, makers: Counter[str]) -> str:
    """Why the choice cannot be said by ratios; "" where it can."""
    role = entry.role
    assert role is not None
    if entry.kind != "channel":
        return f"its units are of the kind {entry.kind}, ratios are of channels"
    if role.channels != entry.of or role.layer not in _LAYERS:
        return f"it keeps {entry.kept} of {entry.of} units of {role.layer} layers with {role.channels} channels"
    if twice := [layer for layer in entry.producers if makers[layer] > 1]:
        return f"the layer {twice[0]!r} produces the units of {makers[twice[0]]} choices, and has one ratio"
    return ""


def _ratio(kept: int, of: int) -> float:
    """The ratio of which Torch-Pruning keeps `kept`: the sparsity, unless that is rounded to another number."""
    plain = (of - kept) / of
    return plain if int(of * (1 - plain)) == kept else 1 - (kept + 0.5) / of
