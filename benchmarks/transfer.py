"""What a search is worth to another network, data set or budget: is its policy better than none, and trials saved?

    python benchmarks/transfer.py --data DIR [--rows deeper data budget] [--seeds 0 1 2] [--trials 200] [--json FILE]
    python benchmarks/transfer.py --quick       the network in the package only, a minute or two

DIR holds CIFAR-10 and the public ResNets. Every row searches a source, carries its best policy over to a target by
roles, fitted to the target's budget, and compares it there, without a search and not trained, with uniform pruning and
the best of 50 random policies: top-1 on the test split, recovered without short cuts. Then the target is searched cold
(uniform and rankings first) and warm (with the source's best tenth first), and the table says after how many trials the
warm search has reached the cold search's best.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from search_pays import searched, spread, tested

from autoprune import config, plugins
from autoprune.runs import firsts, study
from autoprune.runs.mapped import mapped, placed
from autoprune.runs.study import Study
from autoprune.values.space import Policy

Row = dict[str, Any]
RANDOM = 50
SHARE = 10  # of a source's trials, one in so many begins a warm search
ROWS: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {  # source and target: a network, and of the MACs
    "deeper": (("resnet20", "50%"), ("resnet56", "50%")),
    "data": (("fashion", "50%"), ("resnet20", "50%")),
    "budget": (("resnet56", "50%"), ("resnet56", "30%")),
    "quick": (("fashion", "50%"), ("fashion", "30%")),
}


def main() -> None:
    """Search, carry over, print the table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="", help="the directory of CIFAR-10 and its networks")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=["deeper", "data", "budget"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--controller", default="evolution")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="one seed of 20 trials on the network in the package")
    asked = parser.parse_args()
    if asked.quick:
        asked.rows, asked.seeds, asked.trials = ["quick"], [0], 20
    bench, rows = Bench(asked.data, asked.controller, asked.trials), list[Row]()
    for name in asked.rows:
        rows += [bench.row(name, seed) for seed in asked.seeds]
        print("\n".join(table(name, [row for row in rows if row["row"] == name])), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1))


@dataclasses.dataclass(frozen=True)
class Bench:
    """Studies and searches, each made once.

    Attributes:
        data: the directory of CIFAR-10 and its networks.
        controller: who searches.
        trials: of each search.
    """

    data: str
    controller: str
    trials: int

    def row(self, name: str, seed: int) -> Row:
        """What the source of a row is worth to its target."""
        source, target = ROWS[name]
        of, first = self.study(*target), self.carried(source, target, seed)
        random = plugins.build("controller", {"use": "random"}, space=of.space, budget=of.budget, seed=seed)
        chance = searched(of, random, [], RANDOM if self.trials >= RANDOM else self.trials)[-1]
        cold, warm = self.search(*target, seed), self.search(*target, seed, tuple(first))
        reached = [at for at, (metric, _) in enumerate(warm, 1) if metric >= cold[-1][0]]
        return {
            "row": name,
            "seed": seed,
            "controller": self.controller,
            "trials": self.trials,
            "transferred": tested(of, first[0]),
            "uniform": tested(of, firsts.found(of)[0]),
            "random": tested(of, chance[1]),
            "cold": tested(of, cold[-1][1]),
            "warm": tested(of, warm[-1][1]),
            "holdout": {"cold": cold[-1][0], "warm": warm[-1][0], "transferred": warm[0][0], "random": chance[0]},
            "reached": reached[0] if reached else None,
        }

    @cache  # noqa: B019 - one bench, which lives as long as the process
    def study(self, network: str, budget: str) -> Study:
        """What is searched: a network, under a budget of its MACs."""
        task = {"use": "fashion_mnist"} if network == "fashion" else {"use": "cifar10", "model": network}
        tables = {
            "name": network,
            "task": {**task, "data": self.data} if network != "fashion" else task,
            "budget": {"macs": budget},
            "evaluator": {"use": "reconstruct", "holdout": 1000},
            "search": {"trials": max(self.trials, study.PAYS), "first": "rankings"},
        }
        return study.build(config.parse(tables, "a benchmark"))

    @cache  # noqa: B019
    def search(
        self, network: str, budget: str, seed: int, first: tuple[Policy, ...] = ()
    ) -> Sequence[tuple[float, Policy]]:
        """The best metric, and its policy, after each trial of a search that begins with `first` and rankings."""
        of = self.study(network, budget)
        made = plugins.build("controller", {"use": self.controller}, space=of.space, budget=of.budget, seed=seed)
        return searched(of, made, list(dict.fromkeys([*first, *firsts.found(of)])), self.trials)

    def carried(self, source: tuple[str, str], target: tuple[str, str], seed: int) -> list[Policy]:
        """The best policies of a search of the source, best first, for the target."""
        here, there = self.study(*source), self.study(*target)
        best = list(dict.fromkeys(policy for _, policy in reversed(self.search(*source, seed))))
        roles = placed(here)
        shapes = [here.space.sparsity(policy) for policy in best[: max(1, self.trials // SHARE)]]
        found = [
            mapped(there, [dataclasses.replace(r, sparsity=s) for r, s in zip(roles, shape)], "it") for shape in shapes
        ]
        return list(dict.fromkeys(one.policy for one in found))


def table(name: str, rows: Sequence[Row]) -> list[str]:
    """In Markdown, of one row of the benchmark: test top-1 of all, and trials."""
    (source, target), columns = ROWS[name], ("transferred", "uniform", "random", "cold", "warm")
    head = ["row", *columns, "warm reaches cold's best after"]
    cells = [spread([100 * row[column] for row in rows], 2) for column in columns]
    reached = [str(row["reached"] or f"not in {row['trials']}") for row in rows]
    title = f"{source[0]} at {source[1]} to {target[0]} at {target[1]}, {len(rows)} seeds of {rows[0]['trials']} trials"
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        "| " + " | ".join([title, *cells, ", ".join(reached)]) + " |",
    ]


if __name__ == "__main__":
    main()
