"""MetaPruning's experiment on ResNet-20 and CIFAR-10: shared weights, searches, and every winner trained from scratch.

    python benchmarks/metapruning.py --data DIR [--json FILE]   DIR holds CIFAR-10 and resnet20_cifar10.safetensors
    python benchmarks/metapruning.py --data DIR --quick         a little of everything, in under two minutes

Everything that is made lies below --out, and what lies there from the same recipe is not made again: the same command
goes on after a stop.
Jobs run --jobs at a time with an equal share of the processors; how many candidates are scored a second is measured
alone, in the end. The test split is read for the policies that were chosen, not by any search.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune import config
from autoprune.files.disk import write_json
from autoprune.protocols import Trains
from autoprune.runs import kendall, loop, study
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.structure.prune import prune
from autoprune.train import Recipe, restart, train
from autoprune.values.space import Policy

SPACE = Path(__file__).parent.parent / "search_spaces" / "resnet20_cifar10_metapruning.toml"
SHARED: dict[str, dict[str, Any]] = {  # evaluators that train weights of their own
    "pruningnet": {"use": "pruningnet", "epochs": 3.0, "lr": 0.02},
    "supernet": {"use": "supernet", "epochs": 1.0, "lr": 0.05},
}
OTHERS: dict[str, dict[str, Any]] = {"recalibrate": {"use": "recalibrate"}, "reconstruct": {"use": "reconstruct"}}
SEARCHES = {  # method -> evaluator, controller
    "metapruning": ("pruningnet", "genetic"),
    "supernet": ("supernet", "genetic"),
    "random": ("pruningnet", "random"),
    "evolution x reconstruct": ("reconstruct", "evolution"),
}
FINETUNED = {  # whose weights a short finetune begins with -> the search that scored with them
    "pruningnet": "metapruning",
    "supernet": "supernet",
    "reconstruct": "evolution x reconstruct",
}
FINETUNE = {"epochs": 0.25, "lr": 0.02}
UNIFORM, DRAWN = "uniform", 1000  # the second: seed of the width vectors for the rank correlation
HOLDOUT, TIMED = 1000, 50  # images that score a candidate, and candidates that are timed
Kept = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is asked for, as every job needs it.

    Attributes:
        data: directory of images and weights.
        out: what is made lies there.
        trials: of a search.
        over: settings of the search space that differ from the file.
        epochs: of shared weights; 0 leaves each its own.
        most: epochs of a finetune, at most.
        threads: of a job.
    """

    data: str
    out: Path
    trials: int
    over: Mapping[str, Any]
    epochs: float
    most: float
    threads: int

    def build(self, budget: float, seed: int, evaluator: Mapping[str, Any], controller: str = UNIFORM) -> Study:
        """The study of one budget and seed; in the precision that was chosen once, so that every job computes alike."""
        torch.set_num_threads(self.threads)
        over = {
            "task.data": self.data,
            "budget.macs": budget,
            "search.seed": seed,
            "evaluator": {"holdout": HOLDOUT, **evaluator},
            "controller": {"use": controller},
        }
        return study.build(config.read(SPACE, {**over, **self.over}), found={"precision": self._precision})

    @property
    def _precision(self) -> str:
        return str(json.loads((self.out / "precision.json").read_text())["precision"])

    def evaluator(self, name: str) -> dict[str, Any]:
        """The settings of an evaluator."""
        settings = dict((SHARED | OTHERS)[name])
        if name in SHARED and self.epochs:
            settings["epochs"] = self.epochs
        return settings

    def folder(self, name: str, seed: int) -> Path:
        """Where shared weights lie."""
        return self.out / f"{name}-s{seed}"


def main() -> None:
    """Train shared weights, search, train every winner, and print what came of it."""
    asked = arguments()
    plan: Plan = asked.plan
    plan.out.mkdir(parents=True, exist_ok=True)
    choose_precision(plan)
    vectors = width_vectors(plan, asked.vectors)
    widths = {b: uniform_widths(plan, b) for b in asked.budgets}
    uniform = {(UNIFORM, b, s): widths[b] for b in asked.budgets for s in asked.seeds}
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        truth = finished(pool, "width vectors", [partial(trained, plan, kept, 0) for kept in vectors])
        finished(pool, "shared weights", [partial(share, plan, name, s) for s in asked.seeds for name in SHARED])
        keys = [(method, b, s) for s in asked.seeds for b in asked.budgets for method in SEARCHES]
        found = finished(pool, "searches", [partial(searched, plan, *key) for key in keys])
        winners = {**uniform, **dict(zip(keys, found, strict=True))}
        rows = finished(pool, "winners", [partial(trained, plan, kept, key[2]) for key, kept in winners.items()])
        judged = dict(zip(winners, rows, strict=True))
        pairs = {
            (name, m, b, s): (name, winners[m, b, s], b, s)
            for name, mine in FINETUNED.items()
            for m in (mine, UNIFORM)
            for b in asked.budgets
            for s in asked.seeds
        }
        rows = finished(pool, "finetuned", [partial(finetuned, plan, *what) for what in pairs.values()])
        after = dict(zip(pairs, rows, strict=True))
    top1 = [row["test_top1"] for row in truth]
    ranks = {name: [ranked(plan, name, seed, vectors, top1) for seed in asked.seeds] for name in (*SHARED, *OTHERS)}
    print("\n".join(tables(plan, asked.seeds, asked.budgets, judged, ranks, top1)))
    print("\n".join(finetunes(plan, asked.seeds, asked.budgets, after)))
    if asked.json:
        asked.json.write_text(json.dumps(as_json(asked.seeds, asked.budgets, judged, ranks), indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with CIFAR-10 and the weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.3, 0.5], help="shares of the MACs")
    parser.add_argument("--trials", type=int, default=1000, help="of each search")
    parser.add_argument("--vectors", type=int, default=12, help="width vectors for the rank correlation")
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/metapruning"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few trials and steps of everything")
    asked = parser.parse_args()
    over: dict[str, Any] = {}
    epochs, most = 0.0, 1.0
    if asked.quick:
        asked.seeds, asked.budgets, asked.trials, asked.vectors = asked.seeds[:1], asked.budgets[-1:], 8, 5
        asked.out, over = asked.out / "quick", {"finetune.epochs": 0.01}
        epochs, most = 0.02, 0.01
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    asked.plan = Plan(str(asked.data.absolute()), asked.out, asked.trials, over, epochs, most, threads)
    return asked


