"""Which policy is attempted next, and how thoroughly: straight on, or up a ladder of rungs.

On a ladder every policy gets the cheapest score, the better ones a dearer one, few of them the dearest: one in so many
of a rung goes up to the next as soon as it is among the best there, so that nothing waits for a rung to be full.
Asynchronous successive halving, Li et al. 2020, https://arxiv.org/abs/1810.05934.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoprune.protocols import Controller, Watch, silent
from autoprune.report.words import counted
from autoprune.runs import kendall
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

YARDSTICKS = 5  # of the first policies go up whatever their score, to see what the score is worth
_ENOUGH, _CHANCE = 12, 0.15  # policies at two rungs, and the tau between these below which the lower one says nothing


@dataclass(frozen=True)
class Rung:
    """One of them.

    Attributes:
        images: holdout images that the evaluator looks at; 0 leaves that to its settings.
        steps: of the final finetune's recipe, after which the whole holdout is looked at; 0 trains nothing.
        keep: one in so many policies of this rung goes up to the next.
    """

    images: int = 0
    steps: int = 0
    keep: int = 4

    def said(self) -> str:
        """In words."""
        if self.steps:
            return f"{counted(self.steps, 'step')} of finetuning"
        return f"the score on {self.images:,} images" if self.images else "the score"


class Course(Protocol):
    """What a search does next; a function of the trials that it was told, and of what it said since."""

    def ask(self) -> tuple[Policy, int]:
        """A policy and the rung to attempt it at. Raises Exhausted where there is none left."""
        ...

    def tell(self, trial: Trial) -> None:
        """Hear what became of one, in the order of the journal."""
        ...


@dataclass
class Straight:
    """The policies in `first`, and then what the controller asks for, all at rung 0."""

    controller: Controller
    first: Sequence[Policy] = ()

    def __post_init__(self) -> None:
        self._told, self._pending = 0, 0

    def ask(self) -> tuple[Policy, int]:
        """As `Course`."""
        number = self._told + self._pending
        policy = self.first[number] if number < len(self.first) else self.controller.ask()
        self._pending += 1
        return policy, 0

    def tell(self, trial: Trial) -> None:
        """As `Course`."""
        self._pending = max(0, self._pending - 1)
        self._told += 1
        self.controller.tell(trial)


@dataclass
class Ladder:
    """Several rungs; whoever proposes policies hears of the lowest one that says something.

    A score whose order is not that of the rung above (Kendall's tau over the policies that have both) is given up: from
    then on policies begin one rung higher, and a new controller is told what is known there.

    Attributes:
        rungs: from the cheapest judgement to the dearest; two at least.
        make: a controller that was told nothing.
        first: policies that are asked before a controller asks.
        watch: hears when a rung is given up.
    """

    rungs: Sequence[Rung]
    make: Callable[[], Controller]
    first: Sequence[Policy] = ()
    watch: Watch = silent
    base: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._course = Straight(self.make(), self.first)
        self._scored: list[dict[Policy, float]] = [{} for _ in self.rungs]  # rewards, by rung
        self._reached: list[set[Policy]] = [set() for _ in self.rungs]  # whoever was asked for there, or failed there
        self._trials: list[Trial] = []

    def ask(self) -> tuple[Policy, int]:
        """As `Course`: whoever may go up goes first, the furthest up before all others."""
        for rung in range(len(self.rungs) - 2, self.base - 1, -1):
            if (policy := self._promoted(rung)) is not None:
                self._reached[rung + 1].add(policy)
                return policy, rung + 1
        policy, _ = self._course.ask()
        self._reached[self.base].add(policy)
        return policy, self.base

    def tell(self, trial: Trial) -> None:
        """As `Course`."""
        self._trials.append(trial)
        self._reached[trial.rung].add(trial.policy)
        if trial.reward is not None:
            self._scored[trial.rung].setdefault(trial.policy, trial.reward)
        self._hear(trial)
        if self.base + 1 < len(self.rungs):
            tau, policies = agreement(*self._scored[self.base : self.base + 2])
            if policies >= _ENOUGH and (tau is None or tau <= _CHANCE):
                self._climb(tau, policies)

    def _promoted(self, rung: int) -> Policy | None:
        """The best policy that may go up from `rung` and has not."""
        scored, above = self._scored[rung], self._reached[rung + 1]
        if rung == self.base:
            for policy in list(scored)[:YARDSTICKS]:
                if policy not in above:
                    return policy
        best = sorted(scored, key=lambda policy: -scored[policy])[: len(scored) // self.rungs[rung].keep]
        return next((policy for policy in best if policy not in above), None)

    def _climb(self, tau: float | None, policies: int) -> None:
        said = "is not defined" if tau is None else f"is {tau:.2f}"
        low, high = self.rungs[self.base].said(), self.rungs[self.base + 1].said()
        self.watch(f"tau of {low} with {high} {said} over {policies} policies: they begin with the latter now", 1, 1)
        self.base += 1
        self._course = Straight(self.make())
        for trial in self._trials:
            self._hear(trial)

    def _hear(self, trial: Trial) -> None:
        """Tell the controller of a trial at the lowest rung, which is the only one that it knows."""
        if trial.rung == self.base:
            self._course.tell(replace(trial, rung=0))


def agreement(low: dict[Policy, float], high: dict[Policy, float]) -> tuple[float | None, int]:
    """Kendall's tau-b over the policies that have both rewards, None where that is not defined; how many those are."""
    both = [policy for policy in high if policy in low]
    x, y = [low[policy] for policy in both], [high[policy] for policy in both]
    return kendall.tau(x, y), len(both)
