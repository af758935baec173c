"""Policies without any evaluation: all units of a network in one order, and those that matter least leave.

A criterion's scores differ in size from layer to layer, so that one order for all of them needs scores that are made
alike within each choice first. There are several ways, and none is best for every network: what is made of them is a
start for a search. Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.values.budget import Budget
from autoprune.values.space import Policy
from autoprune.values.terms import Floats

Alike = Callable[[Floats], Floats]  # the scores of one choice, none of them negative, (units,) -> (units,)
_TINY = 1e-12


def by_max(scores: Floats) -> Floats:
    """Against the largest of the choice."""
    return scores / (float(scores.max()) + _TINY)


def by_mean(scores: Floats) -> Floats:
    """Against the mean of the choice."""
    return scores / (float(scores.mean()) + _TINY)


def by_norm(scores: Floats) -> Floats:
    """Against their Euclidean norm. Molchanov et al. 2017."""
    return scores / (float(np.linalg.norm(scores)) + _TINY)


def by_lamp(scores: Floats) -> Floats:
    """Each squared, against all of the choice that are not smaller, squared, together: of the largest 1.

    Lee et al. 2021, https://arxiv.org/abs/2010.07611, of weights, and so of the criterion `l2` of units.
    """
    order = np.argsort(scores, kind="stable")
    squared = np.square(scores[order])
    found = np.empty_like(scores)
    found[order] = squared / (np.cumsum(squared[::-1])[::-1] + _TINY)
    return found


def ranked(budget: Budget, scores: Sequence[Floats], alike: Alike) -> Policy:
    """What is left when the units that matter least have left, until the budget holds, and what fits in then.

    `scores` are those of a criterion, one a unit for every choice; the larger stay longer.
    """
    space = budget.space
    orders = [np.sort(alike(of)) for of in scores]
    thresholds = np.unique(np.concatenate([np.zeros(1), *orders]))

    def policy(at: int) -> Policy:
        """What is left of those at or above the threshold."""
        return space.snap([np.searchsorted(of, thresholds[at]) / len(of) for of in orders])

    fits, exceeds = len(thresholds) - 1, -1
    while fits - exceeds > 1:
        middle = (fits + exceeds) // 2
        fits, exceeds = (middle, exceeds) if budget.admits(policy(middle)) else (fits, middle)
    return budget.fit(policy(fits))


def spread(first: Policy, others: Sequence[Policy], count: int, budget: Budget) -> list[Policy]:
    """`first`, and up to `count` of `others`: the one furthest from those chosen, again and again; none twice."""
    cube, found = budget.space.cube, [first]
    left = [policy for policy in dict.fromkeys(others) if policy != first]
    while left and len(found) <= count:
        near = [min(float(np.abs(cube.point(p) - cube.point(q)).sum()) for q in found) for p in left]
        found.append(left.pop(int(np.argmax(near))))
    return found
