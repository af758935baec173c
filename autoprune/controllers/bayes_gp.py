"""Bayesian optimisation by a Gaussian process with expected improvement, of Optuna."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.samplers import GPSampler

from autoprune.controllers.optuna import ModelBased
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
        self._model = ModelBased(self.space, self.budget, self.seed)

    def ask(self) -> Policy:
        """The policy with the largest expected improvement, fitted to the budget."""
        return self._model.ask(lambda seed: GPSampler(n_startup_trials=self.startup, seed=seed))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._model.tell(trial)
