"""What is predicted with an error is measured in the end: the best policy that really meets the budget is taken.

A machine is not the same from one moment to another, so that the one that is taken is measured at several, and must
meet the ceiling with the spread of its moments on top.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from autoprune.protocols import Proves, Times, Watch
from autoprune.report import words
from autoprune.runs.journal import Run, rank
from autoprune.runs.study import Study
from autoprune.values.budget import Limit
from autoprune.values.space import Policy
from autoprune.values.terms import Figure
from autoprune.values.trial import Trial

MOST, TOGETHER = 40, 5  # of the best policies, how many are measured at most, and how many together
CONFIRMED = 3  # more moments at which one is measured before it is taken


@dataclass
class Verifier:
    """Measures what of `study` must be measured.

    Attributes:
        study: whose budget is to be met.
        moments: what was measured, one figure a moment, by policy and name of the cost.
    """

    study: Study
    moments: dict[tuple[Policy, str], list[Figure]] = field(default_factory=dict)

    def best(self, run: Run, watch: Watch) -> tuple[Trial, str]:
        """The trial of the largest reward that meets the budget when it is measured, and what is to be said of that.

        Where none of the best 40 does, the one that comes nearest.
        """
        first, limits = run.best(), self.limits
        if not limits:
            return first, ""
        done = sorted((t for t in run if t.reward is not None), key=rank, reverse=True)
        trials = {trial.policy: trial for trial in reversed(done)}  # of equal policies the earliest
        ranked = list(dict.fromkeys(trial.policy for trial in done))[:MOST]
        for at in range(0, len(ranked), TOGETHER):
            watch("measuring the best", at, len(ranked))
            part = ranked[at : at + TOGETHER]
            self._measure(part, limits)
            self._prove(part, limits)
            for policy in part:
                if self._over(policy, limits) <= 1 and self._confirmed(policy, limits):
                    watch("measuring the best", len(ranked), len(ranked))
                    return trials[policy], self._passed_over(first, trials[policy], limits)
        watch("measuring the best", len(ranked), len(ranked))
        nearest = trials[min(ranked, key=lambda policy: self._over(policy, limits))]
        return nearest, (
            f"The budget is MISSED: none of the best {len(ranked)} policies meets it when it is measured; "
            f"{self._told(nearest, limits)}."
        )

    def confirms(self, policy: Policy) -> bool:
        """Whether the network of `policy` meets what must be measured of the budget, at several moments."""
        return not self.limits or self._confirmed(policy, self.limits)

    @property
    def limits(self) -> list[Limit]:
        """The ceilings on what must be measured."""
        return [limit for limit in self.study.budget.limits if isinstance(limit.cost, Times)]

    def measured(self, name: str, policy: Policy, model: nn.Module) -> float:
        """The cost called `name` of `model`, which was pruned by `policy`; measured now, with what was before."""
        cost = self.study.costs[name]
        if not isinstance(cost, Times):
            return float(cost.measure(model, self.study.task.example))
        self.moments.setdefault((policy, name), []).append(cost.figures([model])[0])
        return self.figure(name, policy).ratio * self.study.dense[name]

    def figure(self, name: str, policy: Policy) -> Figure:
        """The mean over all moments, with their standard deviation; that of one moment with its own error."""
        held = self.moments[policy, name]
        if len(held) == 1:
            return held[0]
        ratios = [figure.ratio for figure in held]
        mean = statistics.mean(ratios)
        return Figure(mean, statistics.stdev(ratios) / mean)

    def known(self) -> dict[Policy, dict[str, float]]:
        """What was measured of each policy, by name of the cost, in its unit."""
        found: dict[Policy, dict[str, float]] = {}
        for policy, name in self.moments:
            found.setdefault(policy, {})[name] = self.figure(name, policy).ratio * self.study.dense[name]
        return found

    def at_moments(self, name: str, policy: Policy) -> tuple[float, ...]:
        """What was measured at each moment, in the cost's unit; none of a count."""
        return tuple(figure.ratio * self.study.dense[name] for figure in self.moments.get((policy, name), ()))

    def _measure(self, policies: Sequence[Policy], limits: Sequence[Limit]) -> None:
        models = [self.study.evaluator.realise(policy).model for policy in policies]
        for limit in limits:
            for policy, figure in zip(policies, cast(Times, limit.cost).figures(models), strict=True):
                self.moments.setdefault((policy, limit.name), []).append(figure)

    def _prove(self, policies: Sequence[Policy], limits: Sequence[Limit]) -> None:
        """Tell costs how well they predicted."""
        for limit in limits:
            if isinstance(limit.cost, Proves):
                for policy in policies:
                    limit.cost.prove(policy, self.figure(limit.name, policy))

    def _confirmed(self, policy: Policy, limits: Sequence[Limit]) -> bool:
        """Whether more moments confirm what the first said: it was lucky, if any was."""
        for _ in range(CONFIRMED):
            self._measure([policy], limits)
            if max(self._mean(policy, limit) for limit in limits) > 1:
                return False
        return self._over(policy, limits) <= 1

    def _mean(self, policy: Policy, limit: Limit) -> float:
        """What was measured as a share of the ceiling."""
        return self.figure(limit.name, policy).ratio * self.study.dense[limit.name] / limit.most

    def _over(self, policy: Policy, limits: Sequence[Limit]) -> float:
        """What was measured with its spread on top as a share of its ceiling, the worst of all."""
        return max(self._mean(policy, x) * (1 + self.figure(x.name, policy).spread) for x in limits)

    def _told(self, trial: Trial, limits: Sequence[Limit]) -> str:
        found = [(x, self._mean(trial.policy, x), self.figure(x.name, trial.policy).spread) for x in limits]
        shares = ", ".join(f"{mean:.1%} ± {spread:.1%} of the {limit.name} allowed" for limit, mean, spread in found)
        return f"trial {trial.number} takes {shares}"

    def _passed_over(self, first: Trial, taken: Trial, limits: Sequence[Limit]) -> str:
        if taken.policy == first.policy:
            return ""
        return (
            f"{words.MISSES}the budget when it is measured ({self._told(first, limits)}); "
            f"the next that meets it was taken ({self._told(taken, limits)})."
        )
