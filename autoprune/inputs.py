"""What a network takes: a tensor, a tuple of tensors, or a mapping of them by the names of its arguments, or nests.

Every tensor's first dimension counts samples; a tensor without dimensions is one number for all of them. A list of
mappings that is an entry of something, such as the boxes and classes of each image, has one mapping a sample. What is
no tensor is handed on as it is. All that is done to inputs is done here, so that nobody else asks what they are.
Outputs may be nests, too. Mappings and dataclasses may be of any type.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

from autoprune.errors import DataError

Inputs: TypeAlias = Any  # Tensor | tuple[Inputs, ...] | Mapping[str, Inputs]
Nest = TypeVar("Nest")
_TOKENS = 2048


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What `model` gives for `inputs`: a tuple's or list's entries one after the other, a mapping's by name."""
    placed, named = arguments(inputs)
    return model(*placed, **named)


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `call` gives a model: arguments by place, and by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def in_use(model: nn.Module, inputs: Inputs) -> Inputs:
    """`inputs` as the network takes them once it is in use: without labels, which only a loss inside of it reads.

    Labels are entries of a mapping that transformers takes for labels by their names, and that the network's forward
    may do without. Where it fails without them, they stay.
    """
    if not isinstance(inputs, Mapping):
        return inputs
    known = inspect.signature(model.forward).parameters
    rest = {name: entry for name, entry in inputs.items() if not (name in known and _is_label(known[name]))}
    if len(rest) == len(inputs) or not tensors(rest):
        return inputs
    try:
        with torch.no_grad(), evaluating(model):
            call(model, first(rest, 1))
    except Exception:  # whatever a network raises that cannot do without
        return inputs
    return rest


def _is_label(parameter: inspect.Parameter) -> bool:
    name = parameter.name
    return parameter.default is None and ("label" in name or name in ("start_positions", "end_positions"))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode; afterwards each is in its own again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def tensors(nest: object) -> list[Tensor]:
    """Every tensor, in order."""
    return [leaf for leaf in _leaves(nest) if isinstance(leaf, Tensor)]


def by_name(nest: object, of: str = "") -> dict[str, Tensor]:
    """Every tensor by the keys, fields and places on the way to it from `of`, with dots between."""
    if isinstance(nest, Tensor):
        return {of: nest}
    if isinstance(nest, tuple | list):
        entries: dict[Any, Any] = dict(zip(getattr(nest, "_fields", range(len(nest))), nest, strict=True))
    else:
        entries = _entries(nest) if _has_entries(nest) else {}
    found: dict[str, Tensor] = {}
    for name, entry in entries.items():
        found |= by_name(entry, f"{of}.{name}" if of else str(name))
    return found


def plain(nest: Any) -> Any:
    """The same of tuples, lists and dicts alone, as files hold it; what no file holds, such as a cache, is None."""
    if isinstance(nest, Tensor | int | float | str):
        return nest
    if isinstance(nest, tuple | list):
        return (list if isinstance(nest, list) else tuple)(map(plain, nest))
    return {name: plain(entry) for name, entry in _entries(nest).items()} if _has_entries(nest) else None


def mapped(nest: Nest, change: Callable[[Tensor], Tensor]) -> Nest:
    """The same nest with every tensor changed; a mapping of a type that pytree does not know becomes a dict."""
    if isinstance(nest, Tensor):
        return change(nest)  # type: ignore[return-value]
    found: Nest = _changed(nest, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)
    return found


