"""The roles of a network's choices: what carries a policy over to a network with other names, see `values.roles`."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from autoprune.structure.trace import Trace
from autoprune.values.roles import Role
from autoprune.values.space import Choice

_KINDS = ((nn.Linear, "linear"), (nn.Embedding, "embedding"), (nn.RNNBase, "recurrent"), (nn.RNNCellBase, "recurrent"))


def roles(trace: Trace, model: nn.Module) -> tuple[Role, ...]:
    """The role of each of `trace.choices`, which are of `model`."""
    positions = {op.name: op.moves[-1].times for op in reversed(trace.ops) if op.moves}  # of the first call of each
    sizes = [_size(choice, positions) for choice in trace.choices]
    ladder = sorted(set(sizes), reverse=True)
    widest = max(choice.dense * choice.width for choice in trace.choices)
    last = max(len(trace.choices) - 1, 1)
    found = [
        _role(choice, model, ladder.index(size), at / last, widest)
        for at, (choice, size) in enumerate(zip(trace.choices, sizes, strict=True))
    ]
    return _in_rows([choice.kind for choice in trace.choices], found)


def _role(choice: Choice, model: nn.Module, stage: int, depth: float, widest: int) -> Role:
    """The role of one choice, whose position is not known yet."""
    modules = dict(model.named_modules())
    makers = [modules[layer] for layer in choice.producers if layer in modules]
    channels = choice.dense * choice.width
    return Role(
        layer=_kind(makers[0]) if makers else "none",
        shared=len(choice.producers) > 1,
        stage=stage,
        position=0.5,
        depth=round(depth, 6),
        width=round(channels / widest, 6),
        channels=channels,
        kernel=max((_largest(made, "kernel_size") for made in makers), default=1),
        stride=max((_largest(made, "stride") for made in makers), default=1),
    )


def _in_rows(kinds: Sequence[str], found: Sequence[Role]) -> tuple[Role, ...]:
    """The roles with the position of each among those that are alike."""
    rows = defaultdict[object, list[int]](list)
    for at, (kind, role) in enumerate(zip(kinds, found, strict=True)):
        rows[kind, role.alike].append(at)
    place = {at: n / (len(row) - 1) if len(row) > 1 else 0.5 for row in rows.values() for n, at in enumerate(row)}
    return tuple(dataclasses.replace(role, position=round(place[at], 6)) for at, role in enumerate(found))


def _size(choice: Choice, positions: dict[str, int]) -> int:
    """The positions of the output of the first layer that produces `choice`; 0 where that is not known."""
    return next((positions[layer] for layer in choice.producers if layer in positions), 0)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.modules.conv._ConvNd):
        return "depthwise" if module.groups == module.in_channels > 1 else "conv"
    return next((word for kind, word in _KINDS if isinstance(module, kind)), type(module).__name__.lower())


def _largest(module: nn.Module, name: str) -> int:
    """The largest of a layer's sizes of that name, 1 where it has none."""
    size = getattr(module, name, 1)
    return max((one for one in (size if isinstance(size, tuple) else (size,)) if isinstance(one, int)), default=1)
