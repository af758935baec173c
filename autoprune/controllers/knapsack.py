"""A knapsack: what each choice loses at each level is learnt, and the best levels under the budget are computed.

The reward is modelled as a sum over choices, each a piecewise linear function of its sparsity (Bayesian linear
regression, in closed form; before anything is known, a choice loses with the square of its sparsity). A sample of that
model (Thompson 1933) is maximised under every ceiling as a multiple-choice knapsack, by linear programming, of whose
solution at most one choice a ceiling is no whole number (Sinha and Zoltners 1979,
https://doi.org/10.1287/opre.27.3.503); costs are made linear about the last solution, and it is solved again.

HALP (Shen et al. 2022, https://arxiv.org/abs/2110.10811) and SPDY (Frantar and Alistarh 2022,
https://arxiv.org/abs/2201.13096) solve the same programme with what a criterion, or a layer's own error, says of each
choice; here the scores of whole networks say it. Solutions stay in a region about the best policy, which grows while
they are better and shrinks while they are not. In turns with them the best policy is changed by a level switch, as in
`switch`.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from autoprune.controllers.rules import uniform
from autoprune.controllers.switch import STEP, switched
from autoprune.errors import SearchFailed
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Range, require
from autoprune.values.space import Places, Policy, SearchSpace
from autoprune.values.terms import Floats
from autoprune.values.trial import Trial

_WIDTH = 0.25  # of a straight piece of a choice's function, as a share of its reach
_KNOTS = np.array([0.0, 0.25, 0.5, 0.75])  # where they begin
_LOSS = 2.0  # of a choice at its least level, before anything is known, in standard deviations of the better rewards
_SLOPE, _NOISE = 0.3, 0.05  # precision of a slope, and variance of a reward, of rewards that are made alike
_REMEMBERED = 200  # best trials that the model looks at
_STARTUP = 6  # rewards that make a model
_LINEARISED = 3  # times that costs are made linear
_PLACES = 16  # levels of a choice that one programme looks at
_RADIUS, _SMALLEST, _LARGEST = 0.3, 0.05, 0.6  # of the region, as shares of a choice's levels
_GROWS, _SHRINKS = 1.3, 0.93


@dataclass
class Knapsack:
    """Learns what each choice loses, and asks for what a knapsack of these losses says.

    Attributes:
        sample: how far a sample of the model lies from its mean, in its standard deviations; 0 asks for the mean.
        switches: every how many asks a level switch is asked for instead; 0 never.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    sample: Annotated[float, Range(0, 100)] = 0.5
    switches: Annotated[int, Range(0, 1_000_000)] = 3

    def __post_init__(self) -> None:
        require(self)
        self._asks, self._radius = Asks(self.budget, self.seed), _RADIUS
        self._told = list[tuple[float, Policy]]()  # the best, best first

    def ask(self) -> Policy:
        """The uniform policy first; then switches and, from the sixth reward on, solutions of knapsacks."""
        number, rng = self._asks.asked, self._asks.dice()
        if not self._told:
            return self._asks.fresh(uniform(self.space, self.budget))
        best = self._told[0][1]
        if len(self._told) < _STARTUP or (self.switches and number % self.switches == 0):
            return self._asks.fresh(switched(self.budget, best, STEP, rng))
        slopes = self._regression.slopes(self.sample, rng)
        return self._asks.fresh(_solved(self.budget, slopes, best, self._radius))

    def tell(self, trial: Trial) -> None:
        """Learn from the reward; of a failed trial only that it need not be tried again."""
        self._asks.tell(trial)
        if trial.reward is None:
            return
        if len(self._told) >= _STARTUP:
            changed = self._radius * (_GROWS if trial.reward > self._told[0][0] else _SHRINKS)
            self._radius = float(np.clip(changed, _SMALLEST, _LARGEST))
        bisect.insort(self._told, (trial.reward, trial.policy), key=lambda told: -told[0])
        del self._told[_REMEMBERED:]

    def solution(self, budget: Budget) -> Policy:
        """What the model's mean says is best under another budget of the same space; nothing is evaluated for it.

        Raises SearchFailed before six rewards were told.
        """
        if len(self._told) < _STARTUP:
            raise SearchFailed(f"knapsack was told {len(self._told)} rewards; {_STARTUP} make a model")
        return _solved(budget, self._regression.mean, budget.fit(self._told[0][1]), 1.0)

    @property
    def notes(self) -> tuple[str, ...]:
        """How well the model foretells rewards that it was not told; none before there are twelve."""
        if len(self._told) < 2 * _STARTUP:
            return ()
        explained = self._regression.explained()
        return (
            f"The knapsack's model, a sum over choices, explains {max(explained, 0.0):.0%} of the variance of the best "
            f"{len(self._told)} rewards, each foretold from the others.",
        )

    @property
    def _regression(self) -> _Regression:
        rewards = np.array([reward for reward, _ in self._told])
        return _Regression.of(np.array([self.space.cube.point(policy) for _, policy in self._told]), rewards)


