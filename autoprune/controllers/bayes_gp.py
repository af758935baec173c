"""Bayesian optimisation by a Gaussian process with expected improvement, of Optuna."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.samplers import GPSampler

from autoprune.controllers.optuna import Told, seed_of
from autoprune.controllers.rules import uniform
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial


@dataclass
class BayesGP:
    """Bayesian optimisation by a Gaussian process with expected improvement. Starts from the uniform policy.

    An ask costs about a second at 30 choices and 100 trials.

    Attributes:
        startup: trials before the model is trusted; until then policies are random.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    startup: int = 10

    def __post_init__(self) -> None:
        self._asks, self._told = Asks(self.budget, self.seed), Told(self.space)

    def ask(self) -> Policy:
        """The policy with the largest expected improvement, fitted to the budget."""
        first, seed = self._asks.asked == 0, seed_of(self._asks.dice())
        if first:
            return self._asks.fresh(uniform(self.space, self.budget))
        sampler = GPSampler(n_startup_trials=self.startup, seed=seed)
        return self._asks.fresh(self.budget.fit(self._told.sampled(sampler)))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._asks.tell(trial)
        if trial.reward is not None:
            self._told.add(trial.policy, [trial.reward])
