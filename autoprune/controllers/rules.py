"""Rules of thumb in place of a search, each of one policy: how hard each choice is pruned is fixed but for one number.

That number is searched so that the budget is just used up. `RULES` has all that need no weights; `autoprune.rankings`
has those that do, such as LAMP.

What is there or not, such as a block, has no share of its own. It stays as long as the other choices meet the budget;
where they cannot, or there are none, such choices leave one by one, spread over depth by the shares that a rule says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoprune.errors import Exhausted
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace
from autoprune.values.terms import Floats, Op
from autoprune.values.trial import Trial

Rule = Callable[[SearchSpace, Budget], Policy]

_HALVINGS = 50
_STEEPEST = 32.0  # power of what stays


def uniform(space: SearchSpace, budget: Budget) -> Policy:
    """The same sparsity everywhere; blocks stay where widths suffice, and leave evenly over depth where not."""
    return removing(space, budget, np.ones(len(space)))


def deep(space: SearchSpace, budget: Budget) -> Policy:
    """From nearly nothing at the input to everything at the output, linearly. He et al. 2018, arXiv:1802.03494."""
    return removing(space, budget, np.arange(1, len(space) + 1) / max(len(space), 1))


def shallow(space: SearchSpace, budget: Budget) -> Policy:
    """From everything at the input to nearly nothing at the output, linearly. He et al. 2018, arXiv:1802.03494."""
    return removing(space, budget, np.arange(len(space), 0, -1) / max(len(space), 1))


def erk(space: SearchSpace, budget: Budget) -> Policy:
    """Erdős-Rényi-kernel: what is kept goes with a tensor's sizes, summed, by their product: large ones keep less.

    Evci et al. 2020, https://arxiv.org/abs/1911.11134, of weights; of a choice here the mean over the tensors that
    produce it, and of one without any that are known, of all choices.
    """
    dense = [choice.dense for choice in space]
    found = [[_erdos(op, dense) for op in _producing(space, choice)] for choice in space]
    known = [float(np.mean(of)) for of in found if of] or [1.0]
    return keeping(space, budget, np.array([np.mean(of or known) for of in found]))


def smart_ratio(space: SearchSpace, budget: Budget) -> Policy:
    """What is kept falls with depth, as l + l^2 where l counts from the output. Su et al. 2020, arXiv:2009.11094."""
    left = np.arange(len(space), 0, -1.0)
    return keeping(space, budget, left + left**2)


RULES: Mapping[str, Rule] = {
    "uniform": uniform,
    "deep": deep,
    "shallow": shallow,
    "erk": erk,
    "smart-ratio": smart_ratio,
}


def removing(space: SearchSpace, budget: Budget, weights: Floats) -> Policy:
    """The mildest policy that removes shares in the proportion of `weights`, (choices,), positive."""
    cut = _cutting(space, budget)
    return _mildest(budget, lambda hardness: cut(np.minimum(hardness * weights, 1.0)), float(len(space)))


def keeping(space: SearchSpace, budget: Budget, densities: Floats) -> Policy:
    """The mildest policy that keeps shares in the proportion of `densities`, (choices,), positive; none above 1."""
    every = densities / densities.min(initial=np.inf)
    cut = _cutting(space, budget)
    return _mildest(budget, lambda hardness: cut(1 - np.minimum((1 - hardness) * every, 1.0)), 1.0)


def shaped(space: SearchSpace, budget: Budget, sparsity: Floats) -> Policy:
    """The policy of the shape `sparsity`, (choices,) in [0, 1], that meets the budget and uses it up.

    What stays of each choice is raised to one and the same power: what was dense stays dense, and nothing leaves
    altogether, as long as the budget can be met like that. Without a budget the power is 1.
    """
    keeps = 1.0 - np.asarray(sparsity, dtype=np.float64)
    if not budget.limits or not budget.admits(space.snap(1.0 - keeps**_STEEPEST)):
        return budget.fit(space.snap(1.0 - keeps))
    return _mildest(budget, lambda power: space.snap(1.0 - keeps**power), _STEEPEST)


def _cutting(space: SearchSpace, budget: Budget) -> Callable[[Floats], Policy]:
    """What makes a policy of the shares that a rule removes of each choice, (choices,)."""
    whole = np.array([choice.dense == 1 for choice in space])
    others_suffice = budget.admits(space.snap(np.where(whole, 0.0, 1.0)))

    def policy(shares: Floats) -> Policy:
        cut = shares.copy()
        cut[whole] = 0.0 if others_suffice else _one_by_one(shares[whole])
        return space.snap(cut)

    return policy


def _one_by_one(shares: Floats) -> Floats:
    """1 for each choice with which the sum of the shares so far passes a half more than a whole number, else 0."""
    passed = np.floor(np.cumsum(shares) + 0.5)
    return np.diff(passed, prepend=0.0)


def _mildest(budget: Budget, policy: Callable[[float], Policy], hard: float) -> Policy:
    """What `policy` makes of the least number that meets the budget, and what room rounding left over.

    Of 0 it makes the dense network, of `hard` one that meets the budget, or the thinnest.
    """
    mild = 0.0
    if budget.admits(policy(mild)):
        return budget.fit(policy(mild))
    for _ in range(_HALVINGS):
        middle = (mild + hard) / 2
        mild, hard = (mild, middle) if budget.admits(policy(middle)) else (middle, hard)
    return budget.fit(policy(hard))


def _producing(space: SearchSpace, choice: Choice) -> list[Op]:
    """The weights of the layers that produce `choice`, without vectors."""
    layers = choice.producers or choice.layers[:1]
    return [op for op in space.parameters if op.name.rpartition(".")[0] in layers and len(op.extents) + op.times > 2]


def _erdos(op: Op, dense: list[int]) -> float:
    """The sum of a tensor's sizes by their product; what is no choice's is a square kernel."""
    sizes = [float(extent.size(dense)) for extent in op.extents]
    return (sum(sizes) + 2 * math.sqrt(op.times)) / (math.prod(sizes) * op.times)


@dataclass
class Fixed:
    """Proposes what a rule says and is then exhausted. The seed is taken, as from every controller, and not used."""

    rule: ClassVar[staticmethod[[SearchSpace, Budget], Policy]]
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
        return self.rule(self.space, self.budget)

    def tell(self, trial: Trial) -> None:
        """Note that a policy was evaluated: nothing is left to propose."""
        self._spent = True
