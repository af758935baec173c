"""Records a landscape: policies of a network and what an evaluator says of each, and a Gaussian process fitted to them.

    python benchmarks/record_policies.py TABLE [--network fashion] [--budget 25%] [--policies 400] [--data DIR]
    python benchmarks/record_policies.py TABLE --network resnet20 --data DIR --scored FILE

The policies are uniform and the rankings, one choice moved at a time, random ones, ones scattered about the uniform
policy, and what three learners ask for, so that the better half is as well known as the rest. With `--scored FILE`,
lines of {"kept": [...], "holdout": top-1}, nothing is evaluated. TABLE is what `autoprune.testing.fitted` reads; how
well the process foretells a score from all others is printed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from search_pays import landscape

from autoprune import plugins
from autoprune.runs import firsts
from autoprune.runs.study import Study
from autoprune.testing.fitted import Fitted, Kernel, shares, standardised, table_of
from autoprune.values.space import Policy
from autoprune.values.terms import Floats

SEARCHED = ("evolution", "switch", "knapsack")
LEARNT = 400  # policies whose likelihood the kernel's numbers maximise
BEGUN = Kernel(alone=5.0, reach=0.5, together=0.3, radius=0.2, rough=0.1)


def main() -> None:
    """Record, fit, print how well, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--network", default="fashion")
    parser.add_argument("--budget", default="25%", help="of the MACs, in percent")
    parser.add_argument("--policies", type=int, default=400)
    parser.add_argument("--data", default="", help="the directory of CIFAR-10 and its networks")
    parser.add_argument("--scored", type=Path, help="policies that were scored before")
    asked = parser.parse_args()
    of = landscape(asked.network, asked.budget, asked.policies, asked.data)
    scored = told(asked.scored) if asked.scored else recorded(of, asked.policies)
    policies, scores = tuple(scored), np.array(list(scored.values()))
    kernel = likeliest(shares(of.space, policies), standardised(scores)[0])
    first, share = tuple(firsts.known(firsts.found(of))), float(asked.budget.rstrip("%")) / 100
    found = Fitted(of.space, share, first, policies, scores, kernel)
    asked.table.write_text(written(found))
    print(f"{len(policies)} policies of {of.space.name}, scores {scores.min():.3f} to {scores.max():.3f}; {kernel}")
    for name, least in (("all", 0.0), ("the better half", float(np.median(scores)))):
        print(f"R2 of {name}, each foretold from all others: {found.explained(least):.3f}")


def told(file: Path) -> dict[Policy, float]:
    """What was scored before; of a policy that was scored twice the last."""
    lines = map(json.loads, file.read_text().splitlines())
    return {Policy.of(line["kept"]): line["holdout"] for line in lines}


def recorded(of: Study, most: int) -> dict[Policy, float]:
    """Policies of a network and their scores."""
    rng, first = np.random.default_rng(0), firsts.known(firsts.found(of))
    begun = [*first, *one_moved(of, first[0]), *scattered(of, first[0], most // 4, rng)]
    trials = {policy: of.attempt(0, policy) for policy in dict.fromkeys(begun)}
    each = (most - len(trials)) // (1 + len(SEARCHED))
    for name in ("random", *SEARCHED):
        controller = plugins.build("controller", {"use": name}, space=of.space, budget=of.budget, seed=0)
        for _ in range(each):
            policy = controller.ask()
            trials[policy] = trials[policy] if policy in trials else of.attempt(0, policy)
            controller.tell(trials[policy])
    return {policy: trial.metric for policy, trial in trials.items() if trial.metric is not None}


def one_moved(of: Study, about: Policy) -> Iterator[Policy]:
    """Each choice at its least, its largest and two levels in between, the others as the budget wants them."""
    cube = of.space.cube
    for axis, leader in enumerate(cube.leaders):
        for share in (0.0, 0.3, 0.7, 1.0):
            places = cube.places(about)
            places[axis] = math.floor(share * (len(leader.levels) - 1))
            yield of.budget.fit(cube.settled(places))


def scattered(of: Study, about: Policy, count: int, rng: np.random.Generator) -> Iterator[Policy]:
    """Policies about one, near and far."""
    cube = of.space.cube
    for number in range(count):
        far = 0.1 if number % 2 else 0.3
        yield of.budget.fit(cube.policy(np.clip(cube.point(about) + rng.normal(0.0, far, len(cube)), 0.0, 1.0)))


def likeliest(points: Floats, odds: Floats) -> Kernel:
    """The kernel under which the log-odds of at most `LEARNT` policies are likeliest."""
    some = np.random.default_rng(0).permutation(len(points))[:LEARNT]
    points, odds = points[some], odds[some]

    def unlikely(logarithms: Floats) -> float:
        kernel = Kernel(*np.exp(logarithms).tolist())
        covariance = kernel(points, points) + (kernel.rough**2 + 1e-8) * np.eye(len(points))
        root = np.linalg.cholesky(covariance)
        return float(np.square(np.linalg.solve(root, odds)).sum() / 2 + np.log(np.diag(root)).sum())

    begun = np.log([BEGUN.alone, BEGUN.reach, BEGUN.together, BEGUN.radius, BEGUN.rough])
    found = minimize(unlikely, begun, method="L-BFGS-B", bounds=[(-5, 4)] * len(begun), options={"maxiter": 40})
    return Kernel(*np.exp(found.x).tolist())


def written(fitted: Fitted) -> str:
    """The table as JSON, a line for each entry and each policy."""
    table = table_of(fitted)
    scored = ",\n".join(map(json.dumps, table.pop("scored")))
    entries = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in table.items()]
    return "{" + ",\n".join([*entries, f'"scored": [\n{scored}]']) + "}\n"


if __name__ == "__main__":
    main()
