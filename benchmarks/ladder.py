"""What a ladder saves: seconds until a search has as good a network as judging every policy thoroughly finds.

    python benchmarks/ladder.py [--budget 25%] [--policies 120] [--steps 40] [--orders 400] [--json FILE] [--quick]

Random policies of ResNet-20 on Fashion-MNIST are judged once at every rung, by `recalibrate` and after so many steps
of the final finetune, on the whole holdout; scores and seconds are kept. Then random search is replayed in so many
orders: straight at the highest rung, and up the ladder that `[ladder]` builds (`runs.course`), one in `keep` going up.
The table has the median seconds until the best of all policies at the highest rung is there, or one within half a
point of it, as a share of what the straight search needs, and in how many orders it came at all: a ladder may never
lift it. Preparation is counted for both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import config
from autoprune.errors import Exhausted
from autoprune.runs import kendall, rungs, study
from autoprune.runs.course import Course, Ladder, Rung, Straight
from autoprune.values.space import Policy
from autoprune.values.trial import Outcome, Trial

KEEPS = (2, 4, 8)
NEAR = 0.005  # of the metric: as good as the best
Judged = dict[Policy, list[tuple[float, float]]]  # the metric and the seconds at every rung


@dataclass
class Order:
    """A controller that proposes policies in an order and learns nothing."""

    policies: Sequence[Policy]
    asked: int = 0

    def ask(self) -> Policy:
        """The next; raises Exhausted after the last."""
        if self.asked == len(self.policies):
            raise Exhausted("all were proposed")
        self.asked += 1
        return self.policies[self.asked - 1]

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""


def main() -> None:
    """Judge, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", default="25%", help="of the MACs")
    parser.add_argument("--policies", type=int, default=120)
    parser.add_argument("--steps", type=int, nargs="+", default=[40])
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="12 policies and 5 steps")
    asked = parser.parse_args()
    if asked.quick:
        asked.policies, asked.steps = 12, [5]
    judged, prepared = judge(asked.budget, asked.policies, asked.steps, asked.seed)
    found = list(rows(judged, prepared, asked.steps, asked.orders, asked.budget))
    print("\n".join(table(found)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def judge(budget: str, count: int, steps: Sequence[int], seed: int) -> tuple[Judged, float]:
    """Random policies at every rung, and the seconds that were spent before the first."""
    begun = time.perf_counter()
    tables = {
        "name": "ladder",
        "task": {"use": "fashion_mnist"},
        "budget": {"macs": budget},
        "search": {"trials": study.PAYS, "seed": seed},
        "finetune": {"epochs": 2.0},
    }
    of = study.build(config.parse(tables, "a benchmark"))
    attempts = rungs.attempts(of, [Rung(), *(Rung(steps=many) for many in steps)])
    controller = of.controller("random")
    attempts[0](0, of.space.dense())  # prepares
    prepared, judged = time.perf_counter() - begun, Judged()
    while len(judged) < count:
        policy = controller.ask()
        trials = [attempt(0, policy) for attempt in attempts]
        judged[policy] = [(trial.metric or 0.0, sum(trial.seconds.values())) for trial in trials]
    for rung, many in enumerate(steps, 1):
        low, high = ([scores[at][0] for scores in judged.values()] for at in (rung - 1, rung))
        seconds = statistics.median(scores[rung][1] for scores in judged.values())
        tau = kendall.tau(low, high)
        print(f"{many} steps: {seconds:.2f} s, tau of what is below {tau:.2f}, the best {max(high):.4f}", flush=True)
    print(
        f"the score: {statistics.median(scores[0][1] for scores in judged.values()):.2f} s; prepared {prepared:.1f} s\n"
    )
    return judged, prepared


def rows(judged: Judged, prepared: float, steps: Sequence[int], orders: int, budget: str) -> Iterator[dict[str, Any]]:
    """For each way and each goal the seconds of every order; None where the goal was never reached."""
    top = max(scores[-1][0] for scores in judged.values())
    for goal, wanted in (("the best of all", top), (f"within {100 * NEAR:g} points of it", top - NEAR)):
        for way in ("straight", *(f"ladder, keep = {keep}" for keep in KEEPS)):
            for order in range(orders):
                policies = random.Random(order).sample(list(judged), len(judged))
                course: Course = Straight(Order(policies))
                if way != "straight":
                    keep = int(way.rpartition(" ")[2])
                    on = [Rung(keep=keep), *(Rung(steps=many, keep=keep) for many in steps)]
                    course = Ladder(on, lambda policies=policies: Order(policies))  # type: ignore[misc]
                value = seconds_to(wanted, course, judged, len(steps) if way == "straight" else 0)
                kind = {"network": "resnet20, fashion_mnist", "method": way, "budget": budget, "seed": order}
                yield {**kind, "metric": f"seconds to {goal}", "value": None if value is None else prepared + value}


def seconds_to(wanted: float, course: Course, judged: Judged, lift: int) -> float | None:
    """Seconds until a policy at the highest rung is as good as `wanted`; rungs are counted from `lift`."""
    spent = 0.0
    for number in range(10 * len(judged)):
        try:
            policy, rung = course.ask()
        except Exhausted:
            return None
        metric, seconds = judged[policy][rung + lift]
        spent += seconds
        course.tell(Trial(number, policy, Outcome(metric, (metric,), {}), {}, rung=rung))
        if rung + lift == len(judged[policy]) - 1 and metric >= wanted:
            return spent
    return None


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """In Markdown, a row for each way and goal."""
    lines = ["| goal | way | median seconds | of straight | reached |", "|---|---|---|---|---|"]
    for goal in dict.fromkeys(row["metric"] for row in found):
        straight = 0.0
        for way in dict.fromkeys(row["method"] for row in found):
            values = [row["value"] for row in found if (row["metric"], row["method"]) == (goal, way)]
            came = [value for value in values if value is not None]
            middle = statistics.median(value if value is not None else float("inf") for value in values)
            straight = straight or middle
            lines.append(f"| {goal} | {way} | {middle:.0f} | {middle / straight:.2f} | {len(came) / len(values):.0%} |")
    return lines


if __name__ == "__main__":
    main()
