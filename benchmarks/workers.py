"""What many workers are worth: trials a second, efficiency, what order "asked" costs, and what asynchrony costs.

    python benchmarks/workers.py [--quick] [--journal RUN/trials.jsonl] [--seconds 20] [--space FILE --data DIR]

1. With --space: trials a second of one process with two threads, and of 1 and 2 local workers with a thread each.
2. Efficiency of 1 to 64 workers of Dask that sleep, and load no torch, through the real pool, loop and journal. They
   sleep as long as the trials of a journal took (--journal, of a run with `finetune`; else TIMES), stretched to a
   median of --seconds. It is the share of the workers' time, from the first policy that is sent to the last, in which
   they evaluate. Workers are threads of this process, unless --processes is given.
3. The best reward so far, by the number of workers, at equal trials on the surrogate: what asking ahead costs.

Shorter evaluations than users' make every overhead look larger: efficiencies with fewer --seconds are too low.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import config, plugins
from autoprune.runs import loop
from autoprune.runs.journal import Run
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

SPACE = toy_space(28)
BUDGET = half(SPACE)
CONTROLLERS = ("random", "evolution", "ddpg")  # evolution is the default
COUNTS = (1, 2, 4, 8, 16, 64)
EACH = 8  # trials of a worker
# Seconds of 26 trials of a run on Fashion-MNIST (ResNet-20, evaluator finetune of 12 steps, a busy processor), as
# shares of their median, 46.3 s.
TIMES = (1.304, 0.816, 0.908, 0.955, 0.797, 0.894, 0.883, 1.017, 1.132, 1.159, 1.089, 1.064, 0.928, 1.098, 1.012, 1.033,
         0.924, 0.893, 0.783, 0.86, 0.925, 1.104, 1.123, 0.988, 1.153, 1.177)  # fmt: skip
SEEDS, TRIALS = range(5), 240


def slept(journal: Path | None, seconds: float) -> list[float]:
    """How long trials take: as those of a journal, stretched to a median of `seconds`."""
    found: Sequence[float] = TIMES
    if journal is not None:
        lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
        phases = ("prune", "recover", "score")
        found = [sum(line["seconds"][p] for p in phases) for line in lines if "recover" in line.get("seconds", {})]
    middle = statistics.median(found)
    return [one / middle * seconds for one in found]


def ready(name: str, folder: str, hashes: str) -> str:
    """What a sleeper says when it is greeted."""
    return "{}"


def sleeper(times: list[float]) -> Callable[[str, str], str]:
    """What a sleeper does with a policy: nothing that loads torch."""

    def sleep(name: str, text: str) -> str:
        import json
        import time
        import zlib

        asked = json.loads(text)
        spent = times[asked["number"] % len(times)]
        time.sleep(spent)
        entry = {"number": asked["number"], "policy": asked["levels"], "metric": asked["levels"][0] / 64,
                 "values": [asked["levels"][0] / 64], "costs": {}, "seconds": {"score": spent}}  # fmt: skip
        body = json.dumps(entry)[:-1]
        return f'{body}, "crc": "{zlib.crc32(body.encode()):08x}"}}\n'

    return sleep


def efficiency(name: str, workers: int, times: list[float], *, finished: bool, processes: bool) -> dict[str, Any]:
    """Of so many workers that sleep, with a controller."""
    from distributed import Client, LocalCluster

    from autoprune.runs.pool import Desk, Job, Pool

    class Timed(Pool):
        last, spans = 0.0, list[tuple[float, float]]()  # when the last policy came; when each was sent, and its seconds

        def _trial(self, job: Job, line: str, desk: Desk | None) -> Trial:
            trial = super()._trial(job, line, desk)
            self.spans.append((job.sent, trial.seconds["score"]))
            return trial

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            self.last = time.monotonic()
            return super().submit(fn, *args, **kwargs)

    trials = workers * EACH
    made = plugins.build("controller", {"use": name}, space=SPACE, budget=BUDGET, seed=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=None,
                     scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, memory_limit=0, silence_logs=50) as cluster,
        Client(cluster) as client,
        Run(Path(folder) / "run", {"name": "toy"}, SPACE) as run,
    ):  # fmt: skip
        pool = Timed(client, lambda policy: {}, ("toy", "", "{}"), (ready, sleeper(times)))
        pool.start()
        while pool.staff < workers:
            time.sleep(0.05)
        begun = time.monotonic()
        loop.search(made, _never, run, trials=trials, executor=pool, window=workers, finished=finished)
        wall = time.monotonic() - begun
        pool.shutdown()
        found = list(run)
    steady = pool.last - begun
    busy = sum(trial.seconds["score"] for trial in found)
    before = sum(max(0.0, min(pool.last, sent + spent) - sent) for sent, spent in pool.spans)
    asked = statistics.fmean(trial.seconds["ask"] for trial in found)
    told = statistics.fmean(trial.seconds["tell"] + trial.seconds["journal"] for trial in found)
    way = statistics.median(trial.seconds["sent"] for trial in found)
    serial = asked + told
    return {"controller": name, "order": "finished" if finished else "asked", "workers": workers, "trials": trials,
            "wall_s": round(wall, 1), "whole": round(busy / (workers * wall), 3),
            "steady": round(before / (workers * steady), 3),
            "ask_tell_journal_ms": round(1000 * serial, 1), "sent_ms": round(1000 * way, 1),
            "shortest_s_at_64": round(max(64 * serial, 9 * (way + serial)), 2)}  # fmt: skip


def _never(number: int, policy: Policy) -> Trial:
    raise AssertionError("the pool evaluates")


def best_so_far(name: str, workers: int, seed: int, times: list[float], *, finished: bool) -> float:
    """The best reward of `TRIALS` trials on the surrogate, so many of them at once, by a clock of its own."""
    made = plugins.build("controller", {"use": name}, space=SPACE, budget=BUDGET, seed=seed)
    lengths, under_way, kept = (
        np.random.default_rng(seed).choice(times, TRIALS),
        list[tuple[float, int]](),
        dict[int, Trial](),
    )
    asked = told = 0
    now, best = 0.0, float("-inf")
    while told < TRIALS:
        while asked < TRIALS and asked - told < workers:
            kept[asked] = judge(SPACE, asked, made.ask())
            heapq.heappush(under_way, (now + lengths[asked], asked))
            asked += 1
        if finished:
            now, number = heapq.heappop(under_way)
        else:
            number = told
        trial = kept.pop(number)
        made.tell(trial)
        best, told = max(best, trial.reward or 0.0), told + 1
    return best


def local(space: str, data: str, trials: int) -> None:
    """Trials a second of one process with two threads, and of 1 and 2 local workers with one."""
    import torch

    from autoprune.config import Workers
    from autoprune.runs import lifecycle, study, workers

    over = {"search.trials": trials, "search.first": "none", **({"task.data": data} if data else {})}
    asked = config.find(space, over)
    torch.set_num_threads(2)
    built = study.build(asked)
    for count in (0, 1, 2):
        with (
            tempfile.TemporaryDirectory() as folder,
            workers.hired(Workers(local=count, threads=1)) as crew,
            lifecycle.begin(built, Path(folder), crew=crew) as run,
            crew.searching(built, run) if crew else workers.alone(workers.Terms()) as executor,
        ):
            begun = time.monotonic()
            loop.search(built.controller(), built.attempt, run, trials=trials, executor=executor, window=count or 1)
            spent = time.monotonic() - begun
        who = f"{count} workers, 1 thread each" if count else "one process, 2 threads"
        print(json.dumps({"who": who, "trials": trials, "trials_a_second": round(trials / spent, 3)}), flush=True)


def main() -> None:
    """Print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few workers, short sleeps, two seeds")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--controllers", nargs="+", default=CONTROLLERS)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--only", choices=("local", "efficiency", "quality"))
    parser.add_argument("--space", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--trials", type=int, default=20, help="of --space")
    asked = parser.parse_args()
    if asked.quick:
        asked.seconds, asked.counts = min(asked.seconds, 0.5), (1, 4)
    times = slept(asked.journal, asked.seconds)
    facts = {"median_s": statistics.median(times), "least_s": min(times), "most_s": max(times), "times": len(times)}
    print(json.dumps(facts), flush=True)
    if asked.space and asked.only in (None, "local"):
        local(asked.space, asked.data, asked.trials)
    if asked.only in (None, "efficiency"):
        for name in asked.controllers:
            for count in asked.counts:
                for finished in (True, False):
                    done = efficiency(name, count, times, finished=finished, processes=asked.processes)
                    print(json.dumps(done), flush=True)
    if asked.only in (None, "quality"):
        seeds = range(2) if asked.quick else SEEDS
        for name in asked.controllers:
            for count in asked.counts:
                for finished in (True, False):
                    found = [best_so_far(name, count, seed, times, finished=finished) for seed in seeds]
                    said = {"controller": name, "order": "finished" if finished else "asked", "workers": count,
                            "trials": TRIALS, "seeds": len(found), "best": round(statistics.fmean(found), 5),
                            "spread": round(statistics.stdev(found), 5)}  # fmt: skip
                    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
