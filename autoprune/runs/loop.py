"""The one loop: ask, attempt, write down, tell. It knows no controller and no evaluator by name.

Continuing an old run is the same loop, since what the journal holds is told first. Who attempts is an executor's
matter: without one it is this process, one policy after the other. (The file is not called `search`, because
`autoprune.search` is the function that users call, and a package cannot have both.)
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from autoprune.addresses import failing
from autoprune.errors import ConfigError, SearchFailed, TrialFailed, one_line
from autoprune.protocols import Controller, Evaluator, PredictiveCost, Reward
from autoprune.runs.course import Course, Straight
from autoprune.runs.flight import Attempt as Attempt, Flight
from autoprune.runs.journal import Run
from autoprune.values.plain import measured
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Outcome, Trial

T = TypeVar("T")
Watch = Callable[[Trial], None]

HOPELESS = 10  # so many failures in a row end the search


class Here(Executor):
    """Attempts in this process, at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """A future that is done; what was raised stops the search when its turn comes."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as raised:
            future.set_exception(raised)
        return future


HERE = Here()


def search(
    controller: Controller,
    attempt: Attempt,
    run: Run,
    *,
    trials: int,
    watch: Watch = lambda trial: None,
    executor: Executor = HERE,
    window: int = 1,
    finished: bool = False,
    first: Sequence[Policy] = (),
) -> Trial:
    """Go on until the journal holds `trials`, or the controller is exhausted; returns the best trial.

    The first trials are of the policies in `first`. All else is as `follow` says.
    """
    return follow(
        Straight(controller, first), [attempt], run,
        trials=trials, watch=watch, executor=executor, window=window, finished=finished,
    )  # fmt: skip


def follow(
    course: Course,
    attempts: Sequence[Attempt],
    run: Run,
    *,
    trials: int,
    seconds: float = math.inf,
    watch: Watch = lambda trial: None,
    executor: Executor = HERE,
    window: int = 1,
    finished: bool = False,
) -> Trial:
    """Go on until the journal holds `trials`, or nothing is left to attempt; returns the best trial.

    No trial is begun after `seconds`, of which those count that the trials in the journal took. What is attempted as
    number k, by the one of `attempts` that its rung says, is asked for when trial k - `window` was told. Trials are
    told in order; with `finished`, as they come (see `autoprune.runs.flight`). `watch` sees every new trial after it
    was told. Raises SearchFailed after ten failures in a row.
    """
    spent = sum(sum(trial.seconds.values()) for trial in run) / window
    end = time.perf_counter() + seconds - spent
    flight = Flight(run, course, attempts, executor, window, finished)
    flight.catch_up()
    journal = learnt = 0.0  # seconds that are known only afterwards, so the next line tells them
    while len(run) < trials:
        if time.perf_counter() < end:
            flight.fill(trials)
        came = flight.next(journal, learnt)
        if came is None:
            break
        trial, journal = came
        begun = time.perf_counter()
        course.tell(trial)
        learnt = time.perf_counter() - begun
        watch(trial)
        _stop_if_hopeless(run)
    return run.best()


def attempting(
    evaluator: Evaluator, costs: Mapping[str, PredictiveCost], reward: Reward, dense: Mapping[str, float]
) -> Attempt:
    """An attempt that prunes, evaluates and prices a policy; what goes wrong with one policy fails one trial.

    That is what a user's network, data, metric, loss, evaluator or reward raises, whatever it is, and memory that is
    not there. A mistake of ours is none of these, and stops the search.
    """

    def attempt(number: int, policy: Policy) -> Trial:
        spent: dict[str, float] = {}
        priced = {name: float(cost.predict(policy)) for name, cost in costs.items()}
        try:
            with failing():
                candidate = _timed(spent, "prune", lambda: evaluator.realise(policy))
                recovered = _timed(spent, "recover", lambda: evaluator.recover(candidate))
                score = _timed(spent, "score", lambda: evaluator.score(recovered))
                earned = reward(metric := measured("the metric", score.metric), priced, dense)
            spent["score"] -= sum(score.seconds.values())
            for phase, seconds in score.seconds.items():
                spent[phase] = spent.get(phase, 0.0) + seconds
            values = tuple(
                measured("the reward", v) for v in (earned if isinstance(earned, tuple | list) else (earned,))
            )
            if not values:
                raise ConfigError("the reward is (); one number, or several, are right")
        except TrialFailed as failure:
            return Trial(number, policy, Failure(one_line(failure), priced), spent)
        return Trial(number, policy, Outcome(metric, values, priced), spent)

    return attempt


def remembering(attempt: Attempt, run: Run, rung: int = 0) -> Attempt:
    """The same, but a policy that once succeeded at `rung` in `run` is not evaluated again: its outcome is copied."""
    seen = succeeded(run.trials, rung)

    def remembered(number: int, policy: Policy) -> Trial:
        if policy in seen:
            return seen[policy].again(number)
        trial = attempt(number, policy)
        if trial.metric is not None:
            seen[policy] = trial
        return trial

    return remembered


def succeeded(trials: Sequence[Trial], rung: int = 0) -> dict[Policy, Trial]:
    """Of each policy the first trial at `rung` that succeeded."""
    return {trial.policy: trial for trial in reversed(trials) if trial.metric is not None and trial.rung == rung}


def _stop_if_hopeless(run: Run) -> None:
    row = list(itertools.takewhile(lambda trial: trial.error, reversed(run.trials)))
    if len(row) >= HOPELESS:
        raise SearchFailed(f"{len(row)} trials in a row failed, the first with: {row[-1].error}")


def _timed(spent: dict[str, float], phase: str, work: Callable[[], T]) -> T:
    begun = time.perf_counter()
    try:
        return work()
    finally:
        spent[phase] = time.perf_counter() - begun
