"""A budget of latency against budgets of MACs: the same network, trials and finetune, latency measured in the end.

    python benchmarks/latency_search.py [--json FILE]      ResNet-20, about ten minutes
    python benchmarks/latency_search.py --data DIR         ResNet-56; DIR holds CIFAR-10 and the weights
    python benchmarks/latency_search.py --quick            a few trials of everything

ResNet-20 on Fashion-MNIST (in the package) or, with --data, ResNet-56 on CIFAR-10, timed on --target. Under a ceiling
of latency, channels are kept in the multiples that the target runs fastest with (step = "auto") but for one row; under
a ceiling of MACs in any number, as one who does not know the target would. All networks of a seed are timed together,
beside the dense one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from autoprune import config
from autoprune.errors import BudgetError
from autoprune.protocols import silent
from autoprune.runs import loop, study
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.runs.verify import Verifier
from autoprune.train import train

SPACES = Path(__file__).parent.parent / "search_spaces"
WAYS: dict[str, dict[str, Any]] = {
    "latency 60 %": {"budget": {"latency": "60%"}},
    "latency 75 %": {"budget": {"latency": "75%"}},
    "MACs 50 %": {"budget": {"macs": "50%"}, "space.step": 1},
    "MACs 35 %": {"budget": {"macs": "35%"}, "space.step": 1},
    "latency 75 %, any width": {"budget": {"latency": "75%"}, "space.step": 1},
}
QUICK = {"evaluator.images": 128, "evaluator.holdout": 200, "search.trials": 6, "finetune.epochs": 0.02}
Row = dict[str, float]


def main() -> None:
    """Every seed with every budget, then one row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="directory with CIFAR-10 and the weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--epochs", type=float, default=0.5, help="of the finetune")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for seed in asked.seeds[:1] if asked.quick else asked.seeds:
        over = {
            **({"task.data": str(asked.data.absolute())} if asked.data else {}),
            "target": {"use": asked.target, "threads": asked.threads},
            "search.seed": seed,
            "search.trials": asked.trials,
            "finetune.epochs": asked.epochs,
            **(QUICK if asked.quick else {}),
        }
        space = SPACES / f"{'resnet56_cifar10' if asked.data else 'resnet20_fashion_mnist'}_latency.toml"
        for way, row in of_seed(space, over, 250 if asked.quick else 10_000).items():
            found.setdefault(way, []).append(row)
            print(f"seed {seed} {way}: " + ", ".join(f"{k} {v:.2%}" for k, v in row.items()), flush=True)
    print("\n" + "\n".join(table(found)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


def of_seed(space: Path, over: dict[str, Any], test: int) -> dict[str, Row]:
    """Search under each budget, finetune, look at the test split once, and time all networks together."""
    rows: dict[str, Row] = {}
    models: list[nn.Module] = []
    cost: Any = None
    for way, differs in WAYS.items():
        begun = time.perf_counter()
        try:
            built = study.build(config.read(space, {**over, **differs}), costs=("latency",))
        except BudgetError as wrong:
            print(f"  {way}: left out, {wrong}", flush=True)
            continue
        cost = cost or built.costs["latency"]
        model, row = searched(built, test)
        rows[way] = row
        models.append(model)
        print(f"  {way}: multiples of {built.step}, {time.perf_counter() - begun:.0f} s", flush=True)
    for way, figure in zip(rows, cost.figures(models), strict=True):
        rows[way] |= {"latency": figure.ratio}
    return rows


def searched(built: Study, test: int) -> tuple[nn.Module, Row]:
    """The network that a search finds, finetuned, and what is known of it."""
    task = built.task
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder), built.config.plain(), built.space) as run:
        loop.search(built.controller(), loop.remembering(built.attempt, run), run, trials=built.config.search.trials)
        best, _ = Verifier(built).best(run, silent)
    model = built.evaluator.recover(built.evaluator.realise(best.policy)).model
    train(model, task.train, task.loss, built.finetune, seed=built.seed, teacher=task.model)
    macs = built.costs["macs"].measure(model, task.example) / built.dense["macs"]
    return model, {
        "holdout_before": best.metric or 0.0,
        "test_top1": task.metric(model, task.test.head(test)),
        "macs": macs,
        "latency_predicted": built.costs["latency"].predict(best.policy) / built.dense["latency"],
    }


def table(found: dict[str, list[Row]]) -> list[str]:
    """Mean and spread over seeds, in Markdown."""
    lines = ["| budget | test top-1 | measured latency | predicted | MACs |", "|---|---|---|---|---|"]
    for way, rows in found.items():
        cells = []
        for key in ("test_top1", "latency", "latency_predicted", "macs"):
            values = [row[key] for row in rows]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.2%} ± {100 * deviation:.2f}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
