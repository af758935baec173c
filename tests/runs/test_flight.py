"""Asks that run ahead: with any number of workers, and killed anywhere, a search is the one of an undisturbed run."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune import plugins
from autoprune.errors import RunError
from autoprune.protocols import Controller
from autoprune.runs.journal import JOURNAL, Run
from autoprune.runs.loop import HERE, search
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Trial

SPACE = toy_space()
BUDGET = half(SPACE)
WINDOW, TRIALS = 3, 14
FIRST = [BUDGET.fit(SPACE.dense())]


class Killed(BaseException):
    """As SIGKILL would end the search."""


class Workers(Executor):
    """Threads that take their time by lot, of which few work at once; after `most` results the process is killed."""

    def __init__(self, count: int, seed: int, most: int = 10**9) -> None:
        self._pool, self._rng, self._most, self._lock = (
            ThreadPoolExecutor(count),
            np.random.default_rng(seed),
            most,
            threading.Lock(),
        )

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        pause = float(self._rng.random()) * 0.004

        def work() -> Any:
            time.sleep(pause)
            with self._lock:
                self._most -= 1
                if self._most < 0:
                    raise Killed
            return fn(*args, **kwargs)

        return self._pool.submit(work)


def evaluate(number: int, policy: Policy) -> Trial:
    if number % 5 == 3:
        return Trial(number, policy, Failure("it failed"))
    return judge(SPACE, number, policy)


def controller(name: str = "evolution") -> Controller:
    made: Controller = plugins.build("controller", {"use": name}, space=SPACE, budget=BUDGET, seed=3)
    return made


def go(directory: Path, executor: Executor = HERE, name: str = "evolution", **how: Any) -> list[Trial]:
    how = {"window": WINDOW, "first": FIRST, **how}
    with Run(directory, {"name": "toy"}, SPACE) as run:
        search(controller(name), evaluate, run, trials=TRIALS, executor=executor, **how)
        return [dataclasses.replace(trial, seconds={}) for trial in run]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_fewer_workers_make_a_search_slower_and_not_different(tmp_path: Path, workers: int) -> None:
    assert go(tmp_path / "many", Workers(workers, workers)) == go(tmp_path / "here")


@pytest.mark.parametrize("name", ["evolution", "random", "genetic", "nsga2", "bayes", "switch", "knapsack", "cmaes"])
def test_a_search_that_is_killed_goes_on_exactly(tmp_path: Path, name: str) -> None:
    undisturbed, kills = go(tmp_path / "here", name=name), 0
    for seed in range(40):
        try:
            found = go(tmp_path / "killed", Workers(2, seed, most=2 + seed % 3), name=name)
            break
        except Killed:
            kills += 1
    assert found == undisturbed
    assert kills > 2
    numbers = [json.loads(line) for line in (tmp_path / "killed" / JOURNAL).read_text().splitlines()[1:]]
    done = [line["number"] for line in numbers if "seconds" in line]
    assert sorted(done) == list(range(TRIALS)), "none is lost, and none was done twice"


def test_a_journal_cut_anywhere_goes_on_exactly(tmp_path: Path) -> None:
    undisturbed = go(tmp_path / "here", Workers(3, 1))
    whole = (tmp_path / "here" / JOURNAL).read_bytes()
    for size in range(whole.index(b"\n") + 1, len(whole), 397):
        Run(tmp_path / str(size), {"name": "toy"}, SPACE).close()
        (tmp_path / str(size) / JOURNAL).write_bytes(whole[:size])
        assert go(tmp_path / str(size)) == undisturbed


def test_every_ask_is_on_the_disk_before_it_is_sent(tmp_path: Path) -> None:
    class Looking(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            asked = [json.loads(line).get("number") for line in (tmp_path / JOURNAL).read_text().splitlines()]
            assert args[0] in asked
            return HERE.submit(fn, *args, **kwargs)

    go(tmp_path, Looking())


def test_told_as_they_come_none_waits_for_a_slower_one(tmp_path: Path) -> None:
    slow_may_end = threading.Event()

    def attempt(number: int, policy: Policy) -> Trial:
        if number == 0:
            assert slow_may_end.wait(10)
        return evaluate(number, policy)

    def watch(trial: Trial) -> None:
        if len(told) == TRIALS - 2:
            slow_may_end.set()
        told.append(trial.number)

    told: list[int] = []
    with Run(tmp_path, {"name": "toy"}, SPACE) as run, ThreadPoolExecutor(2) as pool:
        search(controller(), attempt, run, trials=TRIALS, executor=pool, window=2, finished=True, watch=watch)
        assert [trial.number for trial in run] == told
        before = list(run)
    assert told.index(0) >= TRIALS - 2
    assert sorted(told) == list(range(TRIALS))
    with Run(tmp_path, {"name": "toy"}, SPACE) as again:
        assert list(again) == before


def test_told_as_they_come_a_killed_search_loses_nothing(tmp_path: Path) -> None:
    for seed in range(40):
        try:
            found = go(tmp_path, Workers(3, seed, most=3), finished=True)
            break
        except Killed:
            continue
    assert sorted(trial.number for trial in found) == list(range(TRIALS))


def test_a_cluster_that_grew_is_used_where_they_are_told_as_they_come(tmp_path: Path) -> None:
    class Grown(ThreadPoolExecutor):
        staff = 6

    under_way, enough = 0, threading.Condition()

    def attempt(number: int, policy: Policy) -> Trial:
        nonlocal under_way
        with enough:
            under_way += 1
            enough.notify_all()
            assert enough.wait_for(lambda: under_way >= 6, timeout=30)
        return evaluate(number, policy)

    with Run(tmp_path, {"name": "toy"}, SPACE) as run, Grown(6) as pool:
        search(controller("random"), attempt, run, trials=12, executor=pool, window=2, finished=True)


def test_the_same_policy_under_way_is_evaluated_once(tmp_path: Path) -> None:
    class Stubborn:
        def ask(self) -> Policy:
            return FIRST[0]

        def tell(self, trial: Trial) -> None:
            pass

    evaluated: list[int] = []

    def attempt(number: int, policy: Policy) -> Trial:
        evaluated.append(number)
        return Trial(number, policy, Failure("once")) if number == 0 else judge(SPACE, number, policy)

    for finished in (False, True):
        evaluated.clear()
        with Run(tmp_path / str(finished), {"name": "toy"}, SPACE) as run, ThreadPoolExecutor(3) as pool:
            search(Stubborn(), attempt, run, trials=6, executor=pool, window=3, finished=finished)
            assert [trial.repeats for trial in run] == [None, None, 1, 1, 1, 1]
        assert evaluated == [0, 1]


def test_a_controller_that_asks_otherwise_now_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(tmp_path, Workers(2, 0, most=4))
    with pytest.raises(RunError, match="asks for another policy as trial"):
        go(tmp_path, name="random")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 3, "asked": 9}, "it asks for trial 3 once more, or too late"),
        ({"number": 0}, "it asks for trial 0 once more, or too late"),
        ({"policy": [1, 2]}, "are not"),
        ({"metric": 0.5}, "policy was asked|costs: Field required|damaged"),
    ],
)
def test_asks_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    from autoprune.files import disk

    with Run(tmp_path, {"name": "toy"}, SPACE) as run:
        run.ask(0, FIRST[0])
        line = {"number": 1, "policy": list(FIRST[0].levels), "asked": 0} | change
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(disk.sealed(line))
    with pytest.raises(RunError, match=reason):
        Run(tmp_path, {"name": "toy"}, SPACE)


def test_a_trial_comes_once_and_of_the_policy_that_was_asked_for(tmp_path: Path) -> None:
    one = judge(SPACE, 1, FIRST[0])
    with Run(tmp_path, {"name": "toy"}, SPACE) as run:
        run.ask(0, FIRST[0])
        run.ask(1, FIRST[0])
        run.keep(one, 1)
        with pytest.raises(RunError, match="is there already"):
            run.keep(one, 1)
        assert len(run) == 0
    from autoprune.runs import lines

    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(lines.line(one, 1))
    with pytest.raises(RunError, match="there is another trial 1"):
        Run(tmp_path, {"name": "toy"}, SPACE)
