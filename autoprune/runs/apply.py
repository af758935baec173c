"""Prune again, without a search: what a `policy.json` says, or any point of a run's front of metric and cost.

A policy file is enough, unless the evaluator made networks from weights that it trained: these must lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from autoprune.copies import copied
from autoprune.errors import ConfigError, PolicyError
from autoprune.evaluators.recovery.scorer import first_images, refuse_nonfinite
from autoprune.files import policy_file
from autoprune.files.policy_file import PolicyFile
from autoprune.metrics import Judge
from autoprune.protocols import SavesTime, Trains, Watch, silent
from autoprune.report import words
from autoprune.report.facts import FACTS, read
from autoprune.runs import journal, machine, study
from autoprune.runs.compare import taught
from autoprune.runs.rules import Rules
from autoprune.runs.study import Study
from autoprune.structure.trace import BLOCKS, CHANNELS
from autoprune.task import Task
from autoprune.train import Recipe
from autoprune.trust import restored
from autoprune.values import budget
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

Settings = Mapping[str, Any]
Measured = Mapping[str, Mapping[int, float]]  # by name of the cost and number of the trial
NOTHING: Settings = MappingProxyType({})


@dataclass(frozen=True)
class Applied:
    """The network of a policy, what it costs, and how good it is on the holdout.

    Attributes:
        policy: what stays of each choice.
        model: the pruned network, recovered and finetuned.
        rebuild: the built-in architecture that it is of, as `Task.rebuild`.
        judge: what the metric is called and how its numbers are shown; they are here as the metric gives them.
        dense, before, after: the metric of the dense network, of the pruned one as it has recovered, and of `model`.
        taught: how it was trained; no steps where it was not.
        costs: by name of the cost: its unit, of the dense network, of the pruned one as it is predicted.
        guessed: names of costs whose prediction has an error, which latency's has; others are exact.
    """

    policy: Policy
    model: nn.Module
    rebuild: str
    judge: Judge
    dense: float
    before: float
    after: float
    taught: Recipe
    costs: Mapping[str, tuple[str, float, float]]
    guessed: tuple[str, ...] = ()


def apply_policy(
    path: str | Path,
    task: Task | None = None,
    *,
    data: str = "",
    trust: Sequence[str] = (),
    finetune: bool = True,
    recipe: Settings = NOTHING,
) -> nn.Module:
    """The pruned network that a policy file (or a run's directory) describes, recovered and finetuned.

    Args:
        path: of the file, or of the directory that holds it.
        task: the network to prune and its images, in place of the file's. Its architecture must be the policy's; its
            weights may be others, and are then ranked anew, unless the evaluator trained weights of its own for them.
        data: where the data set of the file's task lies, if elsewhere than the file says.
        trust: addresses of code in the file that may be run, from now on.
        finetune: whether the network is trained as the search trained its winner, by the recipe in the file. So it is
            unless that is switched off.
        recipe: what is to be different there, by the keys of [finetune]: {"lr": 0.01, "epochs": 2}.

    Raises PolicyError naming what differs where the policy is for another network, or where the file holds no recipe
    (earlier versions wrote none) and `recipe` says no epochs; ModelError where the evaluator trained weights of its own
    and they do not lie beside the policy, and Untrusted where the file names code that was not allowed.
    """
    return applied_policy(path, task, data=data, trust=trust, finetune=finetune, recipe=recipe).model


def applied_policy(
    path: str | Path,
    task: Task | None = None,
    *,
    data: str = "",
    trust: Sequence[str] = (),
    finetune: bool = True,
    recipe: Settings = NOTHING,
    watch: Watch = silent,
) -> Applied:
    """As `apply_policy`, with what the network costs and how good it is."""
    file = policy_file.read(path)
    asked = restored(_tables(file, task, data), str(path), _over(recipe), trust=trust)
    built = study.build(asked, task=task, found={"precision": "fp32"}, watch=watch)
    if finetune and not file.finetune and "epochs" not in recipe:
        raise PolicyError(
            f"{path} holds no recipe of a finetune, as policies of earlier versions do not; "
            "--epochs N finetunes with the usual one (in Python: recipe), --no-finetune does without (finetune=False)"
        )
    policy_file.require_same(file, built.task.model, weights=task is None)
    policy = file.policy(built.space.choices)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return made(built, policy, folder, file.model.rebuild, finetune, watch)


@dataclass(frozen=True)
class Point:
    """A point of a run's front.

    Attributes:
        trial: its policy, its costs.
        metric: on the holdout as the search saw it, as the task's metric gives it; `said` is the same in words.
        shares: the costs that were asked for, as shares of the dense network.
        applied: the network, and how good it is.
    """

    trial: Trial
    metric: float
    said: str
    shares: Mapping[str, float]
    applied: Applied

    @property
    def model(self) -> nn.Module:
        """The pruned network, recovered and finetuned."""
        return self.applied.model


def apply_point(
    directory: str | Path,
    at: Mapping[str, str | float],
    task: Task | None = None,
    *,
    data: str = "",
    trust: Sequence[str] = (),
    finetune: bool = True,
    recipe: Settings = NOTHING,
    watch: Watch = silent,
) -> Point:
    """The network of the trial in a run with the best metric among those that cost at most what `at` says.

    Args:
        directory: of the run, which is only read; it need not be finished.
        at: ceilings as in a budget, by name of the cost: {"macs": "40%"}.
        task: the network and its images, where the run was begun with a Task from Python.
        data: where the data set lies, if elsewhere than the run says.
        trust: addresses of code in the run's files that may be run, from now on.
        finetune, recipe: as of `apply_policy`; the recipe is the run's.
        watch: hears how far the work has come.

    Raises PolicyError where no trial is as cheap, naming the cheapest, and Untrusted as `apply_policy`.
    """
    directory = Path(directory)
    if not at:
        raise ConfigError('at = {}: a ceiling is needed, such as {"macs": "40%"}')
    built = of_run(directory, task, data=data, trust=trust, recipe=recipe, watch=watch, costs=list(at))
    journal.require_same(directory, built.space)
    rules = Rules(built.space, built.costs, built.budget.limits, optional=frozenset(at))
    measured = _measured(directory)
    trial = _cheap_enough(built, journal.trials(directory, rules), at, directory, measured)
    network = made(built, trial.policy, directory, built.task.rebuild, finetune, watch)
    network = _with(network, {cost: of[trial.number] for cost, of in measured.items() if trial.number in of})
    shares = {name: cost / dense for name, (_, dense, cost) in network.costs.items() if name in at}
    judge = built.task.judge
    metric = judge.known(trial.metric or 0.0)
    said = f"holdout {judge.name} {words.number(metric, percent=judge.percent)}"
    return Point(trial, metric, said, shares, network)


def _measured(directory: Path) -> Measured:
    """What the report of a run says was measured; nothing before there is one."""
    if not (directory / FACTS).exists():
        return {}
    found = read(directory)
    return {
        cost: {trial.number: trial.costs[cost] for trial in found.trials if trial.number in those}
        for cost, those in found.measured.items()
    }


def _with(made: Applied, measured: Mapping[str, float]) -> Applied:
    """`made` with what was `measured` of its policy in place of what is predicted."""
    costs = {name: (unit, dense, measured.get(name, cost)) for name, (unit, dense, cost) in made.costs.items()}
    return replace(made, costs=costs, guessed=tuple(name for name in made.guessed if name not in measured))


def of_run(
    directory: Path,
    task: Task | None,
    *,
    data: str,
    trust: Sequence[str],
    recipe: Settings,
    watch: Watch,
    over: Settings = NOTHING,
    costs: Sequence[str] = (),
) -> Study:
    """The study of a run as networks are made of its policies: on this processor, without short cuts.

    `over` is laid on top of its config, and what was measured on another target is then not known; `costs` are wanted
    besides its own.
    """
    changed = {"search.device": "cpu", **({"task.data": data} if data else {}), **_over(recipe), **over}
    asked = restored(journal.stored(directory, "config.json"), str(directory / "config.json"), changed, trust=trust)
    if task is None and asked.task.use == study.GIVEN:
        raise PolicyError(f"{directory} is of a Task from Python; hand it over: task=...")
    found = {**machine.read(directory), "precision": "fp32", **({"costs": {}} if "target" in over else {})}
    return study.build(asked, task=task, found=found, watch=watch, costs=costs)


def _over(recipe: Settings) -> dict[str, Any]:
    """What a config takes to have another recipe of the finetune."""
    return {f"finetune.{key}": value for key, value in recipe.items()}


def made(built: Study, policy: Policy, folder: Path, rebuild: str, finetune: bool, watch: Watch) -> Applied:
    """The network of `policy`, trained as the winner of a search is, and what is to be said of it."""
    task, judge = built.task, built.task.judge
    if finetune:
        built.require_loss()
    watch("recovering", 0, 1)
    model = _recovered(built, policy, folder)
    watch("recovering", 1, 1)
    dense, before = (judge.known(task.quality(one, task.holdout)) for one in (copied(task.model).eval(), model))
    recipe = built.finetune if finetune else replace(built.finetune, steps=0)
    if recipe.steps:
        taught(built, model, "finetuning", watch)
    after = judge.known(task.quality(model, task.holdout)) if recipe.steps else before
    costs = {name: (cost.unit, built.dense[name], cost.predict(policy)) for name, cost in built.costs.items()}
    guessed = tuple(name for name, cost in built.costs.items() if isinstance(cost, budget.KeepsAway))
    return Applied(policy, model, rebuild, judge, dense, before, after, recipe, costs, guessed)


def _recovered(built: Study, policy: Policy, folder: Path) -> nn.Module:
    """The network of `policy`; weights that the evaluator trained for the search are read from `folder`."""
    if isinstance(built.evaluator, Trains):
        built.evaluator.take_up(folder)
    careful = built.evaluator.careful() if isinstance(built.evaluator, SavesTime) else built.evaluator
    model = careful.recover(careful.realise(policy)).model.eval()
    refuse_nonfinite(model, first_images(built.task.holdout))
    return model


def _cheap_enough(
    built: Study,
    trials: list[Trial],
    at: Mapping[str, str | float],
    directory: Path,
    measured: Measured,
) -> Trial:
    """The best trial below the ceilings `at`, by what was measured where it was; of equals the cheaper."""
    limits = budget.limits(at, built.costs, built.space)
    done = [trial for trial in trials if trial.metric is not None]
    if not done:
        raise PolicyError(f"no trial of {directory} succeeded yet; `{journal.resuming(directory)}` goes on with it")
    known = {x.name: dict(measured.get(x.name, {})) for x in limits}
    prices = {x.name: {t.number: x.cost.predict(t.policy) for t in done} | known[x.name] for x in limits}
    most = {x.name: {t.number: x.allowed for t in done} | dict.fromkeys(known[x.name], x.most) for x in limits}
    fitting = [t for t in done if all(prices[x.name][t.number] <= most[x.name][t.number] for x in limits)]
    if not fitting:
        least = {name: min(of.values()) / built.dense[name] for name, of in prices.items()}
        said = ", ".join(f"{name}={share:.1%}" for name, share in least.items())
        wanted = ", ".join(f"{name}={value}" for name, value in at.items())
        kept = "".join(f"; {limit.sentence()}" for limit in limits if limit.margin)
        raise PolicyError(
            f"no trial of {directory} costs as little as {wanted}; the cheapest are at {said} of dense{kept}"
        )
    first = limits[0].name
    return max(fitting, key=lambda t: (t.rung, t.metric or 0.0, -prices[first][t.number], -t.number))


def _tables(file: PolicyFile, task: Task | None, data: str) -> Mapping[str, Any]:
    """A config that says of the network and of pruning what the file says, and leaves the search aside."""
    if task is None and file.task.get("use") == study.GIVEN:
        raise PolicyError("the policy is for a Task from Python; hand it over again: apply_policy(path, task=...)")
    settings = file.task if task is None else {"use": study.GIVEN}
    if data and task is None:
        settings = {**settings, "data": data}
    kinds = list(dict.fromkeys(c.kind if c.kind in BLOCKS else CHANNELS[0] for c in file.choices))
    return {
        "name": file.space,
        "task": settings,
        "criterion": file.criterion,
        "evaluator": file.evaluator,
        "operator": file.operator,
        "space": {"kinds": kinds or list(CHANNELS)},
        "search": {"seed": file.seed},
        "finetune": file.finetune,
    }