@dataclass(frozen=True)
class _Regression:
    """Rewards as sums of straight pieces of functions of sparsities: a normal distribution over the slopes.

    Attributes:
        features: (trials, slopes + 1).
        rewards: (trials,), made alike: the best is 0, and bad ones lie closer together than they are.
        root: of the precision of slopes, lower triangular.
        mean: of slopes, and of the reward of the dense network last, (slopes + 1,).
    """

    features: Floats
    rewards: Floats
    root: Floats
    mean: Floats

    @classmethod
    def of(cls, points: Floats, rewards: Floats) -> _Regression:
        """From where the policies lie in the cube, (trials, axes), and their rewards, the best first."""
        scale = rewards[: max(3, len(rewards) // 2)].std() + 1e-12
        alike = -np.log1p((rewards[0] - rewards) / scale)
        features = np.hstack([_ramps(points).reshape(len(points), -1), np.ones((len(points), 1))])
        prior = np.full(features.shape[1], _SLOPE)
        prior[-1] = 1e-6
        expected = np.append(np.tile(-_LOSS * (2 * _KNOTS + _WIDTH), points.shape[1]), 0.0)
        root: Floats = np.linalg.cholesky(features.T @ features / _NOISE + np.diag(prior)).astype(np.float64)
        missed = features.T @ (alike - features @ expected) / _NOISE
        mean: Floats = expected + np.linalg.solve(root.T, np.linalg.solve(root, missed))
        return cls(features, alike, root, mean)

    def slopes(self, far: float, rng: np.random.Generator) -> Floats:
        """A sample, `far` times as far from the mean as one of the distribution would be."""
        sampled: Floats = self.mean + far * np.linalg.solve(self.root.T, rng.standard_normal(len(self.mean)))
        return sampled

    def explained(self) -> float:
        """R2 of rewards each of which is foretold from all others, in closed form."""
        leverage = np.square(np.linalg.solve(self.root, self.features.T)).sum(axis=0) / _NOISE
        missed = (self.rewards - self.features @ self.mean) / (1 - np.minimum(leverage, 1 - 1e-9))
        return float(1 - np.square(missed).sum() / (np.square(self.rewards - self.rewards.mean()).sum() + 1e-12))


def _ramps(sparsities: Floats) -> Floats:
    """How far along each straight piece: (...) shares of the reach of an axis -> (..., knots)."""
    found: Floats = np.clip(sparsities[..., None] - _KNOTS, 0.0, _WIDTH)
    return found


def _solved(budget: Budget, slopes: Floats, about: Policy, radius: float) -> Policy:
    """The policy within `radius` of `about`, as a share of each choice's levels, that `slopes` say is best."""
    cube = budget.space.cube
    if not len(cube):
        return about
    current: Places = np.array(cube.places(about), dtype=np.int64)
    options = [
        _options(at, len(leader.levels) - 1, radius) for at, leader in zip(current.tolist(), cube.leaders, strict=True)
    ]
    gains = slopes[:-1].reshape(len(cube), -1)  # (axes, knots)
    shares = [_shares(budget, axis)[places] for axis, places in enumerate(options)]
    values = np.concatenate([_ramps(share) @ gain for share, gain in zip(shares, gains, strict=True)])
    for _ in range(_LINEARISED):
        found = _programme(budget, values, options, current)
        if found is None or np.array_equal(found, current):
            break
        current = found
    return budget.fit(cube.settled(current.tolist()))


def _options(place: int, last: int, radius: float) -> Places:
    """Places about `place`, itself among them, evenly spaced."""
    reach = max(round(radius * last), 1)
    spaced = np.linspace(max(place - reach, 0), min(place + reach, last), _PLACES)
    return np.unique(np.append(np.rint(spaced).astype(np.int64), place))


def _shares(budget: Budget, axis: int) -> Floats:
    """Of each level of an axis, as a share of its reach."""
    leader, reach = budget.space.cube.leaders[axis], budget.space.cube.reach[axis]
    found: Floats = np.array([leader.sparsity(level) for level in leader.levels]) / reach
    return found


def _programme(budget: Budget, values: Floats, options: list[Places], about: Places) -> Places | None:
    """The places, one of `options` an axis, of the largest sum of `values`, with costs linear about `about`.

    Of a choice between two places the lower; None where no places meet the ceilings.
    """
    cube, counts = budget.space.cube, [len(places) for places in options]
    axes, ends = np.repeat(np.arange(len(options)), counts), np.cumsum(counts)[:-1]
    moved = np.repeat(about[None], len(axes), axis=0)
    moved[np.arange(len(axes)), axes] = np.concatenate(options)
    rows, here = cube.rows(moved), cube.rows(about[None])
    one_each = csr_matrix((np.ones(len(axes)), (axes, np.arange(len(axes)))), shape=(len(options), len(axes)))
    dearer, room = [], []
    for limit in budget.limits:
        now = limit.prices(here)[0] / limit.allowed
        dearer.append(limit.prices(rows) / limit.allowed - now)
        room.append(1 - now)
    ceilings = {"A_ub": np.array(dearer), "b_ub": np.array(room)} if dearer else {}
    solved = linprog(-values, A_eq=one_each, b_eq=np.ones(len(options)), bounds=(0, 1), method="highs-ds", **ceilings)
    if solved.x is None:
        return None
    return np.array([of[np.flatnonzero(x > 1e-6)[0]] for of, x in zip(options, np.split(solved.x, ends), strict=True)])
