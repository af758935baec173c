"""What is under way in a search: policies that were asked for ahead, and trials that are done before their turn.

With a window of W, the policy of trial k is asked for when trial k - W was told (order "asked"), or when fewer than W
are under way (order "finished"). Each ask is in the journal before anybody evaluates it, with how many trials were told
by then, and a trial as soon as it is done. So a run that goes on repeats the controller's asks among its tells just as
they were (docs/decisions/0011): what is asked next is what would have been, and nothing is lost or done twice.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from autoprune.errors import Exhausted, RunError
from autoprune.protocols import Controller
from autoprune.runs.journal import Run
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

Attempt = Callable[[int, Policy], Trial]


@runtime_checkable
class Staffed(Protocol):
    """An executor that says how many attempts it makes at once; the number may change."""

    @property
    def staff(self) -> int:
        """Of workers."""
        ...


@dataclass
class Flight:
    """The asks and trials of one search, as they come.

    Attributes:
        window: how many may be under way; with 1 there are no asks ahead, and none is written down.
        finished: whether trials are told as they come, and not in the order of their asks.
        first: policies that are asked for before the controller asks.
    """

    run: Run
    controller: Controller
    attempt: Attempt
    executor: Executor
    window: int = 1
    finished: bool = False
    first: Sequence[Policy] = ()
    _under_way: dict[int, Future[Trial]] = field(default_factory=dict)
    _twins: dict[int, Policy] = field(default_factory=dict)  # asked for while the same policy is under way
    _asking: dict[int, float] = field(default_factory=dict)  # seconds
    _exhausted: bool = False

    def __post_init__(self) -> None:
        self._ahead = self.window > 1 or self.finished or bool(self.run.asks)
        self._number = max(len(self.run) - 1, *self.run.asks) + 1 if self.run.asks else len(self.run)
        self._scored = {trial.policy: trial for trial in reversed(self.run.trials) if trial.metric is not None}

    def catch_up(self) -> None:
        """Tell the controller what the run holds, its asks in between as they were, and send what was under way."""
        told = iter(self.run)
        count = 0
        for number, ask in sorted(self.run.asks.items()):
            while count < ask.asked:
                self.controller.tell(next(told))
                count += 1
            if number >= len(self.first) and self._asked_again() != ask.policy:
                raise RunError(
                    f"{self.run.directory}: the controller asks for another policy as trial {number} than it did; the "
                    "versions that the run was begun with are needed"
                )
        for trial in told:
            self.controller.tell(trial)
        done = self.run.evaluated()
        for number, ask in sorted(self.run.asks.items()):
            if number not in done:
                self._send(number, ask.policy)

    def fill(self, trials: int) -> None:
        """Ask for as many policies as may be under way, of `trials` in all."""
        while not self._exhausted and (number := self._number) < trials and number - len(self.run) < self._room:
            begun = time.perf_counter()
            try:
                policy = self.first[number] if number < len(self.first) else self.controller.ask()
            except Exhausted:
                self._exhausted = True
                return
            self.run.require(policy)
            self._number += 1
            self._asking[number] = time.perf_counter() - begun
            if self._ahead:
                self.run.ask(number, policy)
            self._send(number, policy)

    def next(self, journal: float, learnt: float) -> tuple[Trial, float] | None:
        """The next trial, which is in the journal now, and the seconds that this took; None where none is under way.

        `journal` and `learnt` are the seconds of writing and telling the one before.
        """
        spent = 0.0
        while (trial := self.run.turn()) is None:
            if self._ahead and (copy := self._copied()):
                done = [copy]
            elif self._under_way:
                done = [next(self._done())] if not self._ahead or self.finished else list(self._done())
            else:
                return None
            for each in done:
                around = {"ask": self._asking.pop(each.number, 0.0), **each.seconds, "journal": journal, "tell": learnt}
                begun = time.perf_counter()
                each = dataclasses.replace(each, seconds=around)
                if not self._ahead:
                    return self.run.append(each), time.perf_counter() - begun
                self.run.keep(each, len(self.run) if self.finished else each.number)
                spent += time.perf_counter() - begun
        if trial.metric is not None:
            self._scored.setdefault(trial.policy, trial)
        return trial, spent

    @property
    def _room(self) -> int:
        staff = self.executor.staff if self.finished and isinstance(self.executor, Staffed) else 0
        return max(self.window, staff)

    def _asked_again(self) -> Policy | None:
        try:
            return self.controller.ask()
        except Exhausted:
            return None

    def _send(self, number: int, policy: Policy) -> None:
        """Have `policy` evaluated, unless it was, or is; then its trial is a copy."""
        if self._ahead and (policy in self._scored or policy in self._pending()):
            self._twins[number] = policy
        else:
            self._under_way[number] = self.executor.submit(self.attempt, number, policy)

    def _pending(self) -> set[Policy]:
        """What is evaluated, or is to be, and was not told."""
        asked = (self.run.asks[number].policy for number in self._under_way)
        return {*asked, *self._twins.values(), *self.run.early}

    def _copied(self) -> Trial | None:
        """The trial of a twin whose turn has come; one whose first did not succeed is sent after all."""
        for number, policy in self._twins.items():
            if policy in self._scored:
                same = self._scored[policy]
                if self.finished or number == len(self.run):
                    del self._twins[number]
                    return dataclasses.replace(same, number=number, seconds={}, repeats=same.number, worker="")
            elif number == len(self.run) or not any(self.run.asks[n].policy == policy for n in self._under_way):
                del self._twins[number]
                self._under_way[number] = self.executor.submit(self.attempt, number, policy)
                return None
        return None

    def _done(self) -> Iterator[Trial]:
        """Those that are done, the earlier asked first; waits for one. What was raised comes last, and is raised."""
        if not self._ahead:
            yield self._under_way.pop(min(self._under_way)).result()
            return
        concurrent.futures.wait(self._under_way.values(), return_when=concurrent.futures.FIRST_COMPLETED)
        ready = sorted(number for number, future in self._under_way.items() if future.done())
        for number in sorted(ready, key=lambda number: self._under_way[number].exception() is not None):
            trial = self._under_way[number].result()
            del self._under_way[number]
            yield trial
