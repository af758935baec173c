"""What every trial of a run must be, whoever proposed it or wrote it down.

A policy lies in the space and within the budget, and costs that are known by arithmetic are what it costs: so a line
that was changed by hand, or belongs to another network, is found before anything is built on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.protocols import Learns
from autoprune.values.budget import Limit, Predicts, PredictsMany
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

_AT_ONCE = 50_000  # trials that are looked at in one go
_ALIKE, _ROUNDED = 1e-9, 1e-12  # relative difference of what was written and is computed anew, and of one sum twice


@dataclass(frozen=True, slots=True)
class Rules:
    """Of the trials of one run. Without costs, what they cost is not looked at.

    Attributes:
        space: of all policies.
        costs: by name, those that a trial records.
        limits: the ceilings of the run's budget, on some of `costs`.
        optional: names of costs that a trial need not have recorded.
    """

    space: SearchSpace
    costs: Mapping[str, Predicts] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    optional: frozenset[str] = frozenset()

    def of_policy(self, policy: Policy) -> str:
        """Why `policy` is none of the space; "" where it is one."""
        levels, choices = policy.levels, self.space.choices
        if len(levels) != len(choices) or not all(type(level) is int for level in levels):
            few = ", ".join(map(str, levels[:4]))
            return f"({few} ...) are not {len(choices)} whole numbers, the levels of {self.space.name}'s choices"
        for choice, level in zip(choices, levels, strict=True):
            if level not in choice.levels:
                grid = ", ".join(map(str, choice.levels[:3])) + (" ..." if len(choice.levels) > 3 else "")
                most = f"{choice.levels[-1]} of {choice.dense} at most"
                return f"{choice.kind} choice {choice.name!r} cannot keep {level} units; {grid}, {most}, are its levels"
        if not self.space.contains(policy):
            return f"choices of {self.space.name} that are tied differ, or what lies in a block that is left out is cut"
        return ""

    def over(self, policy: Policy) -> str:
        """Which ceiling `policy` exceeds, by what its costs predict; "" where it meets all."""
        return self._exceeded({limit.name: limit.cost.predict(policy) for limit in self.limits})

    def faults(self, trials: Sequence[Trial]) -> dict[int, str]:
        """What is wrong with the policies and costs of `trials`, by their place; empty where nothing is."""
        found: dict[int, str] = {}
        for begin in range(0, len(trials), _AT_ONCE):
            some = trials[begin : begin + _AT_ONCE]
            found |= {begin + place: fault for place, fault in self._faults(some).items()}
        return found

    def _faults(self, trials: Sequence[Trial]) -> dict[int, str]:
        found = {at: self.of_policy(trials[at].policy) for at in self._outside(trials)}
        names = self.costs.keys()
        for at, trial in enumerate(trials):
            if trial.costs.keys() != names and at not in found and (fault := self._of_names(trial)):
                found[at] = fault
        whole = [at for at in range(len(trials)) if at not in found]
        rows = np.array([trials[at].policy.levels for at in whole], dtype=np.int64).reshape(-1, len(self.space))
        for name, cost in self._exact.items():
            right = cost.predict_many(rows) if whole else np.zeros(0)
            said = np.array([trials[at].costs.get(name, due) for at, due in zip(whole, right)])
            for place in np.flatnonzero(~(np.abs(said - right) <= _ALIKE * np.maximum(np.abs(said), np.abs(right)))):
                due, wrong = right[place], said[place]
                found.setdefault(whole[place], f"its {name} are {wrong:.12g}, where those of its policy are {due:.12g}")
        for at in whole:
            if self.limits and (fault := self._exceeded(trials[at].costs)):
                found.setdefault(at, fault)
        return found

    def _outside(self, trials: Sequence[Trial]) -> list[int]:
        """The trials, by place, whose policies are none of the space."""
        wide = [at for at, trial in enumerate(trials) if len(trial.policy.levels) != len(self.space)]
        if wide or not len(self.space):
            return [at for at, trial in enumerate(trials) if self.of_policy(trial.policy)]
        rows = np.array([trial.policy.levels for trial in trials], dtype=np.int64)
        return np.flatnonzero(~self.space.contains_rows(rows)).tolist()

    def _of_names(self, trial: Trial) -> str:
        if unknown := sorted(set(trial.costs) - set(self.costs)) if self.costs else []:
            return f"it has the cost {unknown[0]!r}, which this run has not"
        absent = sorted(set(self.costs) - self.optional - set(trial.costs))
        return f"it lacks the cost {absent[0]!r}" if absent else ""

    def _exceeded(self, costs: Mapping[str, float]) -> str:
        over = [limit for limit in self.limits if costs.get(limit.name, 0.0) > limit.most * (1 + _ROUNDED)]
        if not over:
            return ""
        limit, unit = over[0], over[0].cost.unit
        return f"{costs[limit.name]:.12g} {unit} exceed the budget of {limit.most:.12g} {unit} ({limit.name})"

    @property
    def _exact(self) -> dict[str, PredictsMany]:
        """The costs that are arithmetic: many policies are priced at once, and nothing was measured for that."""
        return {
            name: cost
            for name, cost in self.costs.items()
            if isinstance(cost, PredictsMany) and not isinstance(cost, Learns)
        }