def finished(pool: ProcessPoolExecutor, what: str, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the jobs give, in their order; says how far they are."""
    begun, running = time.perf_counter(), [pool.submit(job) for job in jobs]
    results = []
    for number, one in enumerate(running, start=1):
        results.append(one.result())
        print(f"{what}: {number} of {len(jobs)} after {time.perf_counter() - begun:.0f} s", flush=True)
    return results


def choose_precision(plan: Plan) -> None:
    """Choose once, before anything else runs, in which precision candidates are scored."""
    file = plan.out / "precision.json"
    if not file.exists():
        over = {"task.data": plan.data, "evaluator": {"use": "recalibrate"}, "controller": {"use": UNIFORM}}
        write_json(file, {"precision": study.build(config.read(SPACE, over)).precision})


def width_vectors(plan: Plan, count: int) -> list[Kept]:
    """Random widths of half of the MACs."""
    built = plan.build(0.5, DRAWN, OTHERS["recalibrate"], "random")
    controller = built.controller()
    return [controller.ask().levels for _ in range(count)]


def uniform_widths(plan: Plan, budget: float) -> Kept:
    """The uniform policy."""
    built = plan.build(budget, 0, OTHERS["recalibrate"])
    return built.controller().ask().levels


def share(plan: Plan, name: str, seed: int) -> None:
    """Train shared weights, or go on."""
    folder = plan.folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    plan.build(0.5, seed, plan.evaluator(name)).prepare(folder)


def ready(plan: Plan, name: str, budget: float, seed: int, controller: str = UNIFORM) -> Study:
    """A study whose shared weights are trained."""
    built = plan.build(budget, seed, plan.evaluator(name), controller)
    built.prepare(plan.folder(name, seed))
    return built


def searched(plan: Plan, method: str, budget: float, seed: int) -> Kept:
    """The best widths that a method finds."""
    evaluator, controller = SEARCHES[method]
    built = ready(plan, evaluator, budget, seed, controller)
    directory = plan.out / f"{method.replace(' ', '-')}-{budget:g}-s{seed}"
    with Run(directory, built.config.plain(), built.space) as run:
        best = loop.search(built.controller(), loop.remembering(built.attempt, run), run, trials=plan.trials)
        return best.policy.levels


def trained(plan: Plan, kept: Kept, seed: int) -> dict[str, float]:
    """Test top-1 of a network of those widths after training from scratch, and the share of the MACs that it has."""
    built = plan.build(0.5, seed, OTHERS["recalibrate"])
    task, recipe = built.task, built.finetune

    def make() -> dict[str, float]:
        model = prune(task.model, built.trace, [np.arange(k) for k in kept])
        restart(model, seed)
        train(model, task.train, task.loss, recipe, seed=seed)
        macs = built.costs["macs"].measure(model, task.example) / built.dense["macs"]
        return {"test_top1": task.metric(model, task.test), "macs_kept": macs}

    return once(plan.out / "trained" / f"{'-'.join(map(str, kept))}-s{seed}.json", recipe, make)


def finetuned(plan: Plan, name: str, kept: Kept, budget: float, seed: int) -> dict[str, float]:
    """Test top-1 of those widths with the weights that an evaluator gives them, before and after a short finetune."""
    built = ready(plan, name, budget, seed)
    task = built.task
    steps = math.ceil(min(FINETUNE["epochs"], plan.most) * len(task.train) / built.finetune.batch)
    recipe = dataclasses.replace(built.finetune, steps=steps, lr=FINETUNE["lr"])

    def make() -> dict[str, float]:
        model = built.evaluator.recover(built.evaluator.realise(Policy(kept))).model
        before = task.metric(model, task.test)
        train(model, task.train, task.loss, recipe, seed=seed)
        return {"before": before, "after": task.metric(model, task.test)}

    return once(plan.out / "finetuned" / f"{name}-{'-'.join(map(str, kept))}-s{seed}.json", recipe, make)


def once(file: Path, recipe: Recipe, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `make` gives, or what it gave before and lies in `file`, if that was by the same recipe."""
    about = dataclasses.asdict(recipe)
    if file.exists() and (found := json.loads(file.read_text()))["recipe"] == about:
        row: dict[str, float] = found["row"]
        return row
    row = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"recipe": about, "row": row})
    return row


