"""A network that does not exist, with its quality in closed form: fast, exact, the same everywhere.

A chain of 3x3 convolutions in three stages (width doubles, resolution halves) and a classifier. Each layer has its own
sensitivity, hidden in the last fact of its role, and two thin layers in a row hurt more than the same two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autoprune.costs.arithmetic import Macs, Params
from autoprune.values.budget import Budget, Limit
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.terms import Extent, Op
from autoprune.values.trial import Outcome, Trial


def toy_space(depth: int = 8, step: int = 2, width: int = 16, seed: int = 0) -> SearchSpace:
    """A chain of `depth` choices of `width` to 4 x `width` channels, of which a tenth has to stay."""
    rng = np.random.default_rng(seed)
    stages = [min(3 * i // depth, 2) for i in range(depth)]
    widths = [width * 2**stage for stage in stages]
    positions = [(32 // 2**stage) ** 2 for stage in stages]
    choices = tuple(
        Choice(
            f"conv{i}",
            levels_of(of, max(1, of // 10), step),
            layers=(f"conv{i}",),
            role=(i / depth, float(rng.random())),
        )
        for i, of in enumerate(widths)
    )
    outs = [Extent(0, ((i, 1),)) for i in range(depth)]
    shapes = [(before, out, Extent(9)) for before, out in zip([Extent(3), *outs[:-1]], outs, strict=True)]
    classifier = (outs[-1], Extent(10))
    ops = [Op(g.name, at, shape) for g, at, shape in zip(choices, positions, shapes, strict=True)]
    weights = [Op(f"{g.name}.weight", 1, shape) for g, shape in zip(choices, shapes, strict=True)]
    return SearchSpace(
        "toy", choices, (*ops, Op("fc", 1, classifier)), (*weights, Op("fc.weight", 1, classifier))
    )  # fmt: skip


def half(space: SearchSpace, share: float = 0.5) -> Budget:
    """A budget of `share` of the dense network's MACs."""
    cost = Macs(space)
    return Budget(space, (Limit("macs", cost, share * cost.predict(space.dense()), f"{share:.0%}"),))


def metric(space: SearchSpace, policy: Policy, rough: float = 0.0) -> float:
    """The quality of `policy`, in [0.1, 0.95] when smooth.

    `rough` adds what a small holdout adds: a normal deviate of that size, always the same one for the same policy.
    """
    removed = np.array(space.sparsity(policy))
    sensitivity = np.array([choice.role[-1] for choice in space])
    alone = (0.02 + 0.3 * sensitivity**2) * removed**2 / (1.05 - removed)
    together = 0.1 * removed[1:] * removed[:-1]
    loss = (float(alone.sum()) + float(together.sum())) * 8 / len(space)
    noise = rough * float(np.random.default_rng(policy.levels).standard_normal()) if rough else 0.0
    return 0.1 + 0.85 * math.exp(-loss) + noise


def judge(space: SearchSpace, number: int, policy: Policy, rough: float = 0.0) -> Trial:
    """The trial that evaluating `policy` on the surrogate makes; the reward is the metric."""
    return priced(space, number, policy, metric(space, policy, rough))


class Landscape(Protocol):
    """What controllers can be compared on without a network."""

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        ...

    @property
    def budget(self) -> Budget:
        """What every policy meets."""
        ...

    def judge(self, number: int, policy: Policy) -> Trial:
        """The trial that evaluating `policy` makes."""
        ...


@dataclass(frozen=True)
class Surrogate:
    """The closed form as a landscape, under half of the MACs."""

    space: SearchSpace

    @property
    def budget(self) -> Budget:
        """What every policy meets."""
        return half(self.space)

    def judge(self, number: int, policy: Policy) -> Trial:
        """As `judge`."""
        return judge(self.space, number, policy)


def priced(space: SearchSpace, number: int, policy: Policy, quality: float) -> Trial:
    """A trial of that quality, which is its reward, with MACs and parameters."""
    costs = {"macs": Macs(space).predict(policy), "params": Params(space).predict(policy)}
    return Trial(number, policy, Outcome(quality, (quality,), costs))
