"""Which controller finds the best policies in how many trials, on real scores of real networks.

    python benchmarks/search_pays.py --data DIR [--networks resnet20 resnet56 fashion] [--budgets 50% 30%]
        [--controllers random evolution switch+ ...] [--seeds 0 1 2] [--trials 100] [--json FILE] [--plot FILE.svg]
        [--quick]
    python benchmarks/search_pays.py --draw FILE.json [FILE.json ...] --plot FILE.svg

Every controller searches the same landscape, the holdout top-1 that `reconstruct` gives (1,000 images, nothing is
trained), seed after seed, all controllers of a seed one after the other. `NAME+` begins with rankings, `NAME` does not,
whatever its default. The best policy of each search is recovered once more without short cuts and scored on the test
split. The table has means and standard deviations over seeds, the p of exact one-sided Mann-Whitney tests that a
controller's best scores are better than those of random search at as many trials, and in how many trials it reached the
best that random search with the same seed had in all of its own (one more than there were where it never did). The plot
has the best metric against seconds, a picture for each network and budget: mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from autoprune import config, plugins
from autoprune.protocols import Controller, SavesTime
from autoprune.runs import firsts, study
from autoprune.runs.study import Study
from autoprune.values.space import Policy

CONTROLLERS = ("random", "evolution", "evolution+", "cmaes+", "switch", "switch+", "knapsack", "knapsack+")
AT = (25, 50, 100, 200, 400)
REACHED = "trials to random's best"
Row = dict[str, Any]


def main() -> None:
    """Search, print the tables, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="", help="the directory of CIFAR-10 and its networks")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--budgets", nargs="+", default=["50%"], help="of the MACs")
    parser.add_argument("--controllers", nargs="+", default=CONTROLLERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--plot", type=Path, help="where the picture goes, an SVG")
    parser.add_argument(
        "--draw", type=Path, nargs="+", help="rows of earlier runs, of which the picture is; nothing runs"
    )
    parser.add_argument("--quick", action="store_true", help="two seeds of 25 trials on the network in the package")
    asked = parser.parse_args()
    if asked.quick:
        asked.networks, asked.seeds, asked.trials = ["fashion"], [0, 1], 25
    rows: list[Row] = [row for path in asked.draw or () for row in json.loads(path.read_text())]
    for network in () if asked.draw else asked.networks:
        for budget in asked.budgets:
            found = list(searches(network, budget, asked.controllers, asked.seeds, asked.trials, asked.data))
            print("\n".join(table(found, asked.controllers, asked.trials)), flush=True)
            rows += found
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1))
    if asked.plot:
        plot(rows, asked.plot)


def landscape(network: str, budget: str, trials: int, data: str) -> Study:
    """What is searched: `network`, under a `budget` of its MACs."""
    task = {"use": "fashion_mnist"} if network == "fashion" else {"use": "cifar10", "model": network, "data": data}
    tables = {
        "name": network,
        "task": task,
        "budget": {"macs": budget},
        "evaluator": {"use": "reconstruct", "holdout": 1000},
        "search": {"trials": trials, "first": "rankings"},
    }
    return study.build(config.parse(tables, "a benchmark"))


def searches(
    network: str, budget: str, controllers: Sequence[str], seeds: Sequence[int], trials: int, data: str
) -> Iterator[Row]:
    """A row for each metric of each search."""
    of = landscape(network, budget, max(trials, study.PAYS), data)
    first = firsts.known(firsts.found(of))
    uniform = of.attempt(0, first[0])  # prepares the evaluator, too
    print(f"\n{network} at {budget} of the MACs: uniform {uniform.metric:.4f}, test {tested(of, first[0]):.4f}")
    print("rankings", *(f"{of.attempt(0, policy).metric or 0:.4f}" for policy in first[1:]), flush=True)
    for seed in seeds:
        random: list[tuple[float, Policy]] = []
        for name in controllers:
            kind = {"network": network, "method": name, "budget": budget, "seed": seed}
            made = plugins.build("controller", {"use": name.rstrip("+")}, space=of.space, budget=of.budget, seed=seed)
            begun = time.perf_counter()
            best = searched(of, made, first if name.endswith("+") else [], trials)
            seconds = time.perf_counter() - begun
            yield from ({**kind, "metric": f"best of {at}", "value": best[at - 1][0]} for at in AT if at <= trials)
            yield {**kind, "metric": "test, untrained", "value": tested(of, best[-1][1])}
            yield {**kind, "metric": "seconds", "value": seconds}
            random = best if name == "random" else random
            if random:
                yield {**kind, "metric": REACHED, "value": needed(best, random[-1][0])}
            print(f"seed {seed}, {name}: {best[-1][0]:.4f} in {seconds:.0f} s", flush=True)


