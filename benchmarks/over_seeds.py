"""One search space under several seeds and budgets: mean and spread of what the reports say, as tables in Markdown.

    python benchmarks/over_seeds.py search_spaces/resnet20_fashion_mnist.toml --seeds 0 1 2 [--data DIR]
        [--budgets 70% 50% 30% 20% 10% latency=60%] [--epochs E] [--trials N] [--max-sparsity S]
        [--json FILE] [--plot FILE.svg] [--quick]

Each seed is a full run (search, equal finetune of every network, one look at the test split), kept under --out. Below
the table of a budget stand the p of exact one-sided Wilcoxon tests, seed against the same seed, that what was searched
and what was delivered ends higher on test than uniform and the best of random. The plot: points over uniform.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import wilcoxon

import autoprune
from autoprune.report import words
from autoprune.report.facts import Network, Report, Role
from autoprune.report.words import label

ROLES: dict[Role, str] = {
    "dense": "dense",
    "ours": "searched",
    "uniform": "uniform",
    "rule": "best rule",
    "random": "best of random",
}


def main() -> None:
    """Run every budget and seed, print a table for each budget, write rows and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("space", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--budgets", nargs="+", default=[""], help="SHARE of the MACs, or COST=SHARE (default: the file's)"
    )
    parser.add_argument("--epochs", type=float, help="of the finetune (default: what the file says)")
    parser.add_argument("--trials", type=int, help="of each search (default: what the file says)")
    parser.add_argument("--max-sparsity", type=float, help="of every choice (default: what the file says)")
    parser.add_argument("--data", type=Path, help="the data directory, of a task that needs one")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--plot", type=Path, help="where the picture goes, an SVG")
    parser.add_argument("--quick", action="store_true", help="two seeds of 10 trials and 20 steps")
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds, asked.trials, asked.epochs = [0, 1], 10, 0.05
    over: dict[str, Any] = {"report.fidelity": 0, "report.sensitivity": 0}  # what is not looked at here
    over |= {"task.data": str(asked.data.absolute())} if asked.data else {}
    settings = {
        "finetune.epochs": asked.epochs,
        "search.trials": asked.trials,
        "space.max_sparsity": asked.max_sparsity,
    }
    over |= {key: value for key, value in settings.items() if value is not None}
    found: dict[str, list[Report]] = {}
    for budget in asked.budgets:
        found[budget] = compare(asked.space, asked.seeds, asked.out, {**over, **ceiling(budget)})
        if asked.json:
            asked.json.write_text(json.dumps([row for of in found.items() for row in rows(*of)], indent=1))
        if asked.plot:
            plot(found, asked.plot)


def ceiling(budget: str) -> dict[str, Any]:
    """The settings of a budget such as "50%" (of the MACs) or "latency=60%"; none for what the file says."""
    cost, _, value = budget.rpartition("=")
    return {"budget": {cost or "macs": value}} if budget else {}


def compare(space: Path, seeds: Sequence[int], out: Path, over: Mapping[str, Any]) -> list[Report]:
    """Run every seed, with `over` laid over the search space's settings, then print the table."""
    reports, seconds = [], []
    for seed in seeds:
        begun = time.perf_counter()
        reports.append(autoprune.search(space, seed=seed, out=out, **over).report)
        seconds.append(time.perf_counter() - begun)
        told = [f"{role} {words.shown(reports[-1], network.test)}" for role, network in reports[-1].networks.items()]
        print(f"seed {seed}: {seconds[-1]:.0f} s", *told, f"delivered {reports[-1].delivered}", flush=True)
    asked = ", ".join(f"{limit.cost} {limit.asked}" for limit in reports[0].limits)
    print("\n".join(["", asked, "", *table(reports), "", *tests(reports)]))
    steps, took = reports[0].finetune["steps"], statistics.mean(seconds)
    print(
        f"\nseeds {list(seeds)}: mean ± sample standard deviation; {steps} steps of finetuning; {took:.0f} s a run\n",
        flush=True,
    )
    return reports


def ends(reports: Sequence[Report]) -> dict[str, list[Network]]:
    """The networks of every run, by what they are called here; those that every run has."""
    named = {name: [r.networks[role] for r in reports if role in r.networks] for role, name in ROLES.items()}
    return {name: of for name, of in {**named, "delivered": [r.final for r in reports]}.items() if of}


def rows(budget: str, reports: Sequence[Report]) -> Iterator[dict[str, Any]]:
    """A row for each number."""
    for name, of in ends(reports).items():
        for r, network in zip(reports, of, strict=True):
            for way in ("searched", "holdout", "test"):
                kind = {"network": r.task, "method": name, "budget": budget or "file", "seed": r.seed, "metric": way}
                yield {**kind, "value": getattr(network, way)}


def gains(reports: Sequence[Report], name: str, other: str) -> list[float]:
    """By how much one network is better than another on test, seed by seed."""
    found = ends(reports)
    pairs = zip(found.get(name, ()), found.get(other, ()), strict=True)
    return [gain for one, two in pairs if (gain := words.less(one.test, two.test)) is not None]


def tests(reports: Sequence[Report]) -> Iterator[str]:
    """Whether ours ends higher than the baselines on test; a tie in every seed is no evidence, p = 1."""
    for name in ("searched", "delivered"):
        for other in ("uniform", "best of random"):
            of = gains(reports, name, other)
            p = wilcoxon(of, alternative="greater", method="exact").pvalue if any(of) else 1.0
            yield f"{name} over {other}: {spread(of)}, p = {p:.3f}"


def plot(found: Mapping[str, Sequence[Report]], path: Path) -> None:
    """What each network gains over uniform on test, in points, by budget: mean and standard deviation over seeds."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    found = dict(sorted(found.items(), key=lambda of: float(of[0].rpartition("=")[2].rstrip("%") or 0), reverse=True))
    names = [name for name in ends(next(iter(found.values()))) if name not in ("dense", "uniform")]
    for at, name in enumerate(names):
        points = [[100 * gain for gain in gains(of, name, "uniform")] for of in found.values()]
        places = [place + 0.06 * (at - len(names) / 2) for place in range(len(found))]
        bars = [statistics.stdev(of) if len(of) > 1 else 0.0 for of in points]
        axes.errorbar(places, [statistics.mean(of) for of in points], bars, label=name, marker="o", capsize=3)
    axes.axhline(0.0, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_xlabel("budget, of the dense network's MACs unless it is said")
    axes.set_ylabel("points over uniform on test")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def table(reports: Sequence[Report]) -> list[str]:
    """A row for each network, in Markdown: the metric on test and holdout, and the share of each cost, as counted."""
    metric, costs = reports[0].metric_name, list(reports[0].units)
    heads = ["network", f"test {metric}", f"holdout {metric}", "before the finetune", *map(label, costs)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in ends(reports).items():
        ways = ("test", "holdout", "searched")
        scores = [[value for n in found if (value := getattr(n, way)) is not None] for way in ways]
        shares = [[n.costs[c] / reports[0].dense.costs[c] for n in found] for c in costs]
        lines.append("| " + " | ".join([name, *map(spread, (*scores, *shares))]) + " |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, in percent; nothing of nothing."""
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2%} ± {deviation * 100:.2f}"


if __name__ == "__main__":
    main()
