"""How many images a trial looks at, and which networks tell what is peculiar about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from autoprune.errors import ConfigError
from autoprune.evaluators.bench import Bench
from autoprune.inputs import Inputs, first, nbytes
from autoprune.values.ranges import Range, Samples, ShareAbove, SomeSamples, require
from autoprune.values.space import Policy, SearchSpace

_AT_ONCE = 2**26  # bytes of images whose activations may be in memory together


@dataclass(kw_only=True)
class Sampling:
    """How many images are looked at.

    Attributes:
        images: training images that a trial's statistics are estimated on; 0 leaves them.
        batch: images a step of that, and of a score that looks at a panel.
        reference: training images on which the statistics of the dense network and of the probes are measured, once, to
            correct for what is peculiar about a trial's few; no more than `images` corrects nothing.
        holdout: holdout images, drawn by the seed, that score a trial; 0 takes them all.
        panel: a trial looks at those of them that tell pruned networks apart, in whole batches: at as many, but not
            fewer than 500, as make up this share, in (0, 1], of the variance among probes. The metric on all is
            estimated from them. 1 counts all, as do metrics other than top-1, and where less than a batch is saved.
        probes: random policies that are looked at closely before the first trial: on `reference` training images, and,
            to know which those are, on all holdout images. 0: the dense network alone corrects, and `panel` must be 1.
            In a search of fewer than 120 trials they would not pay: there are none, and all holdout images count.
    """

    images: Samples = 100
    batch: SomeSamples = 100
    reference: Samples = 1024
    holdout: Samples = 0
    panel: ShareAbove = 0.95
    probes: Annotated[int, Range(0, 10_000)] = 16

    def __post_init__(self) -> None:
        require(self)
        if self.images and self.images < self.batch:
            raise ConfigError(f"images={self.images}, batch={self.batch}: at least a batch of images is needed, or 0")
        if self.panel < 1 and not self.probes:
            raise ConfigError(f"panel={self.panel}, probes=0: at least 1 probe is needed, or panel = 1")

    def probing(self, bench: Bench) -> Sequence[Policy]:
        """The random policies that are looked at closely before the first trial; none where they would not pay."""
        return probes(bench.space, self.probes, bench.seed) if bench.shortcuts else []


def counting(images: int, holdout: int) -> Sampling:
    """Statistics of some images, and a score that counts all others: what needs no probes."""
    return Sampling(
        images=images, batch=max(2, min(128, images)) if images else 100, holdout=holdout, panel=1, probes=0
    )


def probes(space: SearchSpace, count: int, seed: int) -> list[Policy]:
    """Random policies, from rather wide to very thin ones: what searches propose lies between."""
    rng = np.random.default_rng(seed)
    wanted = (np.minimum(s * rng.random(len(space.cube)), 1) for s in np.linspace(0.5, 1.5, count))
    return [space.cube.policy(point) for point in wanted]


def together(example: Inputs) -> int:
    """How many images like the first of `example` may be in memory together."""
    return _AT_ONCE // max(1, nbytes(first(example, 1)))
