"""Rules of thumb in place of a search: uniform, deep and shallow, the baselines of He et al. 2018 (arXiv:1802.03494).

Each fixes the shape of the policy over depth and searches one number, how hard to prune, so that the budget is just
used up. Each proposes exactly one policy and is then exhausted. The seed is taken, as from every controller, and not
used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import Exhausted
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

Weights = NDArray[np.float64]  # (groups,), in (0, 1]: how hard each group is pruned relative to the hardest
_HALVINGS = 50


def flat(groups: int) -> Weights:
    """Every group alike."""
    return np.ones(groups)


def rising(groups: int) -> Weights:
    """From nearly nothing at the input to everything at the output, linearly."""
    return np.arange(1, groups + 1) / max(groups, 1)


def falling(groups: int) -> Weights:
    """From everything at the input to nearly nothing at the output, linearly."""
    return rising(groups)[::-1]


def along(space: SearchSpace, budget: Budget, weights: Weights) -> Policy:
    """The mildest policy of the shape `weights` that meets the budget, and then whatever room rounding left over."""

    def policy(level: float) -> Policy:
        return space.snap(np.minimum(level * weights, 1.0))

    mild, hard = 0.0, float(len(space))  # at `hard`, every group is as thin as is allowed
    if budget.admits(policy(mild)):
        return budget.fit(policy(mild))
    for _ in range(_HALVINGS):
        middle = (mild + hard) / 2
        mild, hard = (mild, middle) if budget.admits(policy(middle)) else (middle, hard)
    return budget.fit(policy(hard))


@dataclass
class Uniform:
    """The same sparsity everywhere."""

    space: SearchSpace
    budget: Budget
    seed: int = 0
    _spent: bool = field(default=False, init=False, repr=False)

    def ask(self) -> Policy:
        """The one policy; raises Exhausted when it was asked or told before."""
        _refuse(self._spent)
        self._spent = True
        return along(self.space, self.budget, flat(len(self.space)))

    def tell(self, trial: Trial) -> None:
        """Note that a policy was evaluated: nothing is left to propose."""
        self._spent = True


@dataclass
class Deep:
    """Prunes the groups near the output hardest."""

    space: SearchSpace
    budget: Budget
    seed: int = 0
    _spent: bool = field(default=False, init=False, repr=False)

    def ask(self) -> Policy:
        """The one policy; raises Exhausted when it was asked or told before."""
        _refuse(self._spent)
        self._spent = True
        return along(self.space, self.budget, rising(len(self.space)))

    def tell(self, trial: Trial) -> None:
        """Note that a policy was evaluated: nothing is left to propose."""
        self._spent = True


@dataclass
class Shallow:
    """Prunes the groups near the input hardest."""

    space: SearchSpace
    budget: Budget
    seed: int = 0
    _spent: bool = field(default=False, init=False, repr=False)

    def ask(self) -> Policy:
        """The one policy; raises Exhausted when it was asked or told before."""
        _refuse(self._spent)
        self._spent = True
        return along(self.space, self.budget, falling(len(self.space)))

    def tell(self, trial: Trial) -> None:
        """Note that a policy was evaluated: nothing is left to propose."""
        self._spent = True


def _refuse(spent: bool) -> None:
    if spent:
        raise Exhausted("this controller has one policy to propose and has proposed it; trials = 1 is right for it")
