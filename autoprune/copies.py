"""Copies of networks that share nothing with them, of those, too, that torch refuses to copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copied(model: Network) -> Network:
    """A copy, even of a network whose layers keep weights that they have computed as attributes."""
    return copy.deepcopy(model, computed(model))


def computed(model: nn.Module) -> dict[int, object]:
    """What deepcopy is told: tensors that it would refuse are copied as numbers, without their gradients' history."""
    return {id(tensor): tensor.detach().clone() for tensor in _attributes(model)}


def _attributes(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf)
