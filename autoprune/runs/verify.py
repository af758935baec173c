"""What is predicted with an error is measured in the end: the best policy that really meets the budget is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from autoprune.protocols import Times, Watch
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.budget import Limit
from autoprune.values.space import Policy
from autoprune.values.terms import Figure
from autoprune.values.trial import Trial

MOST, TOGETHER = 40, 5  # of the best policies, how many are measured at most, and how many together


@dataclass
class Verifier:
    """Measures what of `study` must be measured, each policy once.

    Attributes:
        study: whose budget is to be met.
        figures: what was measured, by policy and name of the cost.
    """

    study: Study
    figures: dict[tuple[Policy, str], Figure] = field(default_factory=dict)

    def best(self, run: Run, watch: Watch) -> tuple[Trial, str]:
        """The trial of the largest reward that meets the budget when it is measured, and what is to be said of that.

        Where none of the best 40 does, the one that comes nearest.
        """
        first, limits = run.best(), self.limits
        if not limits:
            return first, ""
        done = sorted((t for t in run if t.reward is not None), key=lambda t: (-cast(float, t.reward), t.number))
        trials = {trial.policy: trial for trial in reversed(done)}  # of equal policies the earliest
        ranked = list(dict.fromkeys(trial.policy for trial in done))[:MOST]
        for at in range(0, len(ranked), TOGETHER):
            watch("measuring the best", at, len(ranked))
            part = ranked[at : at + TOGETHER]
            self._measure(part, limits)
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

    @property
    def limits(self) -> list[Limit]:
        """The ceilings on what must be measured."""
        return [limit for limit in self.study.budget.limits if isinstance(limit.cost, Times)]

    def measured(self, name: str, policy: Policy, model: nn.Module) -> float:
        """The cost called `name` of `model`, which was pruned by `policy`; measured once."""
        cost = self.study.costs[name]
        if not isinstance(cost, Times):
            return cost.measure(model, self.study.task.example)
        if (policy, name) not in self.figures:
            self.figures[policy, name] = cost.figures([model])[0]
        return self.figures[policy, name].ratio * self.study.dense[name]

    def spread(self, name: str, policy: Policy) -> float:
        """The standard error of a measurement, as a share of it; 0 of a count."""
        figure = self.figures.get((policy, name))
        return figure.spread if figure else 0.0

    def _measure(self, policies: Sequence[Policy], limits: Sequence[Limit]) -> None:
        models = [self.study.evaluator.realise(policy).model for policy in policies]
        for limit in limits:
            for policy, figure in zip(policies, cast(Times, limit.cost).figures(models), strict=True):
                self.figures[policy, limit.name] = figure

    def _confirmed(self, policy: Policy, limits: Sequence[Limit]) -> bool:
        """Whether the mean of this and of one more measurement meets the ceilings: the first was lucky, if any was."""
        before = {limit.name: self.figures[policy, limit.name] for limit in limits}
        self._measure([policy], limits)
        for name, first in before.items():
            again = self.figures[policy, name]
            spread = math.hypot(first.spread, again.spread) / 2
            self.figures[policy, name] = Figure((first.ratio + again.ratio) / 2, spread)
        return self._over(policy, limits) <= 1

    def _share(self, policy: Policy, limit: Limit) -> float:
        return self.figures[policy, limit.name].ratio * self.study.dense[limit.name] / limit.allowed

    def _over(self, policy: Policy, limits: Sequence[Limit]) -> float:
        """What was measured as a share of its ceiling, the worst of all."""
        return max(self._share(policy, limit) for limit in limits)

    def _told(self, trial: Trial, limits: Sequence[Limit]) -> str:
        shares = ", ".join(f"{self._share(trial.policy, x):.1%} of the {x.name} allowed" for x in limits)
        return f"trial {trial.number + 1} takes {shares}"

    def _passed_over(self, first: Trial, taken: Trial, limits: Sequence[Limit]) -> str:
        if taken.policy == first.policy:
            return ""
        return (
            f"The policy of the largest reward misses the budget when it is measured ({self._told(first, limits)}); "
            f"the next that meets it was taken ({self._told(taken, limits)})."
        )
