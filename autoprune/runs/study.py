"""Everything that a config describes, built and wired: what the search runs on and what the report looks at.

Building refuses what cannot work (a network that does not run, NaN weights, an impossible budget) before anything is
written to disk.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from autoprune import inputs, plugins
from autoprune.config import Config
from autoprune.engine import precision
from autoprune.errors import ConfigError, Exhausted, ModelError, one_line
from autoprune.evaluators.bench import Bench
from autoprune.inputs import Inputs
from autoprune.protocols import (
    Controller,
    Evaluator,
    Learns,
    NamesCost,
    PredictiveCost,
    Reward,
    Target,
    Trains,
    Watch,
    silent,
)  # fmt: skip
from autoprune.rewards import uses_costs, uses_dense_metric
from autoprune.runs import loop
from autoprune.structure.trace import Trace, trace
from autoprune.task import Batch, Split, Task
from autoprune.train import Recipe, restart
from autoprune.values.budget import Budget, limits
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

ALWAYS = ("macs", "params")  # costs that every trial records
GIVEN = "given"  # the `use` of a task that was handed over as an object
PAYS = 120  # trials from which on what takes half a minute to prepare pays: docs/decisions/0008
Facts = Mapping[str, Any]  # what was found when a run began, as machine.json holds it
NOTHING: Facts = MappingProxyType({})
_PROBE, _JUDGED = 128, 1000  # images on which the precision is chosen, and its metric compared


@dataclass(frozen=True)
class Study:
    """What one config means.

    Attributes:
        config: what was asked, every default said.
        task: the network, its images and its metric.
        trace: what of the network can be pruned.
        space: the same as choices and costs, within the limits of the config.
        costs: by name; those of the budget and the reward, MACs and parameters in any case.
        dense: what the dense network costs, by name of the cost.
        budget: the ceilings.
        evaluator: makes and judges pruned networks.
        reward: makes one number of metric and costs.
        precision: "fp32", "bf16" or "int8", of scores; chosen once a run.
        step: the multiple of channels that was found for step = "auto"; 1 where none was asked for.
        shortcuts: whether so many trials were planned that what fast scores prepare pays; decided once a run.
    """

    config: Config
    task: Task
    trace: Trace
    space: SearchSpace
    costs: Mapping[str, PredictiveCost]
    dense: Mapping[str, float]
    budget: Budget
    evaluator: Evaluator
    reward: Reward
    precision: str
    step: int
    shortcuts: bool

    @property
    def name(self) -> str:
        """Of the search space."""
        return self.space.name

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.config.search.seed

    @property
    def random_trials(self) -> int:
        """How many random policies the report's baseline is chosen from."""
        return self.config.report.random_trials

    @property
    def finetune(self) -> Recipe:
        """How the winner and the baselines are trained at the end."""
        return self.config.finetune.recipe(len(self.task.train), precision.training(self.precision))

    def controller(self, name: str = "") -> Controller:
        """The config's controller, or the one called `name` with its default settings."""
        settings = {"use": name} if name else self.config.controller.settings
        made: Controller = plugins.build("controller", settings, space=self.space, budget=self.budget, seed=self.seed)
        return made

    def attempt(self, number: int, policy: Policy) -> Trial:
        """Prune, evaluate and price `policy`."""
        return loop.attempting(self.evaluator, self.costs, self.reward, self._yardstick)(number, policy)

    @cached_property
    def _yardstick(self) -> Mapping[str, float]:
        """What the reward compares with: the dense costs and, for a reward that asks for it, the dense metric."""
        if not uses_dense_metric(self.reward):
            return self.dense
        it = self.evaluator
        return {**self.dense, "metric": it.score(it.recover(it.realise(self.space.dense()))).metric}

    def rehearse(self) -> None:
        """Make the thinnest network once, so that what can never work is refused before a run is begun.

        Nothing is trained for that.
        """
        with contextlib.suppress(Exhausted):
            self.controller().ask()
        it, thinnest = self.evaluator, self.space.thinnest()
        candidate = it.rehearse(thinnest) if isinstance(it, Trains) else it.realise(thinnest)
        _run_once(candidate.model, self.task.example, "the thinnest pruned network")
        if self.config.finetune.start == "scratch":
            restart(candidate.model, self.seed)

    def prepare(self, folder: Path | None, watch: Watch = silent) -> None:
        """Let the evaluator train what it needs, if it does; it is kept in `folder`, and taken up from there."""
        if isinstance(self.evaluator, Trains):
            self.evaluator.prepare(folder, watch)


