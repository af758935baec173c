"""Prune again, without a search: what a `policy.json` says, or any point of a run's front of metric and cost.

A policy file is enough, unless the evaluator made networks from weights that it trained: these must lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.errors import ConfigError, PolicyError
from autoprune.evaluators.recovery.scorer import first_images, refuse_nonfinite
from autoprune.files import policy_file
from autoprune.files.policy_file import PolicyFile
from autoprune.protocols import SavesTime, Trains
from autoprune.report import words
from autoprune.runs import journal, study
from autoprune.runs.study import Study
from autoprune.task import Task
from autoprune.trust import restored
from autoprune.values import budget
from autoprune.values.space import Policy
from autoprune.values.trial import Trial


def apply_policy(path: str | Path, task: Task | None = None, *, data: str = "", trust: Sequence[str] = ()) -> nn.Module:
    """The pruned network that a policy file (or a run's directory) describes, recovered but not finetuned.

    Args:
        path: of the file, or of the directory that holds it.
        task: the network to prune and its images, in place of the file's. Its architecture must be the policy's; its
            weights may be others, and are then ranked anew, unless the evaluator trained weights of its own for them.
        data: where the data set of the file's task lies, if elsewhere than the file says.
        trust: addresses of code in the file that may be run, from now on.

    Raises PolicyError naming what differs where the policy is for another network, ModelError where the evaluator
    trained weights of its own and they do not lie beside the policy, and Untrusted where the file names code that was
    not allowed.
    """
    file = policy_file.read(path)
    asked = restored(_tables(file, task, data), str(path), trust=trust)
    built = study.build(asked, task=task, found={"precision": "fp32"})
    policy_file.require_same(file, built.task.model, weights=task is None)
    policy = file.policy(built.space.choices)
    return _recovered(built, policy, Path(path) if Path(path).is_dir() else Path(path).parent)


@dataclass(frozen=True)
class Point:
    """A point of a run's front.

    Attributes:
        trial: its policy, its costs.
        metric: on the holdout, as the task's metric gives it; `said` is the same in words.
        shares: the costs that were asked for, as shares of the dense network.
        model: the pruned network, recovered but not finetuned.
        rebuild: the built-in architecture that it is of, as `Task.rebuild`.
    """

    trial: Trial
    metric: float
    said: str
    shares: Mapping[str, float]
    model: nn.Module
    rebuild: str


def apply_point(
    directory: str | Path,
    at: Mapping[str, str | float],
    task: Task | None = None,
    *,
    data: str = "",
    trust: Sequence[str] = (),
) -> Point:
    """The network of the trial in a run with the best metric among those that cost at most what `at` says.

    Args:
        directory: of the run, which is only read; it need not be finished.
        at: ceilings as in a budget, by name of the cost: {"macs": "40%"}.
        task: the network and its images, where the run was begun with a Task from Python.
        data: where the data set lies, if elsewhere than the run says.
        trust: addresses of code in the run's files that may be run, from now on.

    Raises PolicyError where no trial is as cheap, naming the cheapest, and Untrusted as `apply_policy`.
    """
    directory = Path(directory)
    if not at:
        raise ConfigError('at = {}: a ceiling is needed, such as {"macs": "40%"}')
    over = {"search.device": "cpu", **({"task.data": data} if data else {})}
    asked = restored(journal.stored(directory, "config.json"), str(directory / "config.json"), over, trust=trust)
    if task is None and asked.task.use == study.GIVEN:
        raise PolicyError(f"{directory} is of a Task from Python; hand it over: apply_point(directory, at, task=...)")
    machine = journal.stored(directory, "machine.json")
    built = study.build(asked, task=task, found={**machine, "precision": "fp32"}, costs=list(at))
    journal.require_same(directory, built.space)
    trial = _cheap_enough(built, journal.trials(directory, built.space), at, directory)
    model = _recovered(built, trial.policy, directory)
    shares = {name: built.costs[name].predict(trial.policy) / built.dense[name] for name in at}
    judge = built.task.judge
    metric = judge.known(trial.metric or 0.0)
    said = f"holdout {judge.name} {words.number(metric, percent=judge.percent)}"
    return Point(trial, metric, said, shares, model, built.task.rebuild)


def _recovered(built: Study, policy: Policy, folder: Path) -> nn.Module:
    """The network of `policy`; weights that the evaluator trained for the search are read from `folder`."""
    if isinstance(built.evaluator, Trains):
        built.evaluator.take_up(folder)
    careful = built.evaluator.careful() if isinstance(built.evaluator, SavesTime) else built.evaluator
    model = careful.recover(careful.realise(policy)).model.eval()
    refuse_nonfinite(model, first_images(built.task.holdout))
    return model


def _cheap_enough(built: Study, trials: list[Trial], at: Mapping[str, str | float], directory: Path) -> Trial:
    """The best trial below the ceilings `at`; of equals the cheaper, by the first of them."""
    limits = budget.limits(at, built.costs, built.space)
    done = [trial for trial in trials if trial.metric is not None]
    if not done:
        raise PolicyError(f"no trial of {directory} succeeded yet; `{journal.resuming(directory)}` goes on with it")
    prices = {limit.name: {t.number: limit.cost.predict(t.policy) for t in done} for limit in limits}
    fitting = [t for t in done if all(prices[x.name][t.number] <= x.allowed for x in limits)]
    if not fitting:
        least = {name: min(of.values()) / built.dense[name] for name, of in prices.items()}
        said = ", ".join(f"{name}={share:.1%}" for name, share in least.items())
        wanted = ", ".join(f"{name}={value}" for name, value in at.items())
        raise PolicyError(f"no trial of {directory} costs as little as {wanted}; the cheapest are at {said} of dense")
    first = limits[0].name
    return max(fitting, key=lambda t: (t.metric or 0.0, -prices[first][t.number], -t.number))


def _tables(file: PolicyFile, task: Task | None, data: str) -> Mapping[str, Any]:
    """A config that says of the network and of pruning what the file says, and leaves the search aside."""
    if task is None and file.task.get("use") == study.GIVEN:
        raise PolicyError("the policy is for a Task from Python; hand it over again: apply_policy(path, task=...)")
    settings = file.task if task is None else {"use": study.GIVEN}
    if data and task is None:
        settings = {**settings, "data": data}
    return {
        "name": file.space,
        "task": settings,
        "criterion": file.criterion,
        "evaluator": file.evaluator,
        "operator": file.operator,
        "search": {"seed": file.seed},
    }
