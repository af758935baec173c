"""AMC's experiment on ResNet-56 and CIFAR-10: every controller, the same evaluator, the same trials, several seeds.

    python benchmarks/amc_resnet56.py --data DIR [--json FILE]     DIR holds CIFAR-10 and resnet56_cifar10.safetensors
    python benchmarks/amc_resnet56.py --data DIR --quick           a few trials of everything, in under a minute

Searches alternate between controllers within each seed. Each search is a run below --out: one that was stopped goes on
when the same command is given again. The test split is read only for the policies that were chosen, after the searches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune import config
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.sequential import ReconstructSequential
from autoprune.runs import loop, study
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.task import Split
from autoprune.train import train
from autoprune.values.space import Policy

SPACE = Path(__file__).parent.parent / "search_spaces" / "resnet56_cifar10_amc.toml"
RULES = ["uniform", "deep", "shallow"]
SEARCHES = ["random", "evolution", "bayes", "ddpg"]
QUICK = {"evaluator.holdout": 200, "evaluator.images": 128, "evaluator.recalibrate": 128, "finetune.epochs": 0.02}
COLUMNS = {
    "reward": ("reward", "{:.4f}"),
    "test_top1": ("test top-1", "{:.2%}"),
    "test_top1_sequential": ("recovered layer by layer", "{:.2%}"),
    "test_top1_finetuned": ("finetuned", "{:.2%}"),
    "macs_kept": ("MACs kept", "{:.2%}"),
    "seconds": ("seconds", "{:.0f}"),
}


def main() -> None:
    """Search with every controller and seed, then print one row for each controller."""
    asked = arguments()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in asked.seeds:
        over: dict[str, Any] = {"search.seed": seed, "task.data": str(asked.data.absolute())}
        built = study.build(config.read(SPACE, {**over, **asked.over}))
        built.rehearse()
        judgements: dict[Policy, dict[str, float]] = {}  # a policy that several controllers find is judged once
        for name in [*RULES, *asked.controllers]:
            begun = time.perf_counter()
            best, reward, seconds = searched(built, name, asked.trials, asked.out / f"{name}-s{seed}")
            if best not in judgements:
                judgements[best] = judged(built, best, built.task.test.head(asked.test))
            row = {"reward": reward, **judgements[best], "seconds": seconds}
            found.setdefault(name, []).append(row)
            took = time.perf_counter() - begun
            print(f"seed {seed} {name}: " + " ".join(shown(row).values()) + f" ({took:.0f} s in all)", flush=True)
    print(f"\n{table(found)}\n\n{asked.trials} trials a search, seeds {asked.seeds}: mean ± sample standard deviation")
    if asked.json:
        asked.json.write_text(json.dumps({name: {"seeds": rows} for name, rows in found.items()}, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with CIFAR-10 and the weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--controllers", nargs="+", default=SEARCHES)
    parser.add_argument("--out", type=Path, default=Path("runs/amc_resnet56"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few trials on a few images")
    asked = parser.parse_args()
    asked.over, asked.test = (QUICK, 250) if asked.quick else ({}, 10_000)
    if asked.quick:
        asked.seeds, asked.trials, asked.out = asked.seeds[:1], 3, asked.out / "quick"
    return asked


def searched(built: Study, name: str, trials: int, directory: Path) -> tuple[Policy, float, float]:
    """The best policy that controller `name` finds, its reward, and the seconds of all trials."""
    with Run(directory, built.config.plain(), built.space) as run:
        attempt = loop.remembering(built.attempt, run)
        best = loop.search(built.controller(name), attempt, run, trials=trials)
        return best.policy, best.reward or 0.0, sum(sum(trial.seconds.values()) for trial in run)


def judged(built: Study, policy: Policy, test: Split) -> dict[str, float]:
    """Test top-1 as recovered by the search's evaluator, by the slower `reconstruct-sequential` (as AMC's code recovers
    the network that it exports with more samples), and after the short finetune; and the MACs that are left.
    """
    task, recipe, it = built.task, built.finetune, built.evaluator
    assert isinstance(it, Reconstruct)
    better = ReconstructSequential(it.bench, holdout=it.holdout)
    recovered = better.recover(better.realise(policy)).model
    model = it.recover(it.realise(policy)).model
    before = task.metric(model, test)
    train(model, task.train, task.loss, recipe, seed=built.seed, teacher=task.model)
    kept = built.costs["macs"].measure(model, task.example) / built.dense["macs"]
    return {
        "test_top1": before,
        "test_top1_sequential": task.metric(recovered, test),
        "test_top1_finetuned": task.metric(model, test),
        "macs_kept": kept,
    }


def shown(row: Mapping[str, float]) -> dict[str, str]:
    """Each figure as it is printed."""
    return {key: form.format(row[key]) for key, (_, form) in COLUMNS.items()}


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Mean and spread over seeds, in Markdown."""
    lines = [
        "| controller | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for name, rows in found.items():
        cells = []
        for key, (_, form) in COLUMNS.items():
            values = [row[key] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{form.format(statistics.mean(values))} ± {form.format(spread)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
