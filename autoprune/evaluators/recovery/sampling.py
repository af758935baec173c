"""How many images a trial looks at, and which networks tell what is peculiar about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.errors import ConfigError
from autoprune.evaluators.bench import Bench
from autoprune.inputs import Inputs, first, nbytes
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

    images: int = 100
    batch: int = 100
    reference: int = 1024
    holdout: int = 0
    panel: float = 0.95
    probes: int = 16

    def __post_init__(self) -> None:
        if self.images and not self.images >= self.batch >= 2:
            raise ConfigError(f"images={self.images}, batch={self.batch}: images >= batch >= 2 is needed")
        for name in ("holdout", "reference"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: a number of images is needed, or 0")
        if not (0 < self.panel <= 1 and self.probes >= (1 if self.panel < 1 else 0)):
            given = f"panel={self.panel}, probes={self.probes}"
            raise ConfigError(f"{given}: a share in (0, 1] and at least 1 are needed, or panel = 1 and probes = 0")

    def probing(self, bench: Bench) -> Sequence[Policy]:
        """The random policies that are looked at closely before the first trial; none where they would not pay."""
        return probes(bench.space, self.probes, bench.seed) if bench.shortcuts else []


def counting(images: int, holdout: int) -> Sampling:
    """Statistics of some images, and a score that counts all others: what needs no probes."""
    return Sampling(images=images, batch=min(128, images) or 100, holdout=holdout, panel=1, probes=0)


def probes(space: SearchSpace, count: int, seed: int) -> list[Policy]:
    """Random policies, from rather wide to very thin ones: what searches propose lies between."""
    rng = np.random.default_rng(seed)
    wanted = (np.minimum(s * rng.random(len(space.cube)), 1) for s in np.linspace(0.5, 1.5, count))
    return [space.cube.policy(point) for point in wanted]


def together(example: Inputs) -> int:
    """How many images like the first of `example` may be in memory together."""
    return _AT_ONCE // max(1, nbytes(first(example, 1)))
