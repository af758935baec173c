"""How far from the best network of a space controllers end, where all of its networks were trained.

    python benchmarks/nas_bench_macro.py FILE [--controllers random switch ...] [--seeds 20] [--evaluations 100]

FILE is nas-bench-macro_cifar10.json of NAS-Bench-Macro (Su et al. 2021, https://arxiv.org/abs/2103.11922): 6,561
networks of eight layers, each skipped, small or large, trained three times on CIFAR-10. Controllers search under half
of the largest one's FLOPs, which need not be used up, on the accuracies of one training; their best is judged by the
mean of the other two, against the largest such mean under that budget. Differences below 0.15 points are noise. Nothing
begins with rankings: there are no weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from fitted import SLOW
from numpy.typing import NDArray
from search_pays import better

from autoprune import plugins
from autoprune.controllers.rules import RULES
from autoprune.errors import Exhausted
from autoprune.values.budget import Budget, FromMany, Limit
from autoprune.values.space import Choice, SearchSpace
from autoprune.values.terms import Floats, Rows
from autoprune.values.trial import Outcome, Trial

Allowed = NDArray[np.bool_]  # (networks,)
LAYERS, SHARE, TRAININGS = 8, 0.5, 3
SPACE = SearchSpace("macro", tuple(Choice(f"layer{at}", (1, 2, 3), kind="operator") for at in range(LAYERS)))


@dataclass(frozen=True)
class Tabulated(FromMany):
    """FLOPs by the table, one a network."""

    unit: ClassVar[str] = "FLOP"

    flops: Floats

    def predict_many(self, rows: Rows) -> Floats:
        """As `PredictsMany.predict_many`."""
        found: Floats = self.flops[places(rows)]
        return found


def places(rows: Rows) -> NDArray[np.int64]:
    """Where networks of these levels, (..., layers), stand in the table's order."""
    found: NDArray[np.int64] = (rows - 1) @ 3 ** np.arange(LAYERS)[::-1]
    return found


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--controllers", nargs="+", default=[n for n in plugins.OURS["controller"] if n not in SLOW])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=100)
    asked = parser.parse_args()
    table = json.loads(asked.file.read_text())
    names = sorted(table)
    accuracy = np.array([table[name]["test_acc"] for name in names])  # (networks, trainings)
    cost = Tabulated(np.array([table[name]["flops"] for name in names], dtype=np.float64))
    most = SHARE * cost.predict(SPACE.dense())
    budget = Budget(SPACE, (Limit("flops", cost, most),), fill=False)
    admitted, chance = cost.flops <= most, list[float]()
    print(f"{admitted.sum():,} of {len(names):,} networks have at most {most:,.0f} FLOPs")
    print("| controller | regret, points | median | p against random |\n|---|---|---|---|")
    for name in ["random", *(n for n in asked.controllers if n != "random")]:
        found = [regret(name, seed, budget, accuracy, admitted, asked.evaluations) for seed in range(asked.seeds)]
        chance = chance or found
        p = better([-value for value in found], [-value for value in chance]) if name not in ("random", *RULES) else ""
        print(f"| {name} | {spread(found)} | {statistics.median(found):.3f} | {p} |", flush=True)


def regret(
    name: str, seed: int, budget: Budget, accuracy: Floats, admitted: NDArray[np.bool_], evaluations: int
) -> float:
    """By how many points the best of a search is below the best there is, each in trainings that it did not see."""
    controller = plugins.build("controller", {"use": name}, space=SPACE, budget=budget, seed=seed)
    shown = seed % TRAININGS
    judged = np.delete(accuracy, shown, axis=1).mean(axis=1)
    best, cost = (-1.0, 0), budget.limits[0].cost
    for number in range(evaluations):
        try:
            policy = controller.ask()
        except Exhausted:  # of a rule
            break
        at = int(places(np.array(policy.levels)))
        score = float(accuracy[at, shown]) / 100
        controller.tell(Trial(number, policy, Outcome(score, (score,), {"flops": cost.predict(policy)})))
        best = max(best, (score, at))
    return float(judged[admitted].max() - judged[best[1]])


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