def ranked(plan: Plan, name: str, seed: int, vectors: Sequence[Kept], truth: Sequence[float]) -> dict[str, Any]:
    """How far an evaluator puts the width vectors in the order of training from scratch, and how fast it scores."""
    built = ready(plan, name, 0.5, seed, "random")
    torch.set_num_threads(os.cpu_count() or 1)
    controller, seconds = built.controller(), []
    attempt = loop.attempting(built.evaluator, {}, lambda metric, costs, dense: metric, {})
    scores = [attempt(number, Policy(kept)).metric or 0.0 for number, kept in enumerate(vectors)]
    for _ in range(min(TIMED, plan.trials)):
        policy, begun = controller.ask(), time.perf_counter()
        attempt(0, policy)
        seconds.append(time.perf_counter() - begun)
    found = kendall.measure(scores, truth, seed)
    cost = built.evaluator.seconds if isinstance(built.evaluator, Trains) else 0.0
    return {"tau": found.tau, "recall": found.recall, "per_second": 1 / statistics.median(seconds), "training": cost}


def tables(
    plan: Plan,
    seeds: Sequence[int],
    budgets: Sequence[float],
    judged: Mapping[tuple[str, float, int], Mapping[str, float]],
    ranks: Mapping[str, Sequence[Mapping[str, Any]]],
    truth: Sequence[float],
) -> Iterable[str]:
    """What came of it, in Markdown."""
    yield "\n| method | " + " | ".join(f"test top-1, {b:.0%} of the MACs" for b in budgets) + " |"
    yield "|---" * (1 + len(budgets)) + "|"
    for method in (UNIFORM, *SEARCHES):
        cells = [spread([judged[method, b, s]["test_top1"] for s in seeds]) for b in budgets]
        yield f"| {method} | " + " | ".join(cells) + " |"
    yield "\n| evaluator | training, s | candidates a second | Kendall's tau | best tenth found |"
    yield "|---" * 5 + "|"
    for name, rows in ranks.items():
        taus = [row["tau"] for row in rows if row["tau"] is not None]
        cells = [mean(rows, "training", "{:.0f}"), mean(rows, "per_second", "{:.1f}")]
        yield f"| {name} | {cells[0]} | {cells[1]} | {number(taus)} | {mean(rows, 'recall', '{:.0%}')} |"
    yield (
        f"\nSeeds {list(seeds)}, {plan.trials} trials a search: mean ± sample standard deviation. Kendall's tau with "
        f"test top-1 after the same training from scratch, over {len(truth)} random width vectors of half of the MACs, "
        f"whose test top-1 lies between {min(truth):.2%} and {max(truth):.2%}."
    )


def finetunes(
    plan: Plan,
    seeds: Sequence[int],
    budgets: Sequence[float],
    after: Mapping[tuple[str, str, float, int], Mapping[str, float]],
) -> Iterable[str]:
    """What the widths are worth with the weights that they were scored with, in Markdown."""
    heads = [f"{b:.0%} of the MACs, {when}" for b in budgets for when in ("as scored", "finetuned")]
    yield "\n| weights | widths | " + " | ".join(heads) + " |"
    yield "|---" * (2 + len(heads)) + "|"
    for name, mine in FINETUNED.items():
        for method in (UNIFORM, mine):
            values = [[after[name, method, b, s][when] for s in seeds] for b in budgets for when in ("before", "after")]
            yield f"| {name} | {method} | " + " | ".join(map(spread, values)) + " |"
    epochs = min(FINETUNE["epochs"], plan.most)
    yield f"\nTest top-1; finetuned for {epochs:g} epochs at a learning rate of {FINETUNE['lr']:g}."


def as_json(
    seeds: Sequence[int],
    budgets: Sequence[float],
    judged: Mapping[tuple[str, float, int], Mapping[str, float]],
    ranks: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """The figures for programs."""
    methods: dict[str, Any] = {
        method: {
            f"{b:g}": {
                "test_top1": [judged[method, b, s]["test_top1"] for s in seeds],
                "macs_kept": max(judged[method, b, s]["macs_kept"] for s in seeds),
            }
            for b in budgets
        }
        for method in (UNIFORM, *SEARCHES)
    }
    taus = [row["tau"] for row in ranks["pruningnet"] if row["tau"] is not None]
    return {**methods, "tau": statistics.mean(taus) if taus else None}


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} ± {100 * deviation:.2f}"


def number(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of what may not be defined."""
    if not values:
        return "not defined"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


def mean(rows: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """The mean of one figure over seeds."""
    return form.format(statistics.mean(row[key] for row in rows))


if __name__ == "__main__":
    main()
