"""The pool by itself, over a cluster that is played: who is sent what, and what becomes of it when workers die."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from autoprune.controllers.random import Random
from autoprune.errors import ClusterLost
from autoprune.files import disk
from autoprune.runs import lines
from autoprune.runs.journal import Run
from autoprune.runs.loop import search
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Trial

pytest.importorskip("distributed", reason="needs Dask distributed, of the extra `cluster`")
from autoprune.runs import pool, remote
from autoprune.runs.pool import Pool

SPACE = toy_space()


class Task:
    """What Dask's client gives for something that is sent."""

    def __init__(self, work: Callable[..., str], given: tuple[str, ...], worker: str) -> None:
        self.work, self.given, self.worker, self.status = work, given, worker, "pending"
        self._heard: list[Callable[[Any], None]] = []
        self._found: str | Exception = ""

    def add_done_callback(self, heard: Callable[[Any], None]) -> None:
        self._heard.append(heard)
        if self.status != "pending":
            heard(self)

    def end(self, found: str | Exception, status: str = "finished") -> None:
        self._found, self.status = found, status
        for heard in self._heard:
            heard(self)

    def result(self) -> str:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def release(self) -> None:
        self.status = "released"

    def cancel(self) -> None:
        self.end(OSError("cancelled"), "cancelled")


class Cluster:
    """Plays a client and the workers behind it."""

    def __init__(self, count: int) -> None:
        self.greeting = json.dumps({"pid": 1})
        self.status, self.there, self.sent = "running", {f"tcp://w{n}" for n in range(count)}, list[Task]()

    def sync(self, what: Callable[..., Any], **given: int) -> Any:
        return what(**given)

    @property
    def scheduler(self) -> Cluster:
        return self

    def identity(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1, "of all, not of the first five"
        return {"workers": {address: {"status": "running"} for address in self.there}}

    def submit(self, work: Callable[..., str], *given: str, workers: list[str], **how: object) -> Task:
        assert how == {"allow_other_workers": False, "pure": False, "retries": 0}
        assert all(isinstance(one, str) for one in given), "what travels is text"
        task = Task(work, given, workers[0])
        self.sent.append(task)
        if work is remote.ready:
            task.end(self.greeting)
        return task

    def attempts(self) -> list[Task]:
        return [task for task in self.sent if task.work is remote.attempted]

    def under_way(self) -> list[Task]:
        return [task for task in self.attempts() if task.status == "pending"]


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.002)


def done(task: Task) -> str:
    asked = json.loads(task.given[1])
    return lines.line(judge(SPACE, asked["number"], Policy.of(asked["levels"]))).decode()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(2)