def needed(best: Sequence[tuple[float, Policy]], wanted: float) -> int:
    """Trials until the best metric was at least `wanted`; one more than there were where it never was."""
    return next((at for at, (metric, _) in enumerate(best, 1) if metric >= wanted), len(best) + 1)


def searched(of: Study, controller: Controller, first: Sequence[Policy], trials: int) -> list[tuple[float, Policy]]:
    """The best metric, and its policy, after each trial."""
    best: list[tuple[float, Policy]] = []
    for number in range(trials):
        policy = first[number] if number < len(first) else controller.ask()
        trial = of.attempt(number, policy)
        controller.tell(trial)
        found = (trial.metric or 0.0, policy)
        best.append(max(best[-1], found, key=lambda pair: pair[0]) if best else found)
    return best


def tested(of: Study, policy: Policy) -> float:
    """Top-1 on the test split, recovered without short cuts and not trained."""
    evaluator = of.evaluator.careful() if isinstance(of.evaluator, SavesTime) else of.evaluator
    return of.task.quality(evaluator.recover(evaluator.realise(policy)).model.eval(), of.task.test)


def table(rows: Sequence[Row], controllers: Sequence[str], trials: int) -> list[str]:
    """In Markdown, a row for each controller."""
    metrics = [*(f"best of {at}" for at in AT if at <= trials), "test, untrained", "seconds"]
    values = {
        name: {m: [row["value"] for row in rows if row["method"] == name and row["metric"] == m] for m in metrics}
        for name in controllers
    }
    against = [f"p, {m}" for m in metrics[:-2]]
    lines = ["| " + " | ".join(["controller", *metrics, *against, f"{REACHED} (median)"]) + " |"]
    lines.append("|---" * (len(metrics) + len(against) + 2) + "|")
    for name, of in values.items():
        other = values.get("random", {})
        p = ["" if name == "random" or not other else better(of[m], other[m]) for m in metrics[:-2]]
        reached = [row["value"] for row in rows if row["method"] == name and row["metric"] == REACHED]
        median = f"{statistics.median(reached):g}" if reached else ""
        shown = [spread(of[m], 1 if m == "seconds" else 4) for m in metrics]
        lines.append("| " + " | ".join([name, *shown, *p, median]) + " |")
    return lines


def plot(rows: Sequence[Row], path: Path) -> None:
    """The best metric against seconds, which trials share evenly."""
    places = list(dict.fromkeys((row["network"], row["budget"]) for row in rows))
    figure = Figure(figsize=(4.6 * len(places), 3.6), layout="constrained")
    for axes, (network, budget) in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        here = [row for row in rows if (row["network"], row["budget"]) == (network, budget)]
        for name in dict.fromkeys(row["method"] for row in here):
            of = {m: [r["value"] for r in here if (r["method"], r["metric"]) == (name, m)] for m in _metrics(here)}
            points = [at for at in AT if of.get(f"best of {at}")]
            each = statistics.mean(of["seconds"]) / points[-1]
            best = [of[f"best of {at}"] for at in points]
            bars = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in best]
            seconds = [each * at for at in points]
            axes.errorbar(seconds, [statistics.mean(b) for b in best], bars, label=name, marker="o", capsize=3)
        axes.set_title(f"{network}, {budget} of the MACs", fontsize=10)
        axes.set_xlabel(f"seconds of search ({', '.join(map(str, points))} trials)", fontsize=8)
        axes.set_ylabel("best on the holdout, untrained")
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def _metrics(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in rows))


def better(ours: Sequence[float], others: Sequence[float]) -> str:
    """The p of an exact one-sided Mann-Whitney test."""
    return f"{mannwhitneyu(ours, others, alternative='greater', method='exact').pvalue:.3f}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
