"""Model-based and model-free optimisers of other people: TPE, Gaussian process, CMA-ES, NSGA-II and quasi-Monte Carlo.

Optuna (TPE, GP, NSGA-II), cmaes (the library behind Optuna's CMA-ES) and scipy (Sobol points) do the work. All of them
are told the policies that were executed, after fitting to the budget, so any policy of the space can be told.

Replay is exact because nothing here remembers an ask: Optuna gets a new study and a new sampler for each, CMA-ES is
seeded anew for each and moves on told trials only, a Sobol point has a number. Groups without a choice are left out.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import optuna
from cmaes import CMA
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from scipy.stats import qmc

from autoprune.controllers.uniform import along, flat
from autoprune.errors import ConfigError
from autoprune.values.budget import Budget
from autoprune.values.dice import Dice
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

_UP, _DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
_SCATTER = 0.15  # of the first generation's sparsities, as a share of the largest
_GENERATION = "NSGAIISampler:generation"  # where Optuna notes to which generation a trial belongs


@dataclass
class Bayes:
    """Bayesian optimisation by a tree-structured Parzen estimator, multivariate (Bergstra 2011, Falkner 2018).

    Starts from the uniform policy.

    Attributes:
        startup: trials before the model is trusted; until then policies are random.
        candidates: policies that the model compares for each ask.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    startup: int = 10
    candidates: int = 24
    _dice: Dice = field(init=False, repr=False)
    _told: list[optuna.trial.FrozenTrial] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)

    def ask(self) -> Policy:
        """The policy with the largest expected improvement, fitted to the budget."""
        first, seed = self._dice.asked == 0, _seed(self._dice)
        if first:
            return along(self.space, self.budget, flat(len(self.space)))
        sampler = TPESampler(
            n_startup_trials=self.startup, n_ei_candidates=self.candidates, multivariate=True, seed=seed
        )
        return self.budget.fit(_sampled(self._free, sampler, self._told, (_UP,)))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._dice.tell()
        if trial.reward is not None:
            self._told.append(self._free.executed(trial.policy, [trial.reward]))

    @cached_property
    def _free(self) -> _Free:
        return _Free(self.space)


@dataclass
class BayesGP:
    """Bayesian optimisation by a Gaussian process with expected improvement. Starts from the uniform policy.

    An ask costs about a second at 30 groups and 100 trials.

    Attributes:
        startup: trials before the model is trusted; until then policies are random.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    startup: int = 10
    _dice: Dice = field(init=False, repr=False)
    _told: list[optuna.trial.FrozenTrial] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)

    def ask(self) -> Policy:
        """The policy with the largest expected improvement, fitted to the budget."""
        first, seed = self._dice.asked == 0, _seed(self._dice)
        if first:
            return along(self.space, self.budget, flat(len(self.space)))
        sampler = GPSampler(n_startup_trials=self.startup, seed=seed)
        return self.budget.fit(_sampled(self._free, sampler, self._told, (_UP,)))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; a failed trial is only counted."""
        self._dice.tell()
        if trial.reward is not None:
            self._told.append(self._free.executed(trial.policy, [trial.reward]))

    @cached_property
    def _free(self) -> _Free:
        return _Free(self.space)


@dataclass
class Nsga2:
    """NSGA-II (Deb 2002) with two objectives: the reward up, one cost down.

    The cost is that of the first ceiling of the budget, MACs without one. Worth its name where the budget leaves room,
    i.e. with a reward that knows costs or without a budget; else every policy costs the same.

    The first generation is scattered about policies of one sparsity everywhere, from dense to the thinnest: drawing
    each group alone would give policies of about the same cost, and a front that spans little.

    Attributes:
        population: trials in a generation.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: int = 20
    _dice: Dice = field(init=False, repr=False)
    _told: list[optuna.trial.FrozenTrial] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)
        if self.population < 2:
            raise ConfigError(f"nsga2 has a population of {self.population}; at least 2 is right")

    def ask(self) -> Policy:
        """A child of the last generation's survivors, fitted to the budget."""
        number = self._dice.asked
        if number < self.population:
            level = _evenly(number)
            scattered = self._dice.ask().normal(level, _SCATTER, len(self._free.groups))
            return self.budget.fit(self._free.policy(np.clip(scattered, 0.0, 1.0)))
        sampler = NSGAIISampler(population_size=self.population, seed=_seed(self._dice))
        return self.budget.fit(_sampled(self._free, sampler, self._told, (_UP, _DOWN)))

    def tell(self, trial: Trial) -> None:
        """Note reward and cost of the executed policy; a failed trial is only counted."""
        self._dice.tell()
        if trial.reward is None:
            return
        generation = len(self._told) // self.population
        values = [trial.reward, self._cost(trial)]
        self._told.append(self._free.executed(trial.policy, values, {_GENERATION: generation}))

    def _cost(self, trial: Trial) -> float:
        name = self.budget.limits[0].name if self.budget.limits else "macs"
        if name not in trial.costs:
            raise ConfigError(f"nsga2 minimises the cost {name!r}, but trial {trial.number} has {sorted(trial.costs)}")
        return trial.costs[name]

    @cached_property
    def _free(self) -> _Free:
        return _Free(self.space)


