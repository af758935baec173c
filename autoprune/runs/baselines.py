"""What the winner of a search is compared with: uniform, the best of the rules, the best of random policies.

All are chosen by the search's own score, on the holdout.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import cast

from autoprune.errors import Exhausted
from autoprune.protocols import Watch
from autoprune.report.facts import Role
from autoprune.report.words import label
from autoprune.runs import firsts, loop
from autoprune.runs.flight import Staffed
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
        seconds: that all of them took.
    """

    random: Sequence[Trial]
    rules: dict[str, Trial]
    seconds: float = 0.0

    @classmethod
    def scored(cls, study: Study, run: Run, watch: Watch, executor: Executor = loop.HERE) -> Baselines:
        """Attempt them by `executor`; what is known is not scored again. None is told, since none of them learns."""
        begun = time.perf_counter()
        known = loop.succeeded(run.trials)
        asked, rules = _random(study, sum(not trial.rung for trial in run)), _rules(study, run)
        random = _attempted(study, asked, known, executor, watch, SAMPLING)
        known |= loop.succeeded(random)
        of_rules = _attempted(study, list(rules), known, executor, watch, RULES)
        return cls(random, dict(zip(rules.values(), of_rules, strict=True)), time.perf_counter() - begun)

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


def _random(study: Study, searched: int) -> list[Policy]:
    """What random search asks for; fewer where it has no more."""
    controller, found = study.controller("random"), list[Policy]()
    with contextlib.suppress(Exhausted):
        for _ in range(study.config.report.random_trials or searched):
            found.append(controller.ask())
    return found


def _rules(study: Study, run: Run) -> dict[Policy, str]:
    """What the rules ask for, with their names; of equal policies the first."""
    policies = firsts.rules(run.machine) if study.config.report.rules else {}
    named = {policy: name for name, policy in reversed(policies.items())}
    return dict(reversed(named.items()))


def _attempted(
    study: Study, policies: Sequence[Policy], known: Mapping[Policy, Trial], executor: Executor, watch: Watch, what: str
) -> list[Trial]:
    """A trial for each policy, as many under way as the executor makes at once; of what is `known` a copy."""
    room = max(1, executor.staff) if isinstance(executor, Staffed) else 1
    found, under_way = dict(known), deque[Future[Trial]]()

    def hear() -> None:
        trial = under_way.popleft().result()
        found[trial.policy] = trial

    sent = set(known)
    for number, policy in enumerate(policies):
        watch(what, number, len(policies))
        if policy not in sent:
            sent.add(policy)
            under_way.append(executor.submit(study.attempt, number, policy))
        while len(under_way) >= room:
            hear()
    while under_way:
        hear()
    watch(what, len(policies), max(len(policies), 1))
    trials = ((number, found[policy]) for number, policy in enumerate(policies))
    return [it if it.policy not in known and it.number == number else it.again(number) for number, it in trials]


def _at_the_cost_of(study: Study, policy: Policy) -> tuple[Study, str]:
    """The study with a budget that `policy` just meets, and its costs as shares of the dense network, in words."""
    names = [limit.name for limit in study.budget.limits] or [study.traded]
    limits = tuple(Limit(name, study.costs[name], study.costs[name].predict(policy)) for name in names)
    shares = ", ".join(f"{limit.most / study.dense[limit.name]:.1%} of the {label(limit.name)}" for limit in limits)
    return replace(study, budget=Budget(study.space, limits)), shares
