"""One search space under several seeds: mean and spread of what the report says, as a table in Markdown.

    python benchmarks/over_seeds.py search_spaces/resnet20_fashion_mnist.toml --seeds 0 1 2 [--data DIR]

Each seed is a full run (search, equal finetune of every network, one look at the test split), kept under --out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import autoprune
from autoprune.report import words
from autoprune.report.facts import Report, Role
from autoprune.report.words import label

ROLES: dict[Role, str] = {
    "dense": "dense",
    "ours": "searched",
    "uniform": "uniform",
    "rule": "best rule",
    "random": "best of random",
}


def main() -> None:
    """Run every seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("space", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="the data directory, of a task that needs one")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    compare(asked.space, asked.seeds, asked.out, {"task.data": str(asked.data.absolute())} if asked.data else {})


def compare(space: Path, seeds: Sequence[int], out: Path, over: Mapping[str, Any]) -> None:
    """Run every seed, with `over` laid over the search space's settings, then print the table."""
    reports, seconds = [], []
    for seed in seeds:
        begun = time.perf_counter()
        reports.append(autoprune.search(space, seed=seed, out=out, **over).report)
        seconds.append(time.perf_counter() - begun)
        told = [f"{role} {words.shown(reports[-1], network.test)}" for role, network in reports[-1].networks.items()]
        print(f"seed {seed}: {seconds[-1]:.0f} s", *told, flush=True)
    print("\n" + "\n".join(table(reports)))
    print(f"\nseeds {list(seeds)}: mean ± sample standard deviation; {statistics.mean(seconds):.0f} s a run")


def table(reports: Sequence[Report]) -> list[str]:
    """A row for each network, in Markdown: the metric on test and holdout, and the share of each cost, as counted."""
    metric, costs = reports[0].metric_name, list(reports[0].units)
    heads = ["network", f"test {metric}", f"holdout {metric}", "before the finetune", *map(label, costs)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    rows = {name: [r.networks[role] for r in reports if role in r.networks] for role, name in ROLES.items()}
    for name, found in {**rows, "delivered": [r.final for r in reports]}.items():
        ways = ("test", "holdout", "searched")
        scores = [[value for n in found if (value := getattr(n, way)) is not None] for way in ways]
        shares = [[n.costs[c] / reports[0].dense.costs[c] for n in found] for c in costs]
        lines += ["| " + " | ".join([name, *map(spread, (*scores, *shares))]) + " |"] if found else []
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} ± {deviation * 100:.2f}"


if __name__ == "__main__":
    main()
