"""What controllers on Optuna share: what was told, in Optuna's words, and a proposal after it.

All are told the policies that were executed, after fitting to the budget, so any policy of the space can be told.
Replay is exact because nothing remembers an ask: Optuna gets a new sampler for each, and its trial is ended as failed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

UP, DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
BEST = 25  # as many as Optuna's Parzen estimator ever takes for good ones (a tenth of all, at most 25)


class Words:
    """A space's cube in Optuna's words."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._axes: dict[str, optuna.distributions.BaseDistribution] = {
            str(axis[0]): optuna.distributions.FloatDistribution(0.0, 1.0) for axis in space.cube.axes
        }

    def trial(
        self, policy: Policy, values: Sequence[float], attributes: Mapping[str, int] | None = None
    ) -> FrozenTrial:
        """What came of `policy`."""
        params = dict(zip(self._axes, self._space.cube.point(policy).tolist(), strict=True))
        return optuna.create_trial(
            params=params, distributions=self._axes, values=values, system_attrs=dict(attributes or {})
        )

    def _running(self, policy: Policy) -> FrozenTrial:
        """That `policy` is being evaluated."""
        params = dict(zip(self._axes, self._space.cube.point(policy).tolist(), strict=True))
        return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=self._axes)

    def proposed(self, study: Study, sampler: BaseSampler, pending: Sequence[Policy] = ()) -> Policy:
        """What `sampler` proposes after the trials of `study`, which does not remember it, while others are pending."""
        with quiet():
            begun = len(study.get_trials(deepcopy=False)) if pending else 0
            study.add_trials([self._running(policy) for policy in pending])
            study.sampler = sampler
            trial = study.ask(self._axes)
            for number in (*range(begun, begun + len(pending)), trial.number):
                study.tell(number, state=TrialState.FAIL)
        return self._space.cube.policy([trial.params[name] for name in self._axes])


class ModelBased:
    """What controllers share that model the reward: uniform first, then what a sampler makes of what was told.

    The model sees no more than `most` trials, so that an ask costs the same however long a search goes on: whenever
    there are as many, all but four fifths are forgotten. Kept are the `BEST` ones, which say where to look, and of the
    others the latest, which lie where it looks now; older ones weigh little in Optuna's Parzen estimator, whose weights
    fall with age (Bergstra 2013, https://proceedings.mlr.press/v28/bergstra13.html, "linear forgetting").
    """

    def __init__(self, space: SearchSpace, budget: Budget, seed: int, most: int) -> None:
        self._budget, self._asks, self._words, self._most = budget, Asks(budget, seed), Words(space), most
        self._told, self._study = list[tuple[Policy, float]](), study_of(())
        self._pending = list[Policy]()  # asked for and not told: samplers keep away from these
        self._studied = 0  # as many of the first ones told are in the study: a resumed run tells many before it asks

    def ask(self, sampler: Callable[[int], BaseSampler]) -> Policy:
        """What the sampler that `sampler` makes of a seed proposes, fitted to the budget."""
        first, seed = self._asks.asked == 0, seed_of(self._asks.dice())
        policy = self._uniform() if first else self._proposed(sampler(seed))
        self._pending.append(policy)
        return policy

    def _uniform(self) -> Policy:
        return self._asks.fresh(uniform(self._budget.space, self._budget))

    def _proposed(self, sampler: BaseSampler) -> Policy:
        self._study.add_trials([self._words.trial(policy, [reward]) for policy, reward in self._told[self._studied :]])
        self._studied = len(self._told)
        return self._asks.fresh(self._budget.fit(self._words.proposed(self._study, sampler, self._pending)))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._asks.tell(trial)
        if trial.policy in self._pending:
            self._pending.remove(trial.policy)
        if trial.reward is None:
            return
        self._told.append((trial.policy, trial.reward))
        if len(self._told) == self._most:
            self._told = [self._told[at] for at in kept([reward for _, reward in self._told], self._most * 4 // 5)]
            self._study, self._studied = study_of(()), 0


def kept(rewards: Sequence[float], most: int) -> list[int]:
    """Which of the trials with these `rewards` are not forgotten: the best, and the latest others, in their order."""
    best = sorted(range(len(rewards)), key=lambda at: (-rewards[at], at))[:BEST]
    others = sorted(set(range(len(rewards))) - set(best))
    return sorted([*best, *others[len(best) - most :]])


def study_of(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection] = (UP,)) -> Study:
    """A study of these trials, of values in these directions."""
    with quiet():
        study = optuna.create_study(directions=directions)
        study.add_trials(trials)
    return study


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
