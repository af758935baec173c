"""Who works on a run: processes on this machine, or a cluster of the user's own; and what they are told beforehand.

Dask distributed (BSD-3, the extra `cluster`) starts and reaches them. Without `--workers` and `--cluster` nothing of it
is imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.config import Workers
from autoprune.errors import ConfigError, one_line
from autoprune.protocols import Trains, Watch, silent
from autoprune.runs.journal import Run
from autoprune.runs.loop import HERE
from autoprune.runs.study import GIVEN, Facts, Study
from autoprune.trust import named

if TYPE_CHECKING:
    from distributed import Client

    from autoprune.runs.pool import Pool

KEY = "workers"  # in a run's facts
PATIENCE = 10  # seconds for a scheduler to answer, and for its first worker
_UNSEEN = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # without, there is a web server for everybody
_SEEN = "CUDA_VISIBLE_DEVICES"
STARTING = 120  # for processes on this machine


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run's facts say of its workers, so that it goes on alike.

    Attributes:
        window: how many policies may be under way at once.
        finished: whether trials are told as they come, and not in the order of their asks.
        threads: of torch in each worker; 0 where evaluations are made by the search itself.
    """

    window: int = 1
    finished: bool = False
    threads: int = 0

    @classmethod
    def of(cls, facts: Facts) -> Terms:
        """Those of a run that was begun."""
        return cls(**facts.get(KEY, {}))


