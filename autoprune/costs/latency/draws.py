"""The policies that are timed: random ones of all sizes."""

from __future__ import annotations

import numpy as np

from autoprune.values.space import SearchSpace
from autoprune.values.terms import Floats, Products, Rows

LEAST = 0.2  # of the MACs, the thinnest that is timed, where the space allows it


def drawn(space: SearchSpace, count: int, rng: np.random.Generator, share: float = 0.0) -> list[tuple[int, ...]]:
    """The levels of random policies that are spread evenly between 20 % and 100 % of the MACs, or at `share` of them.

    Choices differ from one another, in some policies little and in others as much as can be.
    """
    macs, cube = Products(space.ops, len(space)), space.cube
    dense = np.array([choice.dense for choice in cube.leaders], dtype=np.float64)
    ends = macs(np.array([space.thinnest().levels, space.dense().levels]))
    low = max(LEAST, ends[0] / ends[1])
    wanted, bends = np.zeros(count), np.zeros((count, len(dense)))
    for at in range(count):
        wanted[at] = (share or low + (1 - low) * (at + rng.random()) / count) * ends[1]
        bends[at] = rng.uniform(0.0, 1.5) * (rng.random(len(dense)) - 0.5)

    def rows(strength: Floats) -> Rows:
        return cube.rows(cube.below(dense * (strength[:, None] + bends)))

    thick, thin = np.full(count, 2.0), np.full(count, -1.0)
    for _ in range(40):
        middle = (thick + thin) / 2
        over = macs(rows(middle)) > wanted
        thick, thin = np.where(over, middle, thick), np.where(over, thin, middle)
    found = rows(thin).tolist()
    return [tuple(found[i]) for i in rng.permutation(count)]
