"""One network of the zoo, and what is asked of it."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.inputs import Inputs
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import Policy, SearchSpace


@dataclass(frozen=True)
class Network:
    """How to make a network of the zoo, and what it takes.

    Attributes:
        name: "family/architecture".
        make: makes it, with random weights.
        example: two samples.
        other: samples in another number and, where the network takes them, of another size or length.
        light: whether it belongs to the default tests; the others take longer.
        needs: the library that it comes from.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Inputs]
    other: Callable[[], Inputs]
    light: bool = False
    needs: str = "torch"

    @property
    def family(self) -> str:
        """Where it comes from."""
        return self.name.partition("/")[0]

    @property
    def is_here(self) -> bool:
        """Whether the library that it comes from is installed."""
        return importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class Case:
    """A network of the zoo, made and traced."""

    network: Network

    @cached_property
    def model(self) -> nn.Module:
        """The dense network."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.network.make().eval()

    @cached_property
    def example(self) -> Inputs:
        """Two samples."""
        return self.network.example()

    @cached_property
    def trace(self) -> Trace:
        """What of it can be pruned."""
        return trace(self.model, self.example)

    @cached_property
    def space(self) -> SearchSpace:
        """Its choices and costs."""
        found = self.trace
        return SearchSpace(self.network.name, found.choices, found.ops, found.parameters)

    def policy(self, seed: int) -> Policy:
        """A random policy; of seed 0 the thinnest."""
        rng = np.random.default_rng(seed)
        return self.space.thinnest() if seed == 0 else Policy.of(rng.choice(c.levels) for c in self.space)

    def units(self, policy: Policy, seed: int) -> list[np.ndarray]:
        """Random units, as many as `policy` leaves."""
        rng = np.random.default_rng((seed, 1))
        return [np.sort(rng.permutation(c.dense)[:n]) for c, n in zip(self.space, policy.levels, strict=True)]


def images(side: int, count: int = 2, channels: int = 3) -> Callable[[], Tensor]:
    """`count` images of noise, (count, channels, side, side)."""
    return noise(count, channels, side, side)


def noise(*shape: int) -> Callable[[], Tensor]:
    """Normal noise of that shape."""
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tokens(length: int, count: int = 2, words: int = 96) -> Tensor:
    """Whole numbers below `words`, (count, length)."""
    return torch.randint(2, words, (count, length), generator=torch.Generator().manual_seed(0))
