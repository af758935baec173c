"""What controllers on Optuna share: the trials that were told, in Optuna's words, and a proposal after them.

All are told the policies that were executed, after fitting to the budget, so any policy of the space can be told.
Replay is exact because nothing remembers an ask: Optuna gets a new study and a new sampler for each.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

UP, DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


@dataclass
class Told:
    """The trials of a search over the space's cube.

    Attributes:
        directions: of the values of each.
    """

    space: SearchSpace
    directions: Sequence[StudyDirection] = (UP,)
    trials: list[optuna.trial.FrozenTrial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._axes: dict[str, optuna.distributions.BaseDistribution] = {
            str(axis[0]): optuna.distributions.FloatDistribution(0.0, 1.0) for axis in self.space.cube.axes
        }

    def add(self, policy: Policy, values: Sequence[float], attributes: Mapping[str, int] | None = None) -> None:
        """Note what came of `policy`."""
        params = dict(zip(self._axes, self.space.cube.point(policy).tolist(), strict=True))
        self.trials.append(
            optuna.create_trial(
                params=params, distributions=self._axes, values=values, system_attrs=dict(attributes or {})
            )
        )

    def sampled(self, sampler: BaseSampler) -> Policy:
        """What `sampler` proposes after these trials."""
        with _quiet():
            study = optuna.create_study(sampler=sampler, directions=self.directions)
            study.add_trials(self.trials)
            drawn = study.ask(self._axes).params
        return self.space.cube.policy([drawn[name] for name in self._axes])


class ModelBased:
    """What controllers share that model the reward: uniform first, then what a sampler makes of all trials."""

    def __init__(self, space: SearchSpace, budget: Budget, seed: int) -> None:
        self._budget, self._asks, self._told = budget, Asks(budget, seed), Told(space)

    def ask(self, sampler: Callable[[int], BaseSampler]) -> Policy:
        """What the sampler that `sampler` makes of a seed proposes, fitted to the budget."""
        first, seed = self._asks.asked == 0, seed_of(self._asks.dice())
        if first:
            return self._asks.fresh(uniform(self._budget.space, self._budget))
        return self._asks.fresh(self._budget.fit(self._told.sampled(sampler(seed))))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._asks.tell(trial)
        if trial.reward is not None:
            self._told.add(trial.policy, [trial.reward])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces studies and experiments on stderr; not while this lasts."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def seed_of(rng: np.random.Generator) -> int:
    """A seed for what has generators of its own."""
    return int(rng.integers(2**31))
