"""Workers that make attempts: an executor that sends each policy to one idle worker, and counts what became of it.

Dask carries texts and starts processes; who works at what is decided here. No more is under way than there are workers,
so that one which dies takes one attempt with it. A policy whose workers died twice has failed. A scheduler that is gone
ends the search, which can be gone on with.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from distributed import Client
from distributed.scheduler import KilledWorker

from autoprune.errors import ClusterLost, one_line
from autoprune.runs import entries, remote
from autoprune.runs.flight import AtRung
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Trial

ATTEMPTS = 2  # of a policy whose workers die
BEAT = 0.5  # seconds between two looks at who is there
_RUNNING = ("running", "paused")


Work = Callable[..., str]  # what a worker is asked to do, and answers
Distant = Any  # a future of Dask's, which has no types


@dataclass(eq=False)
class Job:
    """A policy on its way, and who works at it."""

    number: int
    policy: Policy
    rung: int
    future: Future[Trial]
    attempts: int = 0
    worker: str = ""
    sent: float = 0.0


@dataclass
class Desk:
    """One worker: what it works at, and since when it has been idle or getting ready."""

    job: Job | None = None
    ready: bool = False
    since: float = field(default_factory=time.monotonic)


class Pool(Executor):
    """Attempts by workers of a cluster. One thread of its own sends and hears.

    `priced` is what a policy costs; `supply` is what `remote.ready` is told: the study's name, and where weights lie;
    `work` is what workers do to get ready, and to evaluate.
    """

    def __init__(
        self,
        client: Client,
        priced: Callable[[Policy], Mapping[str, float]],
        supply: tuple[str, str, str],
        work: tuple[Work, Work] = (remote.ready, remote.attempted),
    ) -> None:
        self._ready, self._attempted = work
        self._client, self._priced, self._supply = client, priced, supply
        self._desks: dict[str, Desk] = {}
        self._refused: dict[str, str] = {}
        self._backlog: deque[Job] = deque()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._distant: dict[Job, Distant] = {}
        self._lost = ""
        self._looked = 0.0
        self.facts: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._run, name="autoprune-pool", daemon=True)

    def start(self) -> None:
        """Begin to hear of workers."""
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The trial of a number and a policy. `fn` stays here: a worker makes the same attempt by its own study."""
        number, policy = args
        rung = fn.rung if isinstance(fn, AtRung) else 0
        future: Future[Trial] = Future()
        self._events.put(lambda: self._take(Job(number, policy, rung, future)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Send nothing more."""
        self._events.put(None)
        if wait and self._thread.is_alive():
            self._thread.join()

    @property
    def staff(self) -> int:
        """Workers that can work."""
        return sum(desk.ready for desk in list(self._desks.values()))

    @property
    def busy(self) -> int:
        """Workers that work at a policy."""
        return sum(desk.job is not None for desk in list(self._desks.values()))

    @property
    def refused(self) -> dict[str, str]:
        """Workers that cannot work, and why."""
        return dict(self._refused)

    # what follows runs in the pool's own thread

    def _run(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=BEAT)
            except queue.Empty:
                event = _nothing
            if event is None:
                return
            try:
                event()
                if not self._lost and time.monotonic() - self._looked >= BEAT:
                    self._look()
                self._send()
            except BaseException as wrong:  # whatever it is, nobody is to wait for this thread
                self._give_up(f"workers cannot be reached ({type(wrong).__name__}: {one_line(wrong)})")

    def _take(self, job: Job) -> None:
        self._backlog.append(job)
        if self._lost:
            self._give_up(self._lost)

    def _look(self) -> None:
        """Who is there now: the new ones are to get ready, and what the lost ones worked at is sent again."""
        self._looked = time.monotonic()
        try:
            if self._client.status != "running":
                raise OSError(f"the client is {self._client.status}")
            found = remote.everybody(self._client)
        except Exception as wrong:
            self._give_up(f"the cluster's scheduler is gone ({one_line(wrong)})")
            return
        there = {str(address) for address, facts in found.items() if facts.get("status", "running") in _RUNNING}
        for address in self._desks.keys() - there:
            desk = self._desks.pop(address)
            if desk.job is not None:
                self._died(desk.job, address)
        for address in sorted(there - self._desks.keys() - self._refused.keys()):
            self._greet(address)
        if there and not self._desks:
            self._give_up(f"no worker can evaluate: {next(iter(self._refused.values()))}")

    def _greet(self, address: str) -> None:
        desk = self._desks[address] = Desk()
        answer = self._distance(self._ready, *self._supply, worker=address)
        answer.add_done_callback(lambda done: self._events.put(lambda: self._greeted(address, desk, done)))

    def _greeted(self, address: str, desk: Desk, answer: Distant) -> None:
        if self._desks.get(address) is not desk:
            return
        facts: dict[str, Any] = {"worker": address}
        try:
            facts |= json.loads(answer.result())
        except Exception as wrong:  # whatever a worker without autoprune, or without memory, raises
            facts["error"] = f"{type(wrong).__name__}: {one_line(wrong)}"
        self.facts.append(facts)
        desk.ready, desk.since = "error" not in facts, time.monotonic()
        if not desk.ready:
            self._refused[address] = str(facts["error"])
            del self._desks[address]

    def _send(self) -> None:
        """Give each idle worker what waits longest."""
        for address, desk in self._desks.items():
            if not self._backlog:
                return
            if desk.ready and desk.job is None:
                job = desk.job = self._backlog.popleft()
                job.worker, job.sent, job.attempts = address, time.monotonic(), job.attempts + 1
                text = json.dumps({"number": job.number, "levels": job.policy.levels, "rung": job.rung})
                answer = self._distant[job] = self._distance(self._attempted, self._supply[0], text, worker=address)
                answer.add_done_callback(lambda done, job=job: self._events.put(lambda: self._answered(job, done)))

    def _distance(self, work: Work, *given: str, worker: str) -> Distant:
        """`work` at a worker, which nobody else is to do, and nobody else repeats."""
        there = {"workers": [worker], "allow_other_workers": False, "pure": False, "retries": 0}
        return self._client.submit(work, *given, **there)

    def _answered(self, job: Job, answer: Distant) -> None:
        """Hear what became of a job, of which only the first result counts."""
        if job not in self._distant or self._distant[job] is not answer or self._lost:
            return
        address = job.worker
        try:
            line = answer.result()
        except KilledWorker:
            self._leave(job)
            self._died(job, address)
            return
        except Exception as wrong:
            if answer.status in ("cancelled", "lost"):
                return  # the worker, or the scheduler, is gone: the next look tells
            self._leave(job)
            job.future.set_exception(wrong)
            return
        desk = self._leave(job)
        job.future.set_result(self._trial(job, line, desk))

    def _leave(self, job: Job) -> Desk | None:
        self._distant.pop(job).release()
        desk = self._desks.get(job.worker)
        if desk is not None:
            desk.job = None
        return desk

    def _trial(self, job: Job, line: str, desk: Desk | None) -> Trial:
        """The trial that a worker tells, with the seconds that it waited before and that its way took."""
        told = entries.entry(line.encode().rstrip(b"\n"))
        assert isinstance(told, entries.Told)
        it, now = told.trial, time.monotonic()
        idle = job.sent - desk.since if desk else 0.0
        way = max(now - job.sent - sum(it.seconds.values()), 0.0)
        if desk:
            desk.since = now
        seconds = {**it.seconds, "sent": way, "idle": idle}
        return Trial(job.number, job.policy, it.outcome, seconds, job.rung, worker=job.worker)

    def _died(self, job: Job, address: str) -> None:
        """A worker is gone with its job: once more by another, or it has failed."""
        if job in self._distant:
            self._distant.pop(job).cancel()
        if job.attempts < ATTEMPTS:
            self._backlog.appendleft(job)
            return
        said = f"{job.attempts} workers died while they evaluated it, the last at {address}"
        failure = Failure(said, self._priced(job.policy))
        job.future.set_result(Trial(job.number, job.policy, failure, rung=job.rung, worker=address))

    def _give_up(self, why: str) -> None:
        """Nothing can be sent any more: whoever waits is told."""
        self._lost = why
        for job in [*self._distant, *self._backlog]:
            if not job.future.done():
                job.future.set_exception(ClusterLost(why))
        for held in (self._desks, self._distant, self._backlog):
            held.clear()


def _nothing() -> None:
    """An event that is none."""