class Crew:
    """Workers that were reached, and the pool that they make once they know the study.

    Attributes:
        asked: what was asked for.
        count: how many there were at first.
    """

    def __init__(self, asked: Workers, client: Client) -> None:
        self.asked, self._client = asked, client
        self.count = len(_addresses(client))
        self._pool: Pool | None = None
        self._name = f"autoprune-{uuid.uuid4().hex[:12]}"  # others may search with the same cluster

    def facts(self) -> dict[str, Any]:
        """What a run that begins now is to remember of them."""
        threads = self.asked.threads or (1 if self.asked.cluster else max(1, (os.cpu_count() or 1) // self.count))
        window = self.asked.window or self.count
        return {KEY: {"window": window, "finished": self.asked.order == "finished", "threads": threads}}

    def equip(self, study: Study, facts: Facts, folder: Path | None = None, watch: Watch = silent) -> Pool:
        """Have every worker build the study, and take up weights that were trained into `folder`; returns the pool.

        Raises ConfigError naming the first worker that cannot. Workers that come later are asked to when they come.
        """
        from autoprune.runs.pool import Pool

        weights = _weights(study, folder)
        if self._pool is None or weights:
            self.dismiss()
            supply = self._name, str(folder or ""), json.dumps(weights)
            self._ask(study, facts, supply, watch)
            costs = study.costs.items()
            self._pool = Pool(self._client, lambda policy: {n: float(c.predict(policy)) for n, c in costs}, supply)
            self._pool.start()
        return self._pool

    def inspected(self, study: Study, facts: Facts) -> list[dict[str, Any]]:
        """What each worker is, once it has built `study`, of which these `facts` were found.

        Raises ConfigError naming the first that cannot.
        """
        try:
            return self._ask(study, {**facts, **self.facts()}, (self._name, "", "{}"), silent)
        finally:
            self._forget()

    def _ask(self, study: Study, facts: Facts, supply: tuple[str, str, str], watch: Watch) -> list[dict[str, Any]]:
        """Have every worker build the study; what each says of itself."""
        from autoprune.runs import remote

        said = self._text(study, facts, remote.versions())
        with _told("its workers cannot be told the study"):
            self._client.register_plugin(remote.Evaluates(self._name, said), name=self._name)
        addresses = _addresses(self._client)
        asked = {a: self._client.submit(remote.ready, *supply, workers=[a], pure=False) for a in addresses}
        watch(f"{len(addresses)} workers build the study", 0, 1)
        found = list[dict[str, Any]]()
        for address, answer in asked.items():
            with _told(f"worker {address} cannot evaluate"):
                found.append({"worker": address, **json.loads(answer.result())})
            if error := found[-1].get("error"):
                raise ConfigError(f"worker {address} on {found[-1]['host']} cannot run this study: {error}")
        return found

    @contextlib.contextmanager
    def searching(self, study: Study, run: Run, watch: Watch = silent) -> Iterator[Executor]:
        """Inside, they evaluate for `run`; afterwards they are idle, so that what is measured is not disturbed."""
        if (pool := self._pool) is None or isinstance(study.evaluator, Trains):
            pool = self.equip(study, run.machine, run.directory, watch)
        try:
            yield pool
        finally:
            self.dismiss()

    def dismiss(self) -> None:
        """Send them nothing more, and have them forget the study."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(Exception):  # of a scheduler that is gone
            self._client.unregister_worker_plugin(self._name)

    @property
    def pool(self) -> Pool | None:
        """Where policies are sent; None before workers know the study."""
        return self._pool

    def _text(self, study: Study, facts: Facts, versions: Mapping[str, str]) -> str:
        """What a worker is told, as JSON."""
        if study.config.task.use == GIVEN:
            raise ConfigError("a Task that is made in Python cannot be sent to workers; name one as 'file.py:function'")
        allowed = {code.address: code.digest() for code in named(study.config)}
        threads = Terms.of(facts).threads or 1
        known = {"config": study.config.plain(), "facts": dict(facts), "allowed": allowed, "threads": threads}
        return json.dumps({**known, "versions": dict(versions)})


def inspected(study: Study) -> list[dict[str, Any]]:
    """What this process is as a worker, in which `study` was built, and one policy evaluated. Raises ConfigError."""
    study.attempt(0, study.space.dense())
    here = {"pid": os.getpid(), "host": platform.node(), "python": platform.python_version()}
    versions = {name: importlib.metadata.version(name) for name in ("autoprune", "torch", "numpy")}
    return [
        {"worker": "here", **here, **versions, "threads": torch.get_num_threads(), "device": study.config.search.device}
    ]


@contextlib.contextmanager
def hired(asked: Workers) -> Iterator[Crew | None]:
    """Inside, the workers that were asked for are there; None where none were. Raises ConfigError."""
    if not (asked.local or asked.gpus or asked.cluster):
        yield None
        return
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError("workers need Dask distributed, which is not installed: pip install 'autoprune[cluster]'")
    with contextlib.ExitStack() as opened:
        there = _connected(asked.cluster) if asked.cluster else _local(asked.local, _devices(asked.gpus))
        client = opened.enter_context(there)
        crew = Crew(asked, client)
        opened.callback(crew.dismiss)
        yield crew


@contextlib.contextmanager
def alone(terms: Terms) -> Iterator[Executor]:
    """Inside, this process evaluates, with as many threads as the workers that the run was begun with."""
    before = torch.get_num_threads()
    if terms.threads:
        torch.set_num_threads(terms.threads)
    try:
        yield HERE
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _local(processes: int, devices: Sequence[str]) -> Iterator[Client]:
    """So many processes here, or one for each CUDA device, reached by the loopback alone, without a dashboard."""
    import dask
    from distributed import Client, LocalCluster

    count = len(devices) or processes
    _require_memory(count)
    settings = {
        "distributed.worker.daemon": False,  # a loader of data may start processes of its own
        "distributed.scheduler.worker-ttl": None,  # native code may hold the interpreter for minutes
        "distributed.scheduler.allowed-failures": 0,  # attempts are counted by the pool
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.work-stealing": False,
    }
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(settings), contextlib.ExitStack() as opened:
        with _told(f"{count} workers cannot be started here"):
            cluster = opened.enter_context(
                LocalCluster(
                    n_workers=0, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
                    memory_limit=0, silence_logs=logging.CRITICAL, scheduler_kwargs=_UNSEEN,
                )
            )  # fmt: skip
            cluster.new_spec["options"] |= _UNSEEN
            for place, device in enumerate(devices):  # of the process that is started again after a death, too
                options = cluster.new_spec["options"]
                seen = {"env": {**options.get("env", {}), _SEEN: device}}
                cluster.worker_spec[place] = {**cluster.new_spec, "options": {**options, **seen}}
            cluster.scale(count)
            client = opened.enter_context(Client(cluster, timeout=PATIENCE))
            client.wait_for_workers(count, timeout=STARTING)
        yield client


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    """The scheduler at tcp://HOST:PORT, tls://HOST:PORT, or the one that a scheduler file names."""
    from distributed import Client

    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    by_file = address.endswith(".json")
    if by_file and not Path(address).is_file():
        raise ConfigError(
            f"--cluster {address}: there is no such file; `dask scheduler --scheduler-file FILE` writes it"
        )
    if not by_file and "://" not in address:
        raise ConfigError(f"--cluster {address}: tcp://HOST:PORT, or the name of a scheduler file (.json), is right")
    with contextlib.ExitStack() as opened:
        with _told(f"no scheduler answers at {address}; `dask scheduler` starts one"):
            given: dict[str, Any] = {"scheduler_file": address} if by_file else {"address": address}
            client = opened.enter_context(Client(timeout=PATIENCE, set_as_default=False, **given))
        with _told(f"the scheduler at {address} has no worker; `dask worker {address}` starts one"):
            client.wait_for_workers(1, timeout=PATIENCE)
        yield client


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Inside, what Dask raises is a ConfigError that begins with `what`."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as wrong:
        raise ConfigError(f"{what} ({type(wrong).__name__}: {one_line(wrong)[:200]})") from wrong


def _devices(asked: int | str) -> list[str]:
    """The CUDA devices, as CUDA calls them, that each have a process; none where none are asked for."""
    if not asked:
        return []
    there = torch.cuda.device_count()
    if not there:
        raise ConfigError(f"workers.gpus = {asked!r}: this machine has no CUDA device; local = N takes processors")
    count = there if isinstance(asked, str) else asked
    if count > there:
        raise ConfigError(f"workers.gpus = {asked}: this machine has {there} CUDA devices; gpus = 'all' takes them")
    named = [name for name in os.environ.get(_SEEN, "").split(",") if name.strip()]
    return (named or [str(number) for number in range(there)])[:count]


def _require_memory(count: int) -> None:
    """Raise ConfigError where `count` processes like this one, which holds the study, do not fit."""
    import psutil
    from distributed.system import MEMORY_LIMIT

    each = psutil.Process().memory_info().rss
    free = min(psutil.virtual_memory().available, MEMORY_LIMIT)
    if count * each > free:
        gib = 2**30
        raise ConfigError(
            f"{count} workers need about {count * each / gib:.1f} GiB ({each / gib:.2f} each, as this process), and "
            f"{free / gib:.1f} GiB are free; {max(free // each, 1)} fit"
        )


def _addresses(client: Client) -> list[str]:
    from autoprune.runs import remote

    return sorted(map(str, remote.everybody(client)))


def _weights(study: Study, folder: Path | None) -> dict[str, str]:
    """The sha256 of each file of weights that the evaluator trained for the run in `folder`."""
    from autoprune.runs import remote

    if folder is None or not isinstance(study.evaluator, Trains):
        return {}
    return {
        file.name: remote.sha256(file)
        for file in sorted(folder.glob("*.safetensors"))
        if file.name != "model.safetensors"
    }
