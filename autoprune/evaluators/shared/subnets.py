"""Networks of any widths, cut from weights of full width that they all share.

A width vector is a policy's levels: how many units of each choice stay. Of every tensor the units stay that the ranking
puts first, so that a narrower network is part of every wider one. The ranking belongs to the weights: they were trained
for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.engine.memory import laid_out
from autoprune.inputs import Inputs, call
from autoprune.structure.prune import Candidate, Stay, Units, keep_first, made, narrowed, skips, slices, staying
from autoprune.structure.trace import Trace
from autoprune.values.space import Policy, SearchSpace


class Weights(nn.Module):
    """What is shared: parameters that make the weights of every width vector, and the ranking of units.

    Attributes:
        net: a network of full width; its buffers are shared, and as many of its parameters as `full` hands on.
    """

    def __init__(self, net: nn.Module, ranked: Sequence[Units]) -> None:
        """`ranked` are the units of each choice, those that stay longest first."""
        super().__init__()
        self.net = net
        self._groups = len(ranked)
        for group, units in enumerate(ranked):
            self.register_buffer(f"ranked_{group}", torch.from_numpy(np.array(units, dtype=np.int64)))

    @property
    def ranked(self) -> list[Units]:
        """The units of each choice, those that stay longest first."""
        return [self.get_buffer(f"ranked_{group}").cpu().numpy() for group in range(self._groups)]

    def full(self, shares: Tensor) -> Mapping[str, Tensor]:
        """Every parameter of `net` at full width, by name, where `shares` of the units stay, (choices,) in (0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Subnets:
    """Every network that can be cut.

    Attributes:
        weights: what they share.
        trace: the edits of the choices.
        space: the choices, and which numbers of their units may stay.
    """

    weights: Weights
    trace: Trace
    space: SearchSpace

    def random(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A width vector in which every number that may stay is equally likely in each choice."""
        return self.space.canonical(Policy.of(rng.choice(choice.levels) for choice in self.space)).levels

    def outputs(self, widths: Sequence[int], inputs: Inputs) -> Any:
        """What the network of those widths gives for `inputs`, in training mode, with gradients to the weights."""
        stay, without = self.stay(widths), skips(self.trace.edits, keep_first(self.weights.ranked, widths))
        skeleton = slices(self.weights.net, stay, self.trace.resizes, without=without).train()
        own = dict(skeleton.named_parameters())
        full = {name: value for name, value in self._full(widths).items() if name in own}
        values = {name: laid_out(narrowed(value, stay.get(name, {}))) for name, value in full.items()}
        return call(lambda *args, **named: functional_call(skeleton, values, args, named), inputs)

    def stay(self, widths: Sequence[int]) -> Stay:
        """Which positions of each tensor stay in the network of those widths."""
        return staying(self.weights.net, self.trace.edits, keep_first(self.weights.ranked, widths))

    def network(self, policy: Policy) -> Candidate:
        """The network of those widths as an ordinary one; it shares no tensor."""
        with torch.no_grad():
            values = self._full(policy.levels)
            return made(self.weights.net, self.trace, policy, self.weights.ranked, values)

    def _full(self, widths: Sequence[int]) -> Mapping[str, Tensor]:
        like = next(self.weights.net.parameters())
        shares = [width / choice.dense for width, choice in zip(widths, self.space, strict=True)]
        return self.weights.full(torch.tensor(shares, device=like.device, dtype=like.dtype))
