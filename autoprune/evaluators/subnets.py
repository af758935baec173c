"""Networks of any widths, cut from weights of full width that they all share.

A width vector is how many units each group keeps. Of every tensor the units stay that the ranking puts first, so that a
narrower network is part of every wider one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.layout import laid_out
from autoprune.prune import Stay, Units, keep_first, slices, staying
from autoprune.space import SearchSpace
from autoprune.trace import Trace


@runtime_checkable
class Weights(Protocol):
    """What is shared: a module whose parameters make the weights of every width vector."""

    @property
    def net(self) -> nn.Module:
        """A network of full width; its buffers are shared, and as many of its parameters as `full` hands on."""
        ...

    def full(self, shares: Tensor) -> Mapping[str, Tensor]:
        """Every parameter of `net` at full width, by name, for `shares` of each group's units, (groups,) in (0, 1]."""
        ...


@dataclass(frozen=True)
class Subnets:
    """Every network that can be cut.

    Attributes:
        weights: what they share.
        trace: the index tables of the groups.
        space: the groups, and which numbers of their units may stay.
        ranked: the units of each group, those that stay longest first.
    """

    weights: Weights
    trace: Trace
    space: SearchSpace
    ranked: Sequence[Units]

    def random(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A width vector in which every number that may stay is equally likely in each group."""
        return tuple(int(rng.choice(group.choices())) for group in self.space)

    def extremes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The widest and the thinnest width vector."""
        return self.space.kept(self.space.dense()), self.space.kept(self.space.thinnest())

    def stay(self, kept: Sequence[int]) -> Stay:
        """Which positions of each tensor stay."""
        return staying(self.weights.net, self.trace.cuts, keep_first(self.ranked, kept))

    def outputs(self, kept: Sequence[int], inputs: Tensor) -> Tensor:
        """What the network of those widths gives for `inputs`, in training mode, with gradients to the weights."""
        stay = self.stay(kept)
        skeleton = slices(self.weights.net, stay).train()
        values = {name: _part(value, stay.get(name, {})) for name, value in self._full(kept).items()}
        found: Tensor = functional_call(skeleton, values, (inputs,))
        return found

    def network(self, kept: Sequence[int]) -> tuple[nn.Module, Stay]:
        """The network of those widths as an ordinary one, and which positions stayed; it shares no tensor."""
        stay = self.stay(kept)
        with torch.no_grad():
            return slices(self.weights.net, stay, values=self._full(kept)), stay

    def _full(self, kept: Sequence[int]) -> Mapping[str, Tensor]:
        shares = [k / group.of for k, group in zip(kept, self.space, strict=True)]
        return self.weights.full(torch.tensor(shares, device=next(self.weights.net.parameters()).device))


def _part(value: Tensor, dims: Mapping[int, NDArray[np.bool_]]) -> Tensor:
    for dim, mask in dims.items():
        value = value.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(value.device))
    return laid_out(value)
