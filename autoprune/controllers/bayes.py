"""Bayesian optimisation by a multivariate tree-structured Parzen estimator (Bergstra 2011, Falkner 2018), of Optuna."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.samplers import TPESampler

from autoprune.controllers.optuna import ModelBased
from autoprune.values.budget import Budget
from autoprune.values.ranges import Few, Trials, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

_MOST = 500  # trials in the estimator: about 30 ms an ask with 28 choices


@dataclass
class Bayes:
    """Bayesian optimisation by a tree-structured Parzen estimator, multivariate. Starts from the uniform policy.

    Attributes:
        startup: trials before the model is trusted; until then policies are random.
        candidates: policies that the model compares for each ask.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    startup: Trials = 10
    candidates: Few = 24

    def __post_init__(self) -> None:
        require(self)
        self._model = ModelBased(self.space, self.budget, self.seed, most=_MOST)

    def ask(self) -> Policy:
        """The policy with the largest expected improvement, fitted to the budget."""

        def sampler(seed: int) -> TPESampler:  # with a constant liar, for which what is pending is bad
            return TPESampler(
                n_startup_trials=self.startup,
                n_ei_candidates=self.candidates,
                multivariate=True,
                constant_liar=True,
                seed=seed,
            )

        return self._model.ask(sampler)

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._model.tell(trial)
