"""What the winner of a search is compared with: uniform, the best of the rules, the best of random policies.

All are chosen by the search's own score, on the holdout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from autoprune.errors import Exhausted
from autoprune.protocols import Watch
from autoprune.report.facts import Role
from autoprune.report.words import label
from autoprune.runs import firsts, loop
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.budget import Budget, Limit
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

SAMPLING, RULES = "scoring random policies, to compare with", "scoring rules, to compare with"


@dataclass(frozen=True)
class Baselines:
    """What was scored besides the search.

    Attributes:
        random: trials of random policies, as many as were searched, unless others are asked for.
        rules: the trial of each rule but uniform, by its name; of equal policies the first.
    """

    random: Sequence[Trial]
    rules: dict[str, Trial]

    @classmethod
    def scored(cls, study: Study, run: Run, watch: Watch) -> Baselines:
        """Attempt them; what is known is not scored again. None is told, since none of them learns."""
        attempt = loop.remembering(study.attempt, run)
        searched = sum(not trial.rung for trial in run)
        return cls(_random(study, searched, attempt, watch), _rules(study, run, attempt, watch))

    def chosen(self, study: Study, winner: Policy, notes: list[str]) -> dict[Role, Policy]:
        """The policies to compare, by role; what is left out is noted."""
        chosen: dict[Role, Policy] = {"ours": winner}
        if not study.budget.limits or not study.budget.fill:
            study, shares = _at_the_cost_of(study, winner)
            notes.append(f"The search need not use a budget up: uniform is taken at the winner's cost, {shares}.")
        try:
            chosen["uniform"] = study.controller("uniform").ask()
        except Exhausted as wrong:
            notes.append(f"The uniform baseline was left out: {wrong}.")
        for role, trials in (("rule", self.rules.values()), ("random", self.random)):
            if best := _best(trials):
                chosen[cast(Role, role)] = best.policy
        return chosen

    @property
    def rule(self) -> str:
        """The name of the best rule; "" where there is none."""
        best = _best(self.rules.values())
        return next((name for name, trial in self.rules.items() if trial is best), "")


def _best(trials: Iterable[Trial]) -> Trial | None:
    scored = [trial for trial in trials if trial.reward is not None]
    return max(scored, key=lambda t: (cast(float, t.reward), -t.number), default=None)


def _random(study: Study, searched: int, attempt: loop.Attempt, watch: Watch) -> list[Trial]:
    controller, found = study.controller("random"), list[Trial]()
    most = study.config.report.random_trials or searched
    for number in range(most):
        watch(SAMPLING, number, most)
        try:
            found.append(attempt(number, controller.ask()))
        except Exhausted:
            break
    watch(SAMPLING, most, most)
    return found


def _rules(study: Study, run: Run, attempt: loop.Attempt, watch: Watch) -> dict[str, Trial]:
    policies = firsts.rules(run.machine) if study.config.report.rules else {}
    named = {policy: name for name, policy in reversed(policies.items())}
    found = dict[str, Trial]()
    for number, (policy, name) in enumerate(reversed(named.items())):
        watch(RULES, number, len(named))
        found[name] = attempt(number, policy)
    watch(RULES, len(named), max(len(named), 1))
    return found


def _at_the_cost_of(study: Study, policy: Policy) -> tuple[Study, str]:
    """The study with a budget that `policy` just meets, and its costs as shares of the dense network, in words."""
    names = [limit.name for limit in study.budget.limits] or [study.traded]
    limits = tuple(Limit(name, study.costs[name], study.costs[name].predict(policy)) for name in names)
    shares = ", ".join(f"{limit.most / study.dense[limit.name]:.1%} of the {label(limit.name)}" for limit in limits)
    return replace(study, budget=Budget(study.space, limits)), shares
