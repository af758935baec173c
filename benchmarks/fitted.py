"""Which controller finds the best policies in how many trials, on landscapes fitted to real scores.

    python benchmarks/fitted.py [--tables FILE ...] [--controllers random switch switch+ ...] [--seeds 10]
        [--trials 200] [--rough 0] [--json FILE] [--quick]

Nothing is evaluated: `autoprune.testing.fitted` says what a policy would score, so that ten searches of a learner take
seconds where real ones take an hour; benchmarks/search_pays.py has real ones. `NAME+` begins with what rankings of the
network's units gave, `NAME` does not. The table has the mean best score after so many trials, the p of an exact
one-sided Mann-Whitney test that it is better than random search's after as many, and the median number of trials until
the median best of random search after 400 is reached (- where half of the searches do not).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search_pays import better

from autoprune import plugins
from autoprune.controllers.rules import RULES
from autoprune.testing.fitted import Fitted, read

TABLES = sorted((Path(__file__).parent.parent / "tests" / "assets" / "landscapes").glob("*.json"))
SLOW = ("bayes-gp", "ddpg", "td3", "sac")  # an ask or a tell takes a quarter of a second
AT, LONG = (20, 50, 100, 200, 1000), 400
Row = dict[str, Any]


def main() -> None:
    """Search, print a table for each landscape, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", type=Path, nargs="+", default=TABLES)
    parser.add_argument("--controllers", nargs="+", help="all but the slow ones, with rankings and without")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rough", type=float, default=0.0, help="noise of a score, in the landscape's deviations")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="three searches of 50 trials")
    asked = parser.parse_args()
    asked.seeds, asked.trials = (3, 50) if asked.quick else (asked.seeds, asked.trials)
    rows: list[Row] = []
    for path in asked.tables:
        rows += (found := compared(read(path), asked.controllers or everyone(), asked))
        print("\n".join(table(found, path.stem)), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1))


def everyone() -> list[str]:
    """Random search, and every learner but the slow ones, without rankings and with."""
    learners = [name for name in plugins.OURS["controller"] if name not in (*RULES, *SLOW, "random")]
    return ["random", *(name + plus for name in learners for plus in ("", "+"))]


def compared(landscape: Fitted, controllers: Sequence[str], asked: argparse.Namespace) -> list[Row]:
    """A row for each controller."""
    chance = [searched(landscape, "random", seed, max(LONG, asked.trials), asked.rough) for seed in range(asked.seeds)]
    goal, at = statistics.median(best[LONG - 1] for best in chance), [n for n in AT if n <= asked.trials]
    rows = []
    for name in controllers:
        begun = time.process_time()
        found = [searched(landscape, name, seed, asked.trials, asked.rough) for seed in range(asked.seeds)]
        spent = 1e3 * (time.process_time() - begun) / asked.seeds / asked.trials
        rows.append(
            {
                "controller": name,
                "best": {n: [best[n - 1] for best in found] for n in at},
                "p": {n: better([b[n - 1] for b in found], [c[n - 1] for c in chance]) for n in at},
                "reached": statistics.median(reached(best, goal) for best in found),
                "goal": goal,
                "ms": spent,
            }
        )
    return rows


def searched(landscape: Fitted, name: str, seed: int, trials: int, rough: float = 0.0) -> list[float]:
    """The best score after each trial, without the noise that the search saw."""
    plugin = {"use": name.rstrip("+")}
    controller = plugins.build("controller", plugin, space=landscape.space, budget=landscape.budget, seed=seed)
    first = landscape.first if name.endswith("+") else ()
    best, seen = (-1.0, 0.0), list[float]()
    for number in range(trials):
        policy = first[number] if number < len(first) else controller.ask()
        trial = landscape.judge(number, policy, rough)
        controller.tell(trial)
        if (trial.reward or 0.0) > best[0]:
            best = trial.reward or 0.0, landscape.metric(policy)
        seen.append(best[1])
    return seen


def reached(best: Sequence[float], goal: float) -> float:
    """How many trials it took; infinite where the goal was not reached."""
    return next((number for number, score in enumerate(best, 1) if score >= goal), float("inf"))


def table(rows: Sequence[Row], name: str) -> list[str]:
    """In Markdown, a row for each controller, the best after the most trials first."""
    at = list(rows[0]["best"])
    heads = ["controller", *(f"{n} (p)" for n in at), f"trials to {rows[0]['goal']:.4f}", "ms a trial"]
    lines = [f"\n{name}\n", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda row: -statistics.mean(row["best"][at[-1]])):
        bests = [f"{statistics.mean(row['best'][n]):.4f} ({row['p'][n]})" for n in at]
        took = f"{row['reached']:.0f}" if row["reached"] < float("inf") else "-"
        lines.append("| " + " | ".join([row["controller"], *bests, took, f"{row['ms']:.1f}"]) + " |")
    return lines


if __name__ == "__main__":
    main()
