"""Networks of any widths, cut from weights of full width that they all share.

A width vector is how many units each group keeps. Of every tensor the units stay that the ranking puts first, so that a
narrower network is part of every wider one. The ranking belongs to the weights: they were trained for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.engine.memory import laid_out
from autoprune.structure.prune import Stay, Units, keep_first, narrowed, slices, staying
from autoprune.structure.trace import Trace
from autoprune.values.space import SearchSpace


class Weights(nn.Module):
    """What is shared: parameters that make the weights of every width vector, and the ranking of units.

    Attributes:
        net: a network of full width; its buffers are shared, and as many of its parameters as `full` hands on.
    """

    def __init__(self, net: nn.Module, ranked: Sequence[Units]) -> None:
        """`ranked` are the units of each group, those that stay longest first."""
        super().__init__()
        self.net = net
        self._groups = len(ranked)
        for group, units in enumerate(ranked):
            self.register_buffer(f"ranked_{group}", torch.from_numpy(np.array(units, dtype=np.int64)))

    @property
    def ranked(self) -> list[Units]:
        """The units of each group, those that stay longest first."""
        return [self.get_buffer(f"ranked_{group}").cpu().numpy() for group in range(self._groups)]

    def full(self, shares: Tensor) -> Mapping[str, Tensor]:
        """Every parameter of `net` at full width, by name, for `shares` of each group's units, (groups,) in (0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Subnets:
    """Every network that can be cut.

    Attributes:
        weights: what they share.
        trace: the index tables of the groups.
        space: the groups, and which numbers of their units may stay.
    """

    weights: Weights
    trace: Trace
    space: SearchSpace

    def random(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A width vector in which every number that may stay is equally likely in each group."""
        return tuple(int(rng.choice(group.choices())) for group in self.space)

    def extremes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The widest and the thinnest width vector."""
        return self.space.kept(self.space.dense()), self.space.kept(self.space.thinnest())

    def stay(self, kept: Sequence[int]) -> Stay:
        """Which positions of each tensor stay."""
        return staying(self.weights.net, self.trace.cuts, keep_first(self.weights.ranked, kept))

    def outputs(self, kept: Sequence[int], inputs: Tensor) -> Tensor:
        """What the network of those widths gives for `inputs`, in training mode, with gradients to the weights."""
        stay = self.stay(kept)
        skeleton = slices(self.weights.net, stay).train()
        values = {name: laid_out(narrowed(value, stay.get(name, {}))) for name, value in self._full(kept).items()}
        found: Tensor = functional_call(skeleton, values, (inputs,))
        return found

    def network(self, kept: Sequence[int]) -> tuple[nn.Module, Stay]:
        """The network of those widths as an ordinary one, and which positions stayed; it shares no tensor."""
        stay = self.stay(kept)
        with torch.no_grad():
            return slices(self.weights.net, stay, values=self._full(kept)), stay

    def _full(self, kept: Sequence[int]) -> Mapping[str, Tensor]:
        like = next(self.weights.net.parameters())
        shares = [k / group.of for k, group in zip(kept, self.space, strict=True)]
        return self.weights.full(torch.tensor(shares, device=like.device, dtype=like.dtype))
