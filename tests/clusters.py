"""Real clusters on the loopback, and kills at random moments: of workers, of the scheduler, of the search itself.

    python -m tests.clusters 20 1    # so many kills of workers, and the seed of their moments

The commands are those of users: `dask scheduler`, `dask worker`, `autoprune search`, `autoprune resume`. Each kill is
SIGKILL. What a disturbed search asks for must be what an undisturbed one asks for, no trial may be lost or there twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
SLOW = ROOT / "tests" / "assets" / "slow.py"
SPACE = """
name = "slow"
[task]
use = "{file}:make"
[budget]
macs = "50%"
[evaluator]
use = "{file}:{evaluator}"
seconds = {seconds}
[controller]
use = "{controller}"
[search]
trials = {trials}
first = "none"
[workers]
order = "{order}"
window = 2
[finetune]
epochs = 0
[report]
random_trials = 1
"""


def alone() -> dict[str, str]:
    """The surroundings of a process of its own."""
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__DAEMON": "false"}
    return {**os.environ, **more}


def space(folder: Path, **changes: object) -> Path:
    """A search space's file."""
    usual = {
        "file": SLOW,
        "evaluator": "Slow",
        "seconds": 0.3,
        "controller": "evolution",
        "trials": 30,
        "order": "asked",
    }
    path = folder / "slow.toml"
    path.write_text(SPACE.format(**{**usual, **changes}))
    return path


@dataclass
class Cluster:
    """A scheduler and its workers, each a process as users start it."""

    folder: Path
    scheduler: subprocess.Popen[bytes] | None = None
    nannies: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The scheduler file."""
        return self.folder / "scheduler.json"

    def start(self, workers: int = 2) -> None:
        """Begin anew."""
        self.file.unlink(missing_ok=True)
        host = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file))
        self.scheduler = self._run("scheduler", *host, "--port", "0")
        until = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        for _ in range(workers):
            self.nannies.append(self._run("worker", *host, "--nworkers", "1", "--nthreads", "1", "--memory-limit", "0"))

    def workers(self) -> list[psutil.Process]:
        """The processes that evaluate."""
        found = list[psutil.Process]()
        for nanny in self.nannies:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(nanny.pid).children()
                found += [c for c in children if any("spawn_main" in word for word in c.cmdline())]
        return found

    def stop(self) -> None:
        """End all that is left."""
        for process in [*self.nannies, *([self.scheduler] if self.scheduler else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()
        self.scheduler, self.nannies = None, []

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "cluster.log").open("ab")
        return subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]], env=alone(),
                                cwd=self.folder, stdout=log, stderr=log, start_new_session=True)  # fmt: skip


@contextlib.contextmanager
def started(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Inside, a cluster is there."""
    cluster = Cluster(folder)
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()


def begun(words: Sequence[object]) -> subprocess.Popen[str]:
    """`autoprune` with these words."""
    program = [sys.executable, "-m", "autoprune", *map(str, words)]
    return subprocess.Popen(program, env=alone(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of a process, and what it said on stderr."""
    said = process.communicate(timeout=900)[1]
    assert "Traceback" not in said, said
    return process.returncode, said


def journal(out: Path) -> list[dict[str, Any]]:
    """The lines of the one run below `out`."""
    files = list(out.glob("*/*/trials.jsonl"))
    whole = files[0].read_bytes() if files else b""
    return [json.loads(line) for line in whole.split(b"\n")[1:-1]]


def wait_for(out: Path, trials: int, process: subprocess.Popen[str]) -> None:
    """Until so many trials are in the journal."""
    while sum("seconds" in line for line in journal(out)) < trials:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def told(out: Path) -> list[tuple[int, list[int], object]]:
    """Number, policy and metric of the trials of the run below `out`, each there once, by number."""
    trials = sorted((line for line in journal(out) if "seconds" in line), key=lambda line: line["number"])
    assert [line["number"] for line in trials] == list(range(len(trials))), "one is lost, or there twice"
    return [(line["number"], line["policy"], line.get("metric")) for line in trials]


def run_of(out: Path) -> Path:
    """The directory of the one run below `out`."""
    return next(out.glob("*/*/trials.jsonl")).parent


def kill_workers(cluster: Cluster, process: subprocess.Popen[str], kills: int, seed: int, apart: float) -> int:
    """Kill so many workers at random moments while `process` searches; how many were killed before it ended."""
    dice, made = random.Random(seed), 0
    while made < kills and process.poll() is None:
        time.sleep(dice.uniform(0.0, apart))
        if there := cluster.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                dice.choice(there).send_signal(signal.SIGKILL)
                made += 1
    return made


def main(kills: int, seed: int) -> None:
    """Kill workers of one long search; print what became of it."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = space(folder, trials=8 * kills, seconds=0.4)
        with started(folder) as cluster:
            status, said = ended(begun(["search", file, "--cluster", cluster.file, "--out", folder / "calm"]))
            assert status == 0, said
            process = begun(["search", file, "--cluster", cluster.file, "--out", folder / "killed"])
            wait_for(folder / "killed", 1, process)
            made = kill_workers(cluster, process, kills, seed, apart=6.0)
            status, said = ended(process)
            assert status == 0, said
        calm, found = told(folder / "calm"), told(folder / "killed")
        failed = [number for number, _, metric in found if metric is None]
        assert len(found) == len(calm)
        same = next((at for at, (one, other) in enumerate(zip(calm, found, strict=True)) if one != other), len(calm))
        facts = {"kills": made, "trials": len(found), "failed": len(failed), "alike_up_to": same}
        sys.stdout.write(json.dumps({**facts, "seconds": round(time.monotonic() - begin)}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
