"""Numbers of a network's modules that count what may leave, such as its heads, and how they fall with it.

A number on a module that its code gives to a view, a split or an expansion (`structure.counts`) counts what lies along
that dimension: when units leave, the attribute has to fall with them (`Resize`). What a number that is written down
counts is frozen, which the proof finds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor, nn

from autoprune.structure.counts import Counted
from autoprune.structure.edits import Index, Resize, Slice
from autoprune.structure.labels import Call, Flow, Nodes

CONFIG = "config"  # the attribute in which models of transformers keep what they were made by
_MADE = ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
_BY_PLACE = frozenset(("view", "reshape", "expand", *_MADE))
_PARTS = frozenset(("split", "split_with_sizes", "narrow", "__getitem__"))
_NOT_HEADS = ("dim", "size", "group", "mask")
_WIDTHS = frozenset(("all_head_size", "attn_dim", "inner_dim", "split_size"))


def note(call: Call) -> None:
    """Note what the numbers in `call` count, by the labels of what comes out; what one counts twice goes together."""
    flow = call.flow
    if not any(isinstance(size, Counted) for size in flow.functions.written):
        return
    for out in call.outputs:
        sizes = written(call, out) or _taken(call, out)
        for size, nodes in zip(sizes, flow.labels(out), strict=False):
            if nodes is not None and isinstance(size, Counted) and size == len(nodes):
                _count(flow, size, nodes)


def _count(flow: Flow, size: Counted, nodes: Nodes) -> None:
    module = size.module if size.module in flow.places.names() else flow.places.holding(size.attribute, size)
    if module is not None:
        flow.join(flow.counted.setdefault((module, size.attribute), nodes), nodes, "")


def written(call: Call, out: Tensor) -> Sequence[int]:
    """The size of each dimension of `out`, as the network's code says it; empty where it says sizes otherwise."""
    functions = call.flow.functions
    if functions.running in _BY_PLACE and len(functions.written) == out.dim():
        return functions.written
    if functions.running == "unflatten":
        first, sizes = functions.written[0], functions.written[1:]
        before = first % (out.dim() - len(sizes) + 1)
        return [*out.shape[:before], *sizes, *out.shape[before + len(sizes) :]]
    return ()


def _taken(call: Call, out: Tensor) -> Sequence[int]:
    """As `written`, of a part of a tensor: along the dimension of which it is a part."""
    source, functions = call.inputs[0].shape, call.flow.functions
    if functions.running not in _PARTS or len(source) != out.dim():
        return ()
    said = {int(number): number for number in functions.written if isinstance(number, Counted)}
    return [said.get(size, size) if size != of else size for size, of in zip(out.shape, source, strict=True)]


def resizes(
    flow: Flow, model: nn.Module, component: Index, members: Sequence[Sequence[int]], tables: Sequence[Sequence[Slice]]
) -> list[tuple[Resize, ...]]:
    """Of each group, by its components `members` and its slices, the numbers that count its units."""
    place = np.full(int(component.max()) + 1, -1)
    for group, units in enumerate(members):
        place[list(units)] = group
    found: list[dict[tuple[str, str], int]] = [{} for _ in members]
    for (module, word), nodes in flow.counted.items():
        for group, each in _each(nodes, component, place, members):
            found[group].setdefault((module, word), each)
    for name, nodes, width in flow.split:
        for group, each in _each(nodes, component, place, members):
            for word, times in _telling(model.get_submodule(name), len(nodes), width):
                found[group].setdefault((name, word), each * times)
    return [
        tuple(Resize(*at, each, cuts[0].tensor, cuts[0].dim, cuts[0].index[:, 0]) for at, each in group.items())
        for group, cuts in zip(found, tables, strict=True)
    ]


def _each(nodes: Nodes, component: Index, place: Index, members: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """The groups that have some of `nodes`, and how many of them each unit has."""
    owners, counts = np.unique(place[component[nodes]], return_counts=True)
    for group, count in zip(owners.tolist(), counts.tolist(), strict=True):
        if group >= 0 and count % len(members[group]) == 0:
            yield group, count // len(members[group])


def _telling(module: nn.Module, heads: int, width: int) -> Iterator[tuple[str, int]]:
    """The attributes by whose names and values `module` says how many heads it has, or their channels.

    They may not be read where the heads are counted, but should be right; those of its config, too, as "config.heads".
    """
    for word, value in vars(module).items():
        if type(value) is int and value == heads and says_heads(word):
            yield word, 1
        elif type(value) is int and value == heads * width and word in _WIDTHS:
            yield word, width
    yield from ((f"{CONFIG}.{word}", 1) for word, value in of_config(module).items() if value == heads)


def says_heads(word: str) -> bool:
    """Whether an attribute of this name is a number of heads."""
    return "head" in word.lower() and not any(other in word.lower() for other in _NOT_HEADS)


def of_config(module: nn.Module) -> dict[str, int]:
    """Numbers of heads that the config of `module` says, by name; none where it has no config of its library's."""
    told = getattr(vars(module).get(CONFIG), "__dict__", {})
    return {word: value for word, value in told.items() if type(value) is int and says_heads(word)}
