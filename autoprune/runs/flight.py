"""What is under way in a search: policies that were asked for ahead, and trials that are done before their turn.

With a window of W, the policy of trial k is asked for when trial k - W was told (order "asked"), or when fewer than W
are under way (order "finished"). Each ask is in the journal before anybody evaluates it, with how many trials were told
by then, and a trial as soon as it is done. So a run that goes on repeats the controller's asks among its tells just as
they were (docs/decisions/0011): what is asked next is what would have been, and nothing is lost or done twice.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from autoprune.errors import Exhausted, RunError
from autoprune.runs.course import Course
from autoprune.runs.journal import Run
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

Attempt = Callable[[int, Policy], Trial]
Asked = tuple[Policy, int]  # a policy, and the rung to attempt it at


@dataclass(frozen=True)
class AtRung:
    """An attempt at a rung."""

    attempt: Attempt
    rung: int

    def __call__(self, number: int, policy: Policy) -> Trial:
        """The trial, which says its rung."""
        return dataclasses.replace(self.attempt(number, policy), rung=self.rung)


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
        course: says what is attempted next.
        attempts: how, by rung.
        window: how many may be under way; with 1 there are no asks ahead, and none is written down.
        finished: whether trials are told as they come, and not in the order of their asks.
    """

    run: Run
    course: Course
    attempts: Sequence[Attempt]
    executor: Executor
    window: int = 1
    finished: bool = False
    _under_way: dict[int, Future[Trial]] = field(default_factory=dict)
    _asks: dict[int, Asked] = field(default_factory=dict)  # what is under way, or asked for ahead
    _twins: dict[int, Asked] = field(default_factory=dict)  # asked for while the same is under way
    _asking: dict[int, float] = field(default_factory=dict)  # seconds
    _exhausted: bool = False

    def __post_init__(self) -> None:
        self._ahead = self.window > 1 or self.finished or bool(self.run.asks)
        self._number = max(len(self.run) - 1, *self.run.asks) + 1 if self.run.asks else len(self.run)
        done = [trial for trial in reversed(self.run.trials) if trial.metric is not None]
        self._scored = {(trial.policy, trial.rung): trial for trial in done}

    def catch_up(self) -> None:
        """Tell the course what the run holds, its asks in between as they were, and send what was under way."""
        told = iter(self.run)
        count = 0
        for number, ask in sorted(self.run.asks.items()):
            while count < ask.asked:
                self.course.tell(next(told))
                count += 1
            again = self._asked_again()
            if again is None or again[0] != ask.policy:
                raise RunError(
                    f"{self.run.directory}: the controller asks for another policy as trial {number} than it did; the "
                    "versions that the run was begun with are needed"
                )
            self._asks[number] = again
        for trial in told:
            self.course.tell(trial)
        done = self.run.evaluated()
        for number in sorted(self.run.asks):
            if number not in done:
                self._send(number, self._asks[number])

    def fill(self, trials: int) -> None:
        """Ask for as many policies as may be under way, of `trials` in all."""
        while not self._exhausted and (number := self._number) < trials and number - len(self.run) < self._room:
            begun = time.perf_counter()
            try:
                asked = self.course.ask()
            except Exhausted:
                self._exhausted = True
                return
            self.run.require(asked[0])
            self._number += 1
            self._asking[number] = time.perf_counter() - begun
            if self._ahead:
                self.run.ask(number, asked[0])
            self._asks[number] = asked
            self._send(number, asked)

    def next(self, journal: float, learnt: float) -> tuple[Trial, float] | None:
        """The next trial, which is in the journal now, and the seconds that this took; None where none is under way.

        `journal` and `learnt` are the seconds of writing and telling the one before.
        """
        spent = 0.0
        while (trial := self.run.turn()) is None:
            if self._ahead and (copy := self._copied()):
                done = iter([copy])
            elif self._under_way:  # each is in the journal before what was raised by another is
                done = itertools.islice(self._done(), 1 if not self._ahead or self.finished else None)
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
            self._scored.setdefault((trial.policy, trial.rung), trial)
        return trial, spent

    @property
    def _room(self) -> int:
        staff = self.executor.staff if self.finished and isinstance(self.executor, Staffed) else 0
        return max(self.window, staff)

    def _asked_again(self) -> Asked | None:
        try:
            return self.course.ask()
        except Exhausted:
            return None

    def _send(self, number: int, asked: Asked) -> None:
        """Have a policy evaluated, unless it was, or is; then its trial is a copy."""
        if self._ahead and (asked in self._scored or asked in self._pending()):
            self._twins[number] = asked
        else:
            self._submit(number, asked)

    def _submit(self, number: int, asked: Asked) -> None:
        policy, rung = asked
        self._under_way[number] = self.executor.submit(AtRung(self.attempts[rung], rung), number, policy)

    def _pending(self) -> set[Asked]:
        """What is evaluated, or is to be, and was not told."""
        under_way = (self._asks[number] for number in self._under_way)
        return {*under_way, *self._twins.values(), *self.run.early}

    def _copied(self) -> Trial | None:
        """The trial of a twin whose turn has come; one whose first did not succeed is sent after all."""
        for number, asked in self._twins.items():
            if asked in self._scored:
                same = self._scored[asked]
                if self.finished or number == len(self.run):
                    del self._twins[number]
                    return same.again(number)
            elif number == len(self.run) or not any(self._asks[n] == asked for n in self._under_way):
                del self._twins[number]
                self._submit(number, asked)
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
