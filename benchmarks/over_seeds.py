"""One search space under several seeds: mean and spread of what the report says, as a table in Markdown.

    python benchmarks/over_seeds.py search_spaces/resnet20_fashion_mnist.toml --seeds 0 1 2

Each seed is a full run (search, equal finetune of every network, one look at the test split), kept under --out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import autoprune

ROLES = {"dense": "dense", "ours": "searched", "uniform": "uniform", "random": "best of random"}


def main() -> None:
    """Run every seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("space", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    seconds = []
    for seed in asked.seeds:
        begun = time.perf_counter()
        report = autoprune.search(asked.space, seed=seed, out=asked.out).report
        seconds.append(time.perf_counter() - begun)
        for role, network in report.networks.items():
            share = network.costs["macs"] / report.dense.costs["macs"]
            rows.setdefault(role, []).append((network.test, network.holdout, share))
        told = [f"{role} {network.test:.4f}" for role, network in report.networks.items()]
        print(f"seed {seed}: {seconds[-1]:.0f} s", *told, flush=True)
    print("\n| network | test top-1 | holdout top-1 | MACs |\n|---|---|---|---|")
    for name, found in rows.items():
        test, holdout, macs = zip(*found, strict=True)
        print(f"| {ROLES[name]} | {spread(test)} | {spread(holdout)} | {max(macs):.2%} |")
    print(f"\nseeds {asked.seeds}: mean ± sample standard deviation; {statistics.mean(seconds):.0f} s a run")


def spread(values: tuple[float, ...]) -> str:
    """Mean and sample standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} ± {deviation * 100:.2f}"


if __name__ == "__main__":
    main()