@dataclass
class CmaEs:
    """CMA-ES (Hansen 2016, arXiv:1604.00772) around the uniform policy.

    Attributes:
        population: trials between two moves of the distribution.
        sigma: first standard deviation, as a share of each group's largest sparsity, in (0, 1].
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    population: int = 10
    sigma: float = 0.2
    _dice: Dice = field(init=False, repr=False)
    _waiting: list[tuple[NDArray[np.float64], float]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)
        if self.population < 4:
            raise ConfigError(f"cmaes has a population of {self.population}; at least 4 is right")
        if not 0 < self.sigma <= 1:
            raise ConfigError(f"cmaes has a sigma of {self.sigma}; a number in (0, 1] is right")

    def ask(self) -> Policy:
        """A draw from the distribution, fitted to the budget."""
        seed = _seed(self._dice)
        if not self._free.groups:
            return self.space.dense()
        self._cma.reseed_rng(seed)
        return self.budget.fit(self._free.policy(self._cma.ask()))

    def tell(self, trial: Trial) -> None:
        """Note the reward of the executed policy; with `population` of them the distribution moves."""
        self._dice.tell()
        if trial.reward is None or not self._free.groups:
            return
        self._waiting.append((self._free.point(trial.policy), -trial.reward))
        if len(self._waiting) == self.population:
            self._cma.tell(self._waiting)
            self._waiting = []

    @cached_property
    def _cma(self) -> CMA:
        mean = self._free.point(along(self.space, self.budget, flat(len(self.space))))
        bounds = np.array([[0.0, 1.0]] * len(mean))
        return CMA(mean=mean, sigma=self.sigma, bounds=bounds, seed=0, population_size=self.population)

    @cached_property
    def _free(self) -> _Free:
        return _Free(self.space)


@dataclass
class Qmc:
    """Scrambled Sobol points: covers the space more evenly than random search. Learns nothing."""

    space: SearchSpace
    budget: Budget
    seed: int = 0
    _dice: Dice = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._dice = Dice(self.seed)

    def ask(self) -> Policy:
        """The next point of the sequence, fitted to the budget."""
        number = self._dice.asked
        self._dice.ask()
        if not self._free.groups:
            return self.space.dense()
        points = qmc.Sobol(len(self._free.groups), scramble=True, rng=np.random.default_rng(self.seed))
        if number:  # scipy refuses to advance by 0
            points.fast_forward(number)
        return self.budget.fit(self._free.policy(points.random()[0]))

    def tell(self, trial: Trial) -> None:
        """Count the trial."""
        self._dice.tell()

    @cached_property
    def _free(self) -> _Free:
        return _Free(self.space)


class _Free:
    """The groups that leave a choice, as the unit cube: 0 is dense, 1 the largest sparsity."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._highest = np.array(space.thinnest().sparsity)
        self.groups = np.flatnonzero(self._highest > 0).tolist()
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            str(i): optuna.distributions.FloatDistribution(0.0, 1.0) for i in self.groups
        }

    def policy(self, point: Sequence[float] | NDArray[np.float64]) -> Policy:
        """The possible policy nearest to `point`, one number in [0, 1] a free group."""
        sparsity = np.zeros(len(self._space))
        sparsity[self.groups] = np.asarray(point) * self._highest[self.groups]
        return self._space.snap(sparsity)

    def point(self, policy: Policy) -> NDArray[np.float64]:
        """Where `policy` lies in the cube."""
        point: NDArray[np.float64] = np.array(policy.sparsity)[self.groups] / self._highest[self.groups]
        return np.clip(point, 0.0, 1.0)

    def executed(
        self, policy: Policy, values: Sequence[float], attributes: dict[str, int] | None = None
    ) -> optuna.trial.FrozenTrial:
        """`policy` and what came of it, in Optuna's words."""
        params = dict(zip(self.distributions, self.point(policy).tolist(), strict=True))
        return optuna.create_trial(
            params=params, distributions=self.distributions, values=values, system_attrs=attributes
        )


def _sampled(
    free: _Free, sampler: BaseSampler, told: Sequence[optuna.trial.FrozenTrial], directions: Sequence[StudyDirection]
) -> Policy:
    """What `sampler` proposes after the trials `told`."""
    with _quiet():
        study = optuna.create_study(sampler=sampler, directions=directions)
        study.add_trials(told)
        drawn = study.ask(free.distributions).params
    return free.policy([drawn[name] for name in free.distributions])


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


def _evenly(number: int) -> float:
    """The term of that number of van der Corput's sequence: evenly over [0, 1), wherever it is stopped."""
    return int(f"{number:b}"[::-1], 2) / (1 << number.bit_length())


def _seed(dice: Dice) -> int:
    return int(dice.ask().integers(2**31))
