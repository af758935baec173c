"""Rules of thumb in place of a search: the baselines of He et al. 2018 (arXiv:1802.03494).

A rule fixes the shape of the policy over depth and searches one number, how hard to prune, so that the budget is just
used up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoprune.errors import Exhausted
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.terms import Floats
from autoprune.values.trial import Trial

_HALVINGS = 50
_STEEPEST = 32.0  # power of what stays


def flat(choices: int) -> Floats:
    """Every choice alike; (choices,), in (0, 1]: how hard each is pruned relative to the hardest."""
    return np.ones(choices)


def rising(choices: int) -> Floats:
    """From nearly nothing at the input to everything at the output, linearly."""
    return np.arange(1, choices + 1) / max(choices, 1)


def falling(choices: int) -> Floats:
    """From everything at the input to nearly nothing at the output, linearly."""
    return rising(choices)[::-1]


def along(space: SearchSpace, budget: Budget, weights: Floats) -> Policy:
    """The mildest policy of the shape `weights` that meets the budget, and then whatever room rounding left over."""

    def policy(hardness: float) -> Policy:
        return space.snap(np.minimum(hardness * weights, 1.0))

    return _mildest(budget, policy, float(len(space)))  # with that, every choice is as thin as is allowed


def shaped(space: SearchSpace, budget: Budget, sparsity: Floats) -> Policy:
    """The policy of the shape `sparsity`, (choices,) in [0, 1], that meets the budget and uses it up.

    What stays of each choice is raised to one and the same power: what was dense stays dense, and nothing leaves
    altogether, as long as the budget can be met like that. Without a budget the power is 1.
    """
    keeps = 1.0 - np.asarray(sparsity, dtype=np.float64)

    def policy(power: float) -> Policy:
        return space.snap(1.0 - keeps**power)

    if not budget.limits or not budget.admits(policy(_STEEPEST)):
        return budget.fit(policy(1.0))
    return _mildest(budget, policy, _STEEPEST)


def _mildest(budget: Budget, policy: Callable[[float], Policy], hard: float) -> Policy:
    """The policy of the least hardness that meets the budget, between 0, dense, and `hard`; and what room is left."""
    mild = 0.0
    if budget.admits(policy(mild)):
        return budget.fit(policy(mild))
    for _ in range(_HALVINGS):
        middle = (mild + hard) / 2
        mild, hard = (mild, middle) if budget.admits(policy(middle)) else (middle, hard)
    return budget.fit(policy(hard))


def uniform(space: SearchSpace, budget: Budget) -> Policy:
    """The same sparsity everywhere."""
    return along(space, budget, flat(len(space)))


@dataclass
class Rule:
    """Proposes exactly one policy and is then exhausted. The seed is taken, as from every controller, and not used."""

    shape: ClassVar[staticmethod[[int], Floats]]
    unadvised: ClassVar[bool] = True

    space: SearchSpace
    budget: Budget
    seed: int = 0

    def __post_init__(self) -> None:
        self._spent = False

    def ask(self) -> Policy:
        """The one policy; raises Exhausted when it was asked or told before."""
        if self._spent:
            raise Exhausted("this controller has one policy to propose and has proposed it; trials = 1 is right for it")
        self._spent = True
        return along(self.space, self.budget, self.shape(len(self.space)))

    def tell(self, trial: Trial) -> None:
        """Note that a policy was evaluated: nothing is left to propose."""
        self._spent = True
