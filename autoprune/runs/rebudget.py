"""A policy for another budget or target, from what a run has learnt: proposed, scored once, not searched for.

The shapes of the best trials, and their means in pairs, are fitted to the new budget; which of these is proposed, a
small regression of the run's rewards on sparsities says, the one that `evolution` chooses children by. Where the new
budget lies outside of what the run has tried, that is extrapolation, and how far is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from autoprune.controllers.ridge import promise
from autoprune.errors import ConfigError
from autoprune.files.policy_file import PolicyFile
from autoprune.protocols import Watch, silent
from autoprune.runs import apply, journal, policies, prior
from autoprune.runs.apply import NOTHING, Applied, Settings
from autoprune.runs.mapped import fitted
from autoprune.runs.rules import Rules
from autoprune.runs.study import Study
from autoprune.task import Task
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

_PAIRED = 8  # of the best, of which pairs are taken


@dataclass(frozen=True)
class Rebudgeted:
    """A policy that was proposed for another budget.

    Attributes:
        policy: within that budget.
        said: what it was proposed from, and how far that extrapolates, a sentence each.
        file: as a policy file.
        applied: the network, and how good it is: it was scored once.
    """

    policy: Policy
    said: tuple[str, ...]
    file: PolicyFile
    applied: Applied


def rebudget(
    directory: str | Path,
    budget: Mapping[str, str | float],
    task: Task | None = None,
    *,
    target: str = "",
    data: str = "",
    trust: Sequence[str] = (),
    finetune: bool = True,
    recipe: Settings = NOTHING,
    watch: Watch = silent,
) -> Rebudgeted:
    """The network of a policy that a run's trials speak for, within another budget.

    Args:
        directory: of the run, which is only read; it need not be finished.
        budget: ceilings by name of the cost: {"macs": "30%"}, {"latency": "2ms"}.
        task: the network and its images, where the run was begun with a Task from Python.
        target: where latency is measured, if elsewhere than in the run; networks are timed there first.
        data, trust, finetune, recipe, watch: as of `apply_policy`.

    Raises PolicyError where no trial succeeded, BudgetError where nothing meets the budget.
    """
    directory = Path(directory)
    if not budget:
        raise ConfigError('budget = {}: a ceiling is needed, such as {"macs": "30%"}')
    over = {"budget": dict(budget), **({"target": {"use": target}} if target else {})}
    built = apply.of_run(directory, task, data=data, trust=trust, recipe=recipe, watch=watch, over=over)
    journal.require_same(directory, built.space)
    space, elite = prior.best(directory)
    done = [t for t in journal.trials(directory, Rules(space)) if t.reward is not None]
    lowest = min(trial.rung for trial in done)
    trials = [trial for trial in done if trial.rung == lowest]  # rewards of different rungs are not to be compared
    policy, among = proposed(built, elite, trials)
    network = apply.made(built, policy, directory, built.task.rebuild, finetune, watch)
    counted = {name: cost.predict(policy) for name, cost in built.costs.items()}
    said = (f"Proposed from {len(trials)} trials of the run, of {among} candidates, and scored once.",
            *extrapolation(built, policy, trials))  # fmt: skip
    return Rebudgeted(policy, said, policies.file_of(built, policy, counted, network.before), network)


def proposed(built: Study, elite: Sequence[Policy], trials: Sequence[Trial]) -> tuple[Policy, int]:
    """The most promising policy within the study's budget, and among how many it was."""
    keeps = 1.0 - np.array([built.space.sparsity(policy) for policy in elite])
    pairs = [np.sqrt(one * other) for one, other in combinations(keeps[:_PAIRED], 2)]
    found = list(dict.fromkeys(fitted(built, (1.0 - keep).tolist()) for keep in [*keeps, *pairs]))
    cube = built.space.cube
    points = np.array([cube.point(trial.policy) for trial in trials])
    rewards = np.array([trial.reward for trial in trials], dtype=np.float64)
    expected = promise(points, rewards, np.array([cube.point(policy) for policy in found]))
    return found[int(np.argmax(expected))], len(found)


def extrapolation(built: Study, policy: Policy, trials: Sequence[Trial]) -> list[str]:
    """How far `policy` lies from what was tried, a sentence each, by costs and by choices."""
    said = []
    for limit in built.budget.limits:
        dense = built.dense[limit.name]
        tried = [limit.cost.predict(trial.policy) / dense for trial in trials]
        here = limit.cost.predict(policy) / dense
        where = f"{limit.name} {here:.1%} of dense; the trials lie at {min(tried):.1%} to {max(tried):.1%}"
        outside = max(min(tried) - here, here - max(tried), 0.0)
        said.append(f"{where}: " + (f"{outside * 100:.1f} points outside." if outside > 5e-4 else "among them."))
    sparsity = np.array(built.space.sparsity(policy))
    seen = np.array([built.space.sparsity(trial.policy) for trial in trials])
    beyond = np.maximum(sparsity - seen.max(axis=0), seen.min(axis=0) - sparsity)
    if (out := int((beyond > 1e-9).sum())) == 0:
        return [*said, "No choice is pruned harder or less than in some trial."]
    worst = built.space.choices[int(beyond.argmax())].name
    far = f"{out} of {len(sparsity)} choices are pruned harder or less than in any trial"
    return [*said, f"{far}, {worst} by {beyond.max() * 100:.1f} points: there the run has learnt nothing."]