def build(
    config: Config,
    *,
    task: Task | None = None,
    found: Facts = NOTHING,
    watch: Watch = silent,
    costs: Sequence[str] = (),
) -> Study:
    """The study of `config`.

    `task` stands in for the config's. `found` is what was found when the run that is resumed began, and is not looked
    for again: precision, what costs had learnt, step, short cuts. `watch` hears how far a cost that must measure has
    come. `costs` are wanted besides those that are needed.
    """
    _check_plugins(config)
    task = _checked(_on_device(task or _task(config), config.search.device))
    traced = trace(task.model, task.example)
    if not traced.choices:
        raise ModelError(f"no group of {task.name} can be pruned; `autoprune check` names what is frozen and why")
    step = int(found.get("step", 1)) if found else _found_step(config, traced, task, watch)
    space = SearchSpace(config.name or task.name, config.choices(traced.choices, step), traced.ops, traced.parameters)
    reward: Reward = plugins.build("reward", config.reward.settings)
    priced = _costs([*ALWAYS, *config.budget, *costs], config, reward, space, traced, task, found.get("costs", {}))
    for cost in priced.values():
        if isinstance(cost, Learns):
            cost.learn(watch)
    budget = Budget(space, limits(config.budget, priced, space), fill=not uses_costs(reward))
    chosen = str(found.get("precision", "")) or precision.choose(
        task.model, _probe(task), lambda model: task.metric(model, task.holdout.head(_JUDGED))
    )
    shortcuts = bool(found.get("shortcuts", True)) if found else config.search.trials >= PAYS
    criterion = plugins.build("criterion", config.criterion.settings)
    bench = Bench(task, traced, space, criterion, config.search.seed, chosen, shortcuts)
    return Study(
        config=config,
        task=task,
        trace=traced,
        space=space,
        costs=priced,
        dense={name: cost.predict(space.dense()) for name, cost in priced.items()},
        budget=budget,
        evaluator=plugins.build("evaluator", config.evaluator.settings, bench=bench),
        reward=reward,
        precision=chosen,
        step=step,
        shortcuts=shortcuts,
    )


def _found_step(config: Config, traced: Trace, task: Task, watch: Watch) -> int:
    """The multiple of channels that costs nothing on the target, from a model of policies of any width; 1 unasked."""
    if not config.finds_step:
        return 1
    space = SearchSpace(config.name or task.name, config.choices(traced.choices), traced.ops, traced.parameters)
    target = plugins.build("target", config.target.settings)
    cost = plugins.build("cost", {"use": "latency"}, space=space, trace=traced, task=task, target=target)
    cost.learn(watch)
    return int(cost.step())


def _check_plugins(config: Config) -> None:
    """Refuse an unknown plugin or setting now, before data are read and networks are traced."""
    for kind in ("controller", "evaluator", "criterion", "reward", "target"):
        plugins.check(kind, getattr(config, kind).settings)
    if config.task.use != GIVEN:
        plugins.check("task", config.task.settings)


def _task(config: Config) -> Task:
    if config.task.use == GIVEN:
        raise ConfigError(
            "this run was begun from Python with a Task; go on with autoprune.resume(directory, task=...)"
        )
    made = plugins.build("task", config.task.settings)
    if not isinstance(made, Task):
        raise ConfigError(f"task {config.task.use!r} returns a {type(made).__name__}; it should return autoprune.Task")
    return made


def _checked(task: Task) -> Task:
    """`task`, if its network has finite weights and runs on its example."""
    for name, tensor in task.model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{task.name}: {name!r} holds NaN or infinity; load another checkpoint")
    _run_once(task.model, task.example, f"the network of {task.name}")
    for split in ("train", "holdout", "test"):
        if not len(getattr(task, split)):
            raise ConfigError(f"task {task.name}: its split {split!r} is empty; it should hold at least one sample")
    return task


def _run_once(model: nn.Module, example: Inputs, what: str) -> None:
    """One forward pass that leaves the training mode of every module as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            inputs.call(model, example)
    except Exception as wrong:  # whatever a user's forward raises
        reason = f"{type(wrong).__name__}: {one_line(wrong)}"
        raise ModelError(f"{what} fails on an input of shape {inputs.shapes(example)} ({reason})") from wrong
    finally:
        for module, training in modes.items():
            module.training = training


def _costs(
    wanted: list[str], config: Config, reward: Reward, space: SearchSpace, traced: Trace, task: Task, known: Facts
) -> dict[str, PredictiveCost]:
    if isinstance(reward, NamesCost) and isinstance(reward.cost, str):
        wanted.append(reward.cost)
    target: dict[str, Target] = {}
    for name in wanted:
        if plugins.takes("cost", name, "target") and not target:
            target["target"] = plugins.build("target", config.target.settings)
    return {
        name: plugins.build(
            "cost", {"use": name}, space=space, trace=traced, task=task, known=known.get(name, {}), **target
        )
        for name in dict.fromkeys(wanted)
    }


def _probe(task: Task) -> Inputs:
    images, _ = next(iter(task.train.head(_PROBE).batches(_PROBE)))
    return images


def _on_device(task: Task, device: str) -> Task:
    """`task` with a copy of its network, its example and its batches on `device`."""
    if device == "cpu":
        return task
    if not torch.cuda.is_available():
        raise ConfigError(f"search.device = {device!r}: this machine has no CUDA device; write 'cpu'")
    return dataclasses.replace(
        task,
        model=copy.deepcopy(task.model).to(device),
        example=inputs.moved(task.example, device),
        train=_OnDevice(task.train, device),
        holdout=_OnDevice(task.holdout, device),
        test=_OnDevice(task.test, device),
    )


@dataclass(frozen=True)
class _OnDevice:
    """A split whose batches lie on `device`."""

    split: Split
    device: str

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int) -> Iterator[Batch]:
        yield from (self._moved(batch) for batch in self.split.batches(size))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield from (self._moved(batch) for batch in self.split.shuffled(size, generator))

    def head(self, count: int) -> _OnDevice:
        return _OnDevice(self.split.head(count), self.device)

    def _moved(self, batch: Batch) -> Batch:
        return inputs.moved(batch, self.device)
