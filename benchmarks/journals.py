"""How long a journal of very many trials takes to open, in how much memory, and the page of such a run.

    python benchmarks/journals.py [--trials 100000 1000000] [--keep DIR]

A journal is written of random policies of 27 choices (as many as ResNet-56 has) under half of the MACs, with two costs
and six phases of seconds a trial. It is opened as `resume` opens it, every field and cost checked, in a process of its
own; then everything that the report says of its trials is made, thinned, written and drawn. What a controller takes to
hear of them is not counted, nor is the loading of Python's modules.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from autoprune.costs.arithmetic import Macs, Params
from autoprune.report import page
from autoprune.report.facts import ChoiceFacts, Network, Report, TrialFacts
from autoprune.report.thin import thinned
from autoprune.runs import lines
from autoprune.runs.journal import JOURNAL, Run
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Predicts
from autoprune.values.trial import Outcome, Trial, policies_per_second, score_of_all, scored

SPACE = toy_space(27, step=1, width=64)
BUDGET = half(SPACE)
COSTS: Mapping[str, Predicts] = {"macs": Macs(SPACE), "params": Params(SPACE)}
PHASES = ("ask", "prune", "recover", "score", "journal", "tell")
POLICIES = 1000  # different ones
CONFIG = {"name": "toy"}


def write(directory: Path, trials: int) -> None:
    """A run of so many trials."""
    with Run(directory, CONFIG, SPACE):
        pass
    rng = np.random.default_rng(0)
    policies = [BUDGET.fit(SPACE.cube.policy(rng.random(len(SPACE.cube)))) for _ in range(POLICIES)]
    costs = [{name: float(cost.predict(policy)) for name, cost in COSTS.items()} for policy in policies]
    with (directory / JOURNAL).open("ab") as file:
        for number in range(trials):
            metric, *seconds = rng.random(1 + len(PHASES)).tolist()
            outcome = Outcome(metric, (metric,), costs[number % POLICIES])
            spent = dict(zip(PHASES, seconds, strict=True))
            file.write(lines.line(Trial(number, policies[number % POLICIES], outcome, spent)))


def reported(run: Run, directory: Path) -> Report:
    """What a report says of trials, written with its page."""
    dense = {name: float(cost.predict(SPACE.dense())) for name, cost in COSTS.items()}
    row = Network(0.5, 0.5, 0.5, dense, 1, SPACE.dense().levels)
    best = run.best()
    spent: dict[str, float] = {}
    for trial in run:
        for phase, seconds in trial.seconds.items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    report = Report(
        name="toy", task="toy", metric_name="quality", images={"train": 1, "holdout": 1, "test": 1},
        plugins=dict.fromkeys(("controller", "evaluator", "criterion", "reward"), "toy"),
        units={name: cost.unit for name, cost in COSTS.items()}, networks={"dense": row, "ours": row}, limits=(),
        choices=tuple(ChoiceFacts(c.name, c.kind, c.layers, c.dense, c.levels[0], "exact") for c in SPACE),
        frozen=(), random_trials=(), best=best.number,
        seconds={f"search: {p}": s for p, s in spent.items()},
        exports=(), finetune={}, seed=0, versions={}, machine={}, command="", made="", traded="macs",
        trials=tuple(TrialFacts(t.number, t.metric, t.reward, dict(t.costs), t.error) for t in run),
        policies_per_second=policies_per_second(run), scored=scored(run),
        notes=(str(score_of_all(run)), *(trial.error for trial in run if trial.error)),
    )  # fmt: skip
    small = thinned(report)
    page.write(small, directory)
    return small


def measure(directory: Path, out: Connection) -> None:
    """Open the run and report it; send the seconds of both, peaks of memory in MiB, and how many trials are listed."""
    before = _peak()
    begun = _now()
    with Run(directory, CONFIG, SPACE, costs=COSTS, limits=BUDGET.limits) as run:
        opened, held = _now(), _peak()
        listed = len(reported(run, directory).trials)
        ended = _now()
        out.send({"trials": len(run), "open": _between(begun, opened), "report": _between(opened, ended),
                  "listed": listed, "before_mib": before, "open_mib": held, "report_mib": _peak()})  # fmt: skip


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _between(begun: tuple[float, float], ended: tuple[float, float]) -> dict[str, float]:
    """Seconds on the clock, and of this process's work: the machine may be busy."""
    return {name: round(b - a, 2) for name, a, b in zip(("clock_s", "processor_s"), begun, ended, strict=True)}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Print a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--keep", type=Path, help="where journals are kept, and taken up")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for trials in asked.trials:
            directory = (asked.keep or Path(folder)) / str(trials)
            if not (directory / JOURNAL).exists():
                write(directory, trials)
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(directory, there))
            process.start()
            there.close()
            print(json.dumps({"bytes": (directory / JOURNAL).stat().st_size, **here.recv()}), flush=True)
            process.join()


if __name__ == "__main__":
    main()
