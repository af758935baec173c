"""What a search is worth to another network, data set or budget: a better policy than none, and fewer trials?

    python benchmarks/transfer.py [--rows deeper shallower data prior agent] [--seeds 0 1 2] [--trials 200] [--json F]
    python benchmarks/transfer.py --data DIR [--rows deeper data budget] ...    the networks themselves, on CIFAR-10
    python benchmarks/transfer.py --quick                                       one seed of 30 trials, a minute

Without --data, networks are landscapes that were fitted to real scores of them (tests/assets/landscapes): what is shown
is the holdout top-1 that `reconstruct` would give, and a search costs no network. With it, every policy is made and
scored, and the columns of policies are top-1 on the test split, recovered without short cuts and not trained.

A row searches its source and carries over to its target, without a search there ("carried"): the best policy by roles,
what the prior of other networks says, or one walk of the agent. Beside it stand uniform pruning, the best of 50 random
policies, and the best of the rankings that any search begins with. Then the target is searched cold (rankings first)
and warm (the same behind what was carried over), and the table says after how many trials the warm search has reached
the best of the cold one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search_pays import spread, tested

from autoprune import config, plugins
from autoprune.controllers.rules import shaped, uniform
from autoprune.controllers.walk.walk import FEATURES, Walk
from autoprune.files.agent_file import Agent
from autoprune.models.resnet import ResNet
from autoprune.runs import firsts, study
from autoprune.runs.mapped import placed
from autoprune.structure.roles import roles
from autoprune.structure.trace import trace
from autoprune.testing import fitted
from autoprune.values import prior
from autoprune.values.budget import Budget
from autoprune.values.prior import Network
from autoprune.values.roles import Placed, carried
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

Row = dict[str, Any]
Place = tuple[str, str]  # a network, and its budget
LANDSCAPES = Path(__file__).parents[1] / "tests" / "assets" / "landscapes"
RANDOM, ELITE = 50, 20
WARM = 3  # policies of the source that begin a warm search
R20, R56, FASHION = "cifar10_resnet20", "cifar10_resnet56", "fashion_resnet20"
ROWS: Mapping[str, tuple[Place, Place]] = {  # source and target
    "deeper": ((R20, "50%"), (R56, "50%")),
    "shallower": ((R56, "50%"), (R20, "50%")),
    "data": ((FASHION, "25%"), (R20, "50%")),
    "budget": ((R56, "50%"), (R56, "30%")),
    "prior": ((FASHION, "25%"), (R56, "50%")),  # and R20 at 50%
    "agent": ((R20, "50%"), (R56, "50%")),
}


@dataclasses.dataclass(frozen=True)
class Ground:
    """Something that can be searched.

    Attributes:
        space, budget: of it.
        choices: by their roles.
        first: what a cold search asks first.
        judge: makes a trial of a policy.
        shown: what the table shows of a policy, in [0, 1].
    """

    space: SearchSpace
    budget: Budget
    choices: tuple[Placed, ...]
    first: tuple[Policy, ...]
    judge: Callable[[int, Policy], Trial]
    shown: Callable[[Policy], float]


def main() -> None:
    """Search, carry over, print the tables and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="", help="the directory of CIFAR-10 and its networks")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--controller", default="evolution")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="one seed of 30 trials on two landscapes")
    asked = parser.parse_args()
    if asked.quick:
        asked.rows, asked.seeds, asked.trials = ["deeper", "prior"], [0], 30
    usual = ["deeper", "data", "budget"] if asked.data else ["deeper", "shallower", "data", "prior", "agent"]
    bench, rows = Bench(asked.data, asked.controller, asked.trials), list[Row]()
    for name in asked.rows or usual:
        for seed in asked.seeds:
            rows.append(bench.row(name, seed))
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1))
        print("\n".join(table(name, [row for row in rows if row["row"] == name])), flush=True)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Grounds and searches, each made once.

    Attributes:
        data: the directory of CIFAR-10 and its networks; "" for landscapes.
        controller: who searches.
        trials: of each search.
    """

    data: str
    controller: str
    trials: int

    def row(self, name: str, seed: int) -> Row:
        """What the source of a row is worth to its target."""
        source, target = ROWS[name]
        of = self.ground(*target)
        makers = {"prior": self.predicted, "agent": self.rolled}
        given = makers.get(name, self.mapped)(source, target, seed)
        chance = self.searched(*target, seed, "random")[: min(RANDOM, self.trials)]
        cold = self.searched(*target, seed, self.controller, of.first)
        warm = self.searched(*target, seed, self.controller, tuple(dict.fromkeys([*given, *of.first])))
        reached = [at for at, trial in enumerate(warm, 1) if reward(trial) >= max(map(reward, cold))]
        return {
            "row": name,
            "seed": seed,
            "controller": self.controller,
            "trials": self.trials,
            "carried": of.shown(given[0]),
            "uniform": of.shown(uniform(of.space, of.budget)),
            "rankings": max(map(of.shown, of.first)),
            "random": of.shown(best(chance, 1)[0]),
            "cold": of.shown(best(cold, 1)[0]),
            "warm": of.shown(best(warm, 1)[0]),
            "trace": {"cold": [reward(trial) for trial in cold], "warm": [reward(trial) for trial in warm]},
            "reached": reached[0] if reached else None,
        }

    @cache  # noqa: B019 - one bench, which lives as long as the process
    def ground(self, network: str, budget: str) -> Ground:
        """What is searched: a network, under a budget of its MACs."""
        return real(network, budget, self.data, self.trials) if self.data else landscape(network)

    @cache  # noqa: B019
    def searched(
        self, network: str, budget: str, seed: int, controller: str, first: tuple[Policy, ...] = ()
    ) -> Sequence[Trial]:
        """The trials of a search that begins with `first`."""
        of, found = self.ground(network, budget), list[Trial]()
        made = plugins.build("controller", {"use": controller}, space=of.space, budget=of.budget, seed=seed)
        for number in range(self.trials if controller != "random" else min(RANDOM, self.trials)):
            found.append(of.judge(number, first[number] if number < len(first) else made.ask()))
            made.tell(found[-1])
        return found

    def mapped(self, source: Place, target: Place, seed: int) -> list[Policy]:
        """The best policies of a search of the source, best first, by roles."""
        here, there = self.ground(*source), self.ground(*target)
        found = []
        for policy in best(self.searched(*source, seed, self.controller, here.first), WARM):
            pairs = zip(here.choices, here.space.sparsity(policy), strict=True)
            wanted = carried([dataclasses.replace(one, sparsity=s) for one, s in pairs], there.choices)
            found.append(shaped(there.space, there.budget, np.array([one.sparsity for one in wanted])))
        return list(dict.fromkeys(found))

    def predicted(self, source: Place, target: Place, seed: int) -> list[Policy]:
        """What a prior says that was learnt from searches of the source and of a ResNet-20."""
        there, networks = self.ground(*target), []
        for place in (source, (R20, "50%")):
            here = self.ground(*place)
            elite = best(self.searched(*place, seed, self.controller, here.first), min(ELITE, self.trials // 10))
            networks.append(Network(here.choices, prior.shape_of([here.space.sparsity(policy) for policy in elite])))
        return [shaped(there.space, there.budget, prior.sparsity(prior.fit(networks), there.choices))]

    def rolled(self, source: Place, target: Place, seed: int) -> list[Policy]:
        """Where one walk over the target ends of an agent that has searched the source."""
        here, there = self.ground(*source), self.ground(*target)
        agent: Any = plugins.build(
            "controller", {"use": "ddpg-portable"}, space=here.space, budget=here.budget, seed=seed
        )
        for number in range(self.trials):
            agent.tell(here.judge(number, agent.ask()))
        made, walk = Agent(agent.name, FEATURES, agent.trained), Walk(there.space, there.budget)
        prefix = walk.start()
        while not walk.over(prefix):
            prefix = walk.decide(prefix, made.share(walk.observe(prefix).astype(float)))
        return [walk.policy(prefix)]


def landscape(network: str) -> Ground:
    """A landscape that was fitted to real scores, under the budget that they were recorded under."""
    found = fitted.read(LANDSCAPES / f"{network}.json")
    channels, depth = (1, 20) if network == FASHION else (3, int(network.rpartition("resnet")[2]))
    model, example = ResNet(depth, channels=channels), torch.zeros(1, channels, *(2 * [28 if channels == 1 else 32]))
    traced = trace(model, example)
    choices = tuple(Placed(c.name, c.kind, role) for c, role in zip(traced.choices, roles(traced, model), strict=True))
    return Ground(found.space, found.budget, choices, found.first, found.judge, found.metric)


def real(network: str, budget: str, data: str, trials: int) -> Ground:
    """A network itself."""
    task = {"use": "fashion_mnist"} if network == FASHION else {"use": "cifar10", "model": network.partition("_")[2]}
    tables = {
        "name": network,
        "task": {**task, "data": data} if network != FASHION else task,
        "budget": {"macs": budget},
        "evaluator": {"use": "reconstruct", "holdout": 1000},
        "search": {"trials": max(trials, study.PAYS), "first": "rankings"},
    }
    of = study.build(config.parse(tables, "a benchmark"))
    first = tuple(firsts.known(firsts.found(of)))
    return Ground(of.space, of.budget, placed(of), first, of.attempt, lambda policy: tested(of, policy))


def best(trials: Sequence[Trial], count: int) -> list[Policy]:
    """The policies of the best trials, best first."""
    return list(dict.fromkeys(trial.policy for trial in sorted(trials, key=lambda trial: -reward(trial))))[:count]


def reward(trial: Trial) -> float:
    """Of a trial, 0 where it failed."""
    return trial.reward or 0.0


def table(name: str, rows: Sequence[Row]) -> list[str]:
    """In Markdown, of one row of the benchmark: what each policy is worth, in percent, and trials."""
    (source, target), columns = ROWS[name], ("carried", "uniform", "random", "rankings", "cold", "warm")
    cells = [spread([100 * row[column] for row in rows], 2) for column in columns]
    reached = ", ".join(str(row["reached"] or f"not in {row['trials']}") for row in rows)
    early = [statistics.mean(100 * max(row["trace"][kind][:20]) for row in rows) for kind in ("cold", "warm")]
    title = f"{name}: {' at '.join(source)} to {' at '.join(target)}, {len(rows)} seeds of {rows[0]['trials']} trials"
    head = ["", *columns, "cold, warm after 20", "warm reaches the best of cold after"]
    body = [title, *cells, ", ".join(f"{one:.2f}" for one in early), reached]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", "| " + " | ".join(body) + " |"]


if __name__ == "__main__":
    main()
