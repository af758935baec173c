"""What a network takes: a tensor, a tuple of tensors, or a mapping of them by the names of its arguments, or nests.

Every tensor's first dimension counts samples; what is no tensor is handed on as it is. All that is done to inputs is
done here, so that nobody else asks what they are. Outputs may be nests, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.errors import DataError

Inputs: TypeAlias = Any  # Tensor | tuple[Inputs, ...] | Mapping[str, Inputs]
Nest = TypeVar("Nest")


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What `model` gives for `inputs`: a tuple's or list's entries one after the other, a mapping's by name."""
    placed, named = arguments(inputs)
    return model(*placed, **named)


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `call` gives a model: arguments by place, and by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def tensors(nest: object) -> list[Tensor]:
    """Every tensor, in order."""
    return [leaf for leaf in tree_leaves(_plain(nest)) if isinstance(leaf, Tensor)]


def mapped(nest: Nest, change: Callable[[Tensor], Tensor]) -> Nest:
    """The same nest with every tensor changed."""
    if isinstance(nest, Tensor):
        return change(nest)  # type: ignore[return-value]
    found: Nest = tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, _plain(nest))
    return found


def _plain(nest: Any) -> Any:
    """The same with a dict for every mapping of a type that pytree does not know, such as a tokeniser's."""
    return tree_map(lambda leaf: _plain(dict(leaf)) if isinstance(leaf, Mapping) else leaf, nest)


def size(inputs: Inputs) -> int:
    """How many samples. Raises DataError where there is no tensor."""
    found = tensors(inputs)
    if not found:
        raise DataError(f"a batch of inputs is a {type(inputs).__name__} without a tensor; a model takes at least one")
    return len(found[0])


def first(nest: Nest, count: int) -> Nest:
    """The first `count` samples."""
    return mapped(nest, lambda tensor: tensor[:count])


def picked(nest: Nest, places: Tensor) -> Nest:
    """The samples at `places`, (n,)."""
    return mapped(nest, lambda tensor: tensor[places])


def joined(one: Nest, other: Nest) -> Nest:
    """The samples of both."""
    pair = _plain(one), _plain(other)
    found: Nest = tree_map(lambda a, b: torch.cat([a, b]) if isinstance(a, Tensor) else a, *pair)
    return found


def repeated(nest: Nest, count: int) -> Nest:
    """The first sample, `count` times."""
    return mapped(nest, lambda tensor: tensor[:1].repeat(count, *([1] * (tensor.dim() - 1))))


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
