"""What a search begins with that others have learnt: policies that it asks first, and trials that it is told.

Trials of a run are told where they mean the same here: the same choices, task, criterion, evaluator and reward, scored
in the same precision, within this budget, on no ladder. In any other case what carries over are policies: the best of
each run, and that of each policy file, mapped by role and fitted to the budget. They are evaluated here, so that their
outcomes are of this network. All of it lies in the run's machine.json, and a resumed run begins with the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.files import policy_file
from autoprune.protocols import Controller
from autoprune.runs import agents, journal, lines, machine, prior
from autoprune.runs.mapped import Mapped, fitted, mapped
from autoprune.runs.rules import Rules
from autoprune.runs.study import GIVEN, Facts, Study
from autoprune.values.roles import Placed
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Outcome, Trial

KEY = "warm"  # in a run's facts
_SAME = ("task", "operator", "criterion", "evaluator", "reward")  # of a config: with these alike, scores are
_SCORED = ("precision", "shortcuts")  # of a machine.json, likewise
_SHARE, _MOST = 10, 3  # one trial in so many is a policy from elsewhere, and so many of one run at most


@dataclass(frozen=True)
class Warm:
    """What a search begins with.

    Attributes:
        sources: where it comes from.
        first: policies of the space within the budget, the most promising first.
        told: trials of another run that the controller is told before it asks.
    """

    sources: tuple[str, ...] = ()
    first: tuple[Policy, ...] = ()
    told: tuple[Trial, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As a run's facts hold it, but for the policies, which stand before those that the run asks first anyway."""
        told = [
            {"policy": t.policy.levels, "metric": t.metric, "values": t.outcome.values, "costs": dict(t.costs)}
            for t in self.told
            if isinstance(t.outcome, Outcome)
        ]
        return {"sources": self.sources, "first": len(self.first), "told": told}


NOTHING = Warm()


def start(study: Study, sources: Sequence[str | Path]) -> Warm:
    """What `sources`, policy files, runs, what was learnt from runs, and agents, say to a search of `study`.

    Raises PolicyError or RunError for what is neither, or says nothing about this network.
    """
    most = min(max(1, study.config.search.trials // _SHARE // max(len(sources), 1)), _MOST)
    parts = [_of_run(study, path, most) if _is_run(path) else _of_file(study, path) for path in map(Path, sources)]
    first = dict.fromkeys(policy for part in parts for policy in part.first)
    told = [trial for part in parts for trial in part.told if trial.policy not in first]
    numbered = tuple(dataclasses.replace(trial, number=number) for number, trial in enumerate(told))
    return Warm(tuple(map(str, sources)), tuple(first)[: study.config.search.trials], numbered)


def begun(study: Study, facts: Facts) -> Controller:
    """The study's controller, which was told what the run with these facts began with."""
    controller = study.controller()
    for number, one in enumerate(facts.get(KEY, {}).get("told", ())):
        outcome = Outcome(one["metric"], tuple(one["values"]), one["costs"])
        controller.tell(Trial(number, Policy.of(one["policy"]), outcome))
    return controller


def _is_run(path: Path) -> bool:
    return (path / journal.JOURNAL).exists()


def _of_file(study: Study, path: Path) -> Warm:
    return Warm(first=(proposed(study, path).policy,))


def proposed(study: Study, path: Path) -> Mapped:
    """The policy for the network of `study` that a policy file, what was learnt from runs, or an agent says."""
    if path.suffix == ".safetensors":
        return agents.rolled(study, path)
    if prior.is_prior(path):
        return prior.predicted(study, prior.read(path), str(path))
    return mapped(study, policy_file.read(path).placed(), str(path))


def _of_run(study: Study, directory: Path, most: int) -> Warm:
    """The best policies of a run, at most so many; and its other trials, where they mean the same here."""
    space, best = prior.best(directory)
    if not _same_choices(space, study.space):
        choices = prior.known(directory, space)
        shapes = [space.sparsity(policy) for policy in best[:most]]
        return Warm(first=tuple(_by_role(study, choices, shape, str(directory)) for shape in shapes))
    if _same_scores(study, directory):
        done = [trial for trial in journal.trials(directory, Rules(space)) if trial.reward is not None]
        here = [t for t in done if study.space.contains(t.policy) and study.budget.admits(t.policy)]
        if here:
            first = max(here, key=journal.rank)
            return Warm(first=(first.policy,), told=tuple(here))
    return Warm(first=tuple(fitted(study, space.sparsity(policy)) for policy in best[:most]))


def _by_role(study: Study, choices: Sequence[Placed], shape: Sequence[float], source: str) -> Policy:
    policy = [dataclasses.replace(one, sparsity=sparsity) for one, sparsity in zip(choices, shape, strict=True)]
    return mapped(study, policy, source).policy


def _same_choices(space: SearchSpace, other: SearchSpace) -> bool:
    here, there = lines.described(space), lines.described(other)
    return (here["choices"], here["ties"]) == (there["choices"], there["ties"])


def _same_scores(study: Study, directory: Path) -> bool:
    """Whether a score in that run is a score here, and both climb no ladder."""
    asked, now = journal.stored(directory, "config.json"), study.config.plain()
    found, here = machine.read(directory), {"precision": study.precision, "shortcuts": study.shortcuts}
    laddered = found.get("rungs") or study.config.ladder.images or study.config.ladder.fixed or study.config.search.time
    alike = all(asked.get(key) == now[key] for key in _SAME) and all(found.get(k) == here[k] for k in _SCORED)
    return alike and not laddered and (now["task"]["use"] != GIVEN or _same_weights(study, directory))


def _same_weights(study: Study, directory: Path) -> bool:
    """Whether the network of a run that was begun with a Task from Python, and has ended, is that of `study`."""
    if not (directory / policy_file.NAME).exists():
        return False
    return policy_file.read(directory).model == policy_file.fingerprint(study.task.model, study.task.rebuild)