@pytest.fixture
def made(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(pool, "BEAT", 0.01)
    made = Pool(cluster, lambda policy: {"macs": 7.0}, ("name", "", "{}"))
    made.start()
    yield made
    made.shutdown()


def ask(made: Pool, count: int) -> list[Future[Trial]]:
    return [made.submit(judge, number, SPACE.dense()) for number in range(count)]


def test_no_more_is_under_way_than_there_are_workers(made: Pool, cluster: Cluster) -> None:
    trials = ask(made, 5)
    for left in (2, 2, 2, 2, 1):
        wait_for(lambda left=left: len(cluster.under_way()) == left)  # type: ignore[misc]
        assert len({task.worker for task in cluster.under_way()}) == len(cluster.under_way())
        task = cluster.under_way()[0]
        task.end(done(task))
    assert [trial.result(10).number for trial in trials] == [0, 1, 2, 3, 4]
    found = trials[0].result()
    assert found.worker in cluster.there
    assert {"sent", "idle"} <= found.seconds.keys()


def test_a_policy_whose_worker_dies_is_sent_once_more_and_then_has_failed(made: Pool, cluster: Cluster) -> None:
    unlucky, lucky = ask(made, 2)
    wait_for(lambda: len(cluster.under_way()) == 2)
    for _ in range(2):
        task = next(t for t in cluster.under_way() if json.loads(t.given[1])["number"] == 0)
        cluster.there.discard(task.worker)
        cluster.there.add(f"{task.worker}-again")  # as a nanny starts another
        wait_for(lambda task=task: task.status != "pending")  # type: ignore[misc]
        wait_for(lambda: len(cluster.under_way()) == 2 or unlucky.done())
    failed = unlucky.result(10)
    assert isinstance(failed.outcome, Failure)
    assert failed.error.startswith("2 workers died while they evaluated it, the last at tcp://w")
    assert failed.costs == {"macs": 7.0}
    assert not lucky.done()
    (task,) = cluster.under_way()
    task.end(done(task))
    assert lucky.result(10).metric is not None


def test_the_first_result_counts(made: Pool, cluster: Cluster) -> None:
    (trial,) = ask(made, 1)
    wait_for(cluster.under_way)
    (slow,) = cluster.under_way()
    cluster.there.discard(slow.worker)
    wait_for(lambda: slow.status == "cancelled")
    wait_for(cluster.under_way)
    (second,) = cluster.under_way()
    slow.end(done(slow))
    assert second.worker != slow.worker
    second.end(done(second))
    assert trial.result(10).worker == second.worker
    assert not cluster.under_way()


def test_a_worker_that_comes_is_used_and_one_that_cannot_is_not(made: Pool, cluster: Cluster) -> None:
    ask(made, 4)
    wait_for(lambda: len(cluster.under_way()) == 2)
    cluster.there.add("tcp://w9")
    wait_for(lambda: len(cluster.under_way()) == 3)
    assert made.staff == made.busy == 3


def test_a_lost_scheduler_ends_all_that_waits(made: Pool, cluster: Cluster) -> None:
    trials = ask(made, 3)
    wait_for(lambda: len(cluster.under_way()) == 2)
    cluster.status = "connecting"
    for trial in trials:
        with pytest.raises(ClusterLost, match=r"scheduler is gone \(the client is connecting\)"):
            trial.result(10)
    with pytest.raises(ClusterLost):
        made.submit(judge, 3, SPACE.dense()).result(10)


def test_where_no_worker_can_evaluate_nobody_waits(cluster: Cluster, made: Pool) -> None:
    """Workers that were started again were asked before they had the study, and refused for ever: the search hung."""
    (trial,) = ask(made, 1)
    wait_for(cluster.under_way)
    cluster.greeting = json.dumps({"error": "it has no data"})
    cluster.there = {"tcp://w7"}
    with pytest.raises(ClusterLost, match="no worker can evaluate: it has no data"):
        trial.result(10)


def test_a_fault_of_the_pool_itself_lets_nobody_wait(
    cluster: Cluster, made: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "_send", lambda: 1 // 0)
    with pytest.raises(ClusterLost, match=r"workers cannot be reached \(ZeroDivisionError"):
        ask(made, 1)[0].result(10)


def test_a_mistake_of_ours_at_a_worker_stops_the_search(made: Pool, cluster: Cluster) -> None:
    (trial,) = ask(made, 1)
    wait_for(cluster.under_way)
    cluster.under_way()[0].end(ZeroDivisionError("of ours"), "error")
    with pytest.raises(ZeroDivisionError):
        trial.result(10)


class Deadly(Cluster):
    """Workers that answer at once; every hundredth attempt costs one of them, in whose place another comes."""

    deaths = 0

    def submit(self, work: Callable[..., str], *given: str, workers: list[str], **how: object) -> Task:
        task = super().submit(work, *given, workers=workers, **how)
        self.sent.clear()
        if work is remote.attempted:
            self.attempted = getattr(self, "attempted", 0) + 1
            if self.attempted % 100 == 0:
                self.deaths += 1
                self.there = {*self.there, f"tcp://new{self.deaths}"} - set(workers)
            else:
                task.end(done(task))
        return task


@pytest.mark.parametrize("trials", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("finished", [False, True])
def test_a_soak_in_which_workers_die_grows_by_its_trials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, finished: bool
) -> None:
    monkeypatch.setattr(pool, "BEAT", 0.005)
    monkeypatch.setattr(disk.os, "fsync", lambda file: None)
    played = Deadly(4)
    made = Pool(played, lambda policy: {}, ("name", "", "{}"))
    made.start()
    held: list[int] = []

    def watch(trial: Trial) -> None:
        if len(run) in (trials // 3, trials):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    with Run(tmp_path, {"name": "toy"}, SPACE) as run:
        how: dict[str, Any] = {"executor": made, "window": 4, "finished": finished, "watch": watch}
        search(Random(SPACE, half(SPACE)), judge, run, trials=trials, **how)
        assert sorted(trial.number for trial in run) == list(range(trials))
        assert not any(trial.error for trial in run)
    tracemalloc.stop()
    made.shutdown()
    assert played.deaths >= trials // 100
    assert (held[1] - held[0]) / (trials - trials // 3) < 5000
    assert len(made.facts) == 4 + played.deaths
