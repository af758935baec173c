"""A landscape fitted to recorded scores: what an evaluator said of some policies of a real network, and what it would
say of any other, in a fraction of a millisecond.

The log-odds of a score are a Gaussian process over the share that each choice keeps (Rasmussen and Williams 2006,
https://gaussianprocess.org/gpml, sections 2.2 and 5.4.2): a sum of smooth functions of one choice each, and a rougher
one of all of them together. Its five numbers were found by the script that records, `benchmarks/record_policies.py`,
and lie in the table beside the policies; here are two systems of linear equations and no search for anything. Far from
what was recorded it falls back to the mean, so that nothing is gained by going where nobody has been.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.testing.surrogate import half, priced
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.terms import Extent, Floats, Op
from autoprune.values.trial import Trial

_EDGE = 1e-3  # keeps the log-odds of 0 and 1 finite


@dataclass(frozen=True, slots=True)
class Kernel:
    """How alike two policies' scores are, of log-odds that have mean 0 and deviation 1.

    Attributes:
        alone: deviation of the sum over choices.
        reach: of the functions of one choice, as a share of its units: how far two levels say much of one another.
        together: deviation of the function of all choices.
        radius: its reach, as a share of the cube's diagonal.
        rough: deviation of what no smooth function explains, such as a small holdout's.
    """

    alone: float
    reach: float
    together: float
    radius: float
    rough: float

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        """Covariances, without `rough`: (n, choices), (m, choices) -> (n, m)."""
        alone, far = np.zeros((2, len(ours), len(theirs)))
        for one, other in zip(ours.T, theirs.T, strict=True):
            square = np.square(one[:, None] - other)
            alone += np.exp(square / (-2 * self.reach**2))
            far += square
        choices = ours.shape[1]
        together = np.exp(far / (-2 * choices * self.radius**2))
        found: Floats = self.alone**2 / choices * alone + self.together**2 * together
        return found


@dataclass(frozen=True)
class Fitted:
    """A landscape that can be searched.

    Attributes:
        space: of the network.
        share: of the dense network's MACs, the budget that most policies were recorded under.
        first: the uniform policy, and what rankings of the network's units gave.
        policies: the recorded ones.
        scores: theirs, in [0, 1], (policies,).
        kernel: of the process.
    """

    space: SearchSpace
    share: float
    first: tuple[Policy, ...]
    policies: tuple[Policy, ...]
    scores: Floats
    kernel: Kernel

    @property
    def budget(self) -> Budget:
        """The budget that most policies were recorded under."""
        return half(self.space, self.share)

    def metric(self, policy: Policy, rough: float = 0.0) -> float:
        """What the evaluator would say of `policy`, in (0, 1).

        `rough` adds so many of the process's own deviations that nothing explains, the same for the same policy.
        """
        odds = self.kernel(shares(self.space, [policy]), self._points) @ self._solved
        noise = np.random.default_rng(policy.levels).standard_normal() if rough else 0.0
        return float(self._score(odds + rough * self.kernel.rough * noise)[0])

    def judge(self, number: int, policy: Policy, rough: float = 0.0) -> Trial:
        """The trial that evaluating `policy` makes; the reward is the metric."""
        return priced(self.space, number, policy, self.metric(policy, rough))

    def explained(self, least: float = 0.0) -> float:
        """R2 over the recorded scores of at least `least`, each foretold from all others, in closed form."""
        missed = self._solved / np.diag(np.linalg.inv(self._covariance))
        foretold, told = self._score(self._odds - missed), self.scores
        of = told >= least
        return float(1 - np.square(told - foretold)[of].sum() / np.square(told - told[of].mean())[of].sum())

    @cached_property
    def _points(self) -> Floats:
        return shares(self.space, self.policies)

    @cached_property
    def _odds(self) -> Floats:
        return standardised(self.scores)[0]

    @cached_property
    def _covariance(self) -> Floats:
        found: Floats = self.kernel(self._points, self._points) + self.kernel.rough**2 * np.eye(len(self.policies))
        return found

    @cached_property
    def _solved(self) -> Floats:
        return np.asarray(np.linalg.solve(self._covariance, self._odds), dtype=np.float64)

    def _score(self, odds: Floats) -> Floats:
        _, mean, deviation = standardised(self.scores)
        found = (1 + 2 * _EDGE) / (1 + np.exp(-(odds * deviation + mean))) - _EDGE
        return np.clip(found, 0.0, 1.0)


def standardised(scores: Floats) -> tuple[Floats, float, float]:
    """Log-odds of scores in [0, 1] less their mean, in deviations; mean; and deviation."""
    odds = np.log((scores + _EDGE) / (1 - scores + _EDGE))
    mean, deviation = float(odds.mean()), float(odds.std())
    return (odds - mean) / deviation, mean, deviation


def shares(space: SearchSpace, policies: tuple[Policy, ...] | list[Policy]) -> Floats:
    """The share that each choice keeps, (policies, choices), in [0, 1]."""
    levels = np.array([policy.levels for policy in policies], dtype=np.float64)
    found: Floats = levels / np.array([choice.dense for choice in space], dtype=np.float64)
    return found


def read(path: Path) -> Fitted:
    """The landscape of a table that `benchmarks/record_policies.py` wrote."""
    table = json.loads(path.read_text(encoding="utf-8"))
    *policies, scores = zip(*table["scored"], strict=True)
    return Fitted(
        space=_space(table),
        share=table["macs"],
        first=tuple(Policy.of(levels) for levels in table["first"]),
        policies=tuple(Policy.of(levels) for levels in zip(*policies, strict=True)),
        scores=np.array(scores),
        kernel=Kernel(**table["kernel"]),
    )


def table_of(fitted: Fitted) -> dict[str, Any]:
    """What `read` reads, ready for JSON; of the costs what MACs and parameters need."""
    space = fitted.space
    return {
        "name": space.name,
        "macs": fitted.share,
        "kernel": {name: round(value, 4) for name, value in dataclasses.asdict(fitted.kernel).items()},
        "choices": [[choice.name, choice.levels[0], choice.dense, choice.role] for choice in space],
        "ops": [_plain(op) for op in space.ops],
        "parameters": [_plain(op) for op in space.parameters],
        "first": [policy.levels for policy in fitted.first],
        "scored": [
            [*policy.levels, score] for policy, score in zip(fitted.policies, fitted.scores.tolist(), strict=True)
        ],
    }


def _plain(op: Op) -> list[Any]:
    return [op.name, op.times, [[extent.fixed, extent.per_unit] for extent in op.extents]]


def _space(table: Mapping[str, Any]) -> SearchSpace:
    choices = tuple(
        Choice(name, levels_of(dense, lowest), layers=(name,), role=tuple(role))
        for name, lowest, dense, role in table["choices"]
    )
    return SearchSpace(table["name"], choices, _ops(table["ops"]), _ops(table["parameters"]))


def _ops(plain: list[Any]) -> tuple[Op, ...]:
    return tuple(
        Op(name, times, tuple(Extent(fixed, tuple((at, units) for at, units in per)) for fixed, per in extents))
        for name, times, extents in plain
    )
