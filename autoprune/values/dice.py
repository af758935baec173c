"""Randomness that a resumed search throws again: the n-th ask draws from stream (seed, n)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Dice:
    """Counts asks and tells; hands out one generator an ask."""

    seed: int
    asked: int = 0
    told: int = 0

    def ask(self) -> np.random.Generator:
        """The generator of the next ask."""
        rng = np.random.default_rng((self.seed, self.asked))
        self.asked += 1
        return rng

    def again(self) -> np.random.Generator:
        """Another generator of the last ask; of the first, where there was none yet."""
        return np.random.default_rng((self.seed, max(self.asked - 1, 0), 1))

    def tell(self) -> None:
        """Note one told trial. What was told was asked, in this life or an earlier one."""
        self.told += 1
        self.asked = max(self.asked, self.told)