def at_once(nest: Nest, most: int) -> int:
    """How many samples may run at once: `most`, but of tokens (n, length) no more than have 2,048 of them.

    Each has a number for every word of a vocabulary in the outputs.
    """
    texts = [tensor.shape[1] for tensor in tensors(nest) if tensor.dim() == 2 and not tensor.is_floating_point()]
    return min(most, max(1, _TOKENS // max(texts, default=1)))


def size(inputs: Inputs) -> int:
    """How many samples. Raises DataError where there is no tensor that counts them, or they are packed."""
    for leaf in _leaves(inputs, _is_whole):
        if _counts(leaf):
            return len(leaf)
    raise DataError(f"a batch of inputs is a {type(inputs).__name__} without a tensor; a model takes at least one")


def first(nest: Nest, count: int) -> Nest:
    """The first `count` samples."""
    return _sampled(nest, lambda leaf: leaf[:count])


def picked(nest: Nest, places: Tensor) -> Nest:
    """The samples at `places`, (n,)."""
    return _sampled(nest, lambda leaf: leaf[places] if isinstance(leaf, Tensor) else [leaf[i] for i in places.tolist()])


def joined(one: Nest, other: Nest) -> Nest:
    """The samples of both."""
    rest = (leaf for leaf in _leaves(other, _is_whole) if _counts(leaf))
    return _sampled(one, lambda leaf: torch.cat([leaf, next(rest)]) if isinstance(leaf, Tensor) else leaf + next(rest))


def repeated(nest: Nest, count: int) -> Nest:
    """The first sample, `count` times."""
    return picked(nest, torch.zeros(count, dtype=torch.long))


def _sampled(nest: Nest, change: Callable[[Any], Any]) -> Nest:
    """The same nest with all that has an entry a sample changed. Raises DataError where samples are packed."""
    found: Nest = _changed(nest, lambda leaf: change(leaf) if _counts(leaf) else leaf, _is_whole)
    return found


def _counts(leaf: object) -> bool:
    """Whether `leaf` has an entry a sample: a tensor with dimensions, or a list of mappings."""
    if isinstance(leaf, PackedSequence):
        raise DataError(
            "inputs hold a PackedSequence, whose first dimension does not count samples; "
            "hand over the padded tensor and the lengths, and pack them in the network's forward"
        )
    return bool(leaf.dim()) if isinstance(leaf, Tensor) else isinstance(leaf, list)


def _is_whole(nest: object) -> bool:
    """Whether samples are told apart by the entries of `nest`, and not by those of its tensors."""
    listed = isinstance(nest, list) and bool(nest) and all(isinstance(entry, Mapping) for entry in nest)
    return listed or isinstance(nest, PackedSequence)


def _never(nest: object) -> bool:
    return False


def _changed(nest: Any, change: Callable[[Any], Any], whole: Callable[[object], bool] = _never) -> Any:
    """The same nest with every leaf changed; what is `whole` is a leaf, but for a list of arguments."""
    visit = functools.partial(_visited, change, whole)
    if isinstance(nest, list) and whole(nest):
        return [tree_map(visit, entry, is_leaf=whole) for entry in nest]
    return tree_map(visit, nest, is_leaf=whole)


def _visited(change: Callable[[Any], Any], whole: Callable[[object], bool], leaf: Any) -> Any:
    """A leaf of pytree's, changed. It is no closure: those hold tensors until circles are looked for."""
    if not _has_entries(leaf):
        return change(leaf)
    visit = functools.partial(_visited, change, whole)
    entries = {name: tree_map(visit, entry, is_leaf=whole) for name, entry in _entries(leaf).items()}
    return entries if isinstance(leaf, Mapping) else _with(leaf, entries)


def _leaves(nest: object, whole: Callable[[object], bool] = _never) -> list[Any]:
    found: list[Any] = []
    _changed(nest, found.append, whole)
    return found


def _has_entries(leaf: object) -> bool:
    """Whether it is a mapping or a dataclass; pytree takes most types of them for leaves."""
    return isinstance(leaf, Mapping) or (dataclasses.is_dataclass(leaf) and not isinstance(leaf, type))


def _entries(nest: Any) -> dict[Any, Any]:
    if isinstance(nest, Mapping):
        return dict(nest)
    return {field.name: getattr(nest, field.name) for field in dataclasses.fields(nest)}


def _with(nest: Any, entries: Mapping[str, Any]) -> Any:
    """A dataclass with other entries; nothing of its own runs."""
    made = copy.copy(nest)
    for name, entry in entries.items():
        object.__setattr__(made, name, entry)
    return made


def moved(nest: Nest, place: torch.device | torch.dtype | str) -> Nest:
    """The same on a device, or with its floating-point numbers of another type."""
    if isinstance(place, torch.dtype):
        return mapped(nest, lambda tensor: tensor.to(place) if tensor.is_floating_point() else tensor)
    return mapped(nest, lambda tensor: tensor.to(place))


def nbytes(inputs: Inputs) -> int:
    """How large they are."""
    return sum(tensor.nbytes for tensor in tensors(inputs))


def shapes(inputs: Inputs) -> str:
    """The shapes of all tensors, for people."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))


def device_of(model: nn.Module) -> torch.device:
    """Where a network's parameters lie; the processor where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
