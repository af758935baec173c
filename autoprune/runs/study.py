"""Everything that a config describes, built and wired: what the search runs on and what the report looks at.

Building refuses what cannot work (a network that does not run, NaN weights, an impossible budget) before anything is
written to disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from autoprune import inputs, plugins
from autoprune.config import Config
from autoprune.criteria import needed
from autoprune.engine import precision
from autoprune.engine.precision import Chosen
from autoprune.errors import BudgetError, ConfigError, Exhausted, ModelError, RunError
from autoprune.evaluators.bench import Bench
from autoprune.finetuning import check as check_recipe, needs_loss
from autoprune.inputs import Inputs
from autoprune.protocols import (
    Controller,
    Evaluator,
    Learns,
    NamesCost,
    NeedsLoss,
    PredictiveCost,
    Reward,
    SeeksFront,
    Target,
    Trains,
    Watch,
    silent,
)  # fmt: skip
from autoprune.rewards import require_fit, uses_costs, uses_dense_metric
from autoprune.runs import loop, samples
from autoprune.runs.adapted import adapted, changes
from autoprune.runs.calibration import Calibration
from autoprune.splits import draw
from autoprune.structure.prune import Candidate
from autoprune.structure.trace import Trace, trace
from autoprune.task import Task
from autoprune.train import Recipe, restart
from autoprune.values.budget import Budget, limits
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

ALWAYS = ("macs", "params")  # costs that every trial records; MACs where those of all operators are known
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
        bench: what evaluators stand on.
        evaluator: makes and judges pruned networks.
        reward: makes one number of metric and costs.
        arithmetic: in which precision networks are scored and trained; chosen once a run.
        step: the multiple of channels that was found for step = "auto"; 1 where none was asked for.
        shortcuts: whether so many trials were planned that what fast scores prepare pays; decided once a run.
        notes: what was done to the user's network before anything else, and what is to be known of its costs.
        begun: when building it began, by `time.perf_counter`.
    """

    config: Config
    task: Task
    trace: Trace
    space: SearchSpace
    costs: Mapping[str, PredictiveCost]
    dense: Mapping[str, float]
    budget: Budget
    bench: Bench
    evaluator: Evaluator
    reward: Reward
    arithmetic: Chosen
    step: int
    shortcuts: bool
    notes: tuple[str, ...] = ()
    begun: float = field(default_factory=time.perf_counter, compare=False)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What became of the limits of [space] that a person might not expect."""
        return self.config.space.remarks(self.trace.choices, self.step)

    @property
    def name(self) -> str:
        """Of the search space."""
        return self.space.name

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.config.search.seed

    @property
    def precision(self) -> str:
        """Of scores: "fp32", "bf16" or "int8"."""
        return self.arithmetic.score

    @property
    def traded(self) -> str:
        """The cost that is weighed against quality where no budget says: the reward's, else MACs."""
        named = self.reward.cost if isinstance(self.reward, NamesCost) else "macs"
        return named if named in self.costs else next(iter(self.costs))

    def require_end(self) -> None:
        """Raise ConfigError where nothing keeps a search from the dense network, than which little is better."""
        maker = self.controller()
        front = isinstance(maker, SeeksFront) and maker.seeks_front
        if not (self.budget.limits or uses_costs(self.reward) or front):
            raise ConfigError(
                "there is no budget, without which the dense network itself would be found: write [budget] "
                'macs = "50%" (--budget macs=50%; in Python budget={"macs": 0.5}), or take a reward that trades cost '
                "for quality (guaranteed, mnasnet, r_flops, r_param, r_latency), or controller nsga2 for a whole front"
            )

    @property
    def finetune(self) -> Recipe:
        """How the winner and the baselines are trained at the end."""
        return self.config.finetune.recipe(len(self.task.train), self.arithmetic.training)

    def controller(self, name: str = "") -> Controller:
        """The config's controller, or the one called `name` with its default settings."""
        settings = {"use": name} if name else self.config.controller.settings
        made: Controller = plugins.build("controller", settings, space=self.space, budget=self.budget, seed=self.seed)
        return made

    def attempt(self, number: int, policy: Policy) -> Trial:
        """Prune, evaluate and price `policy`."""
        return self.attempting(self.evaluator)(number, policy)

    def attempting(self, evaluator: Evaluator) -> loop.Attempt:
        """An attempt that another evaluator judges."""
        return loop.attempting(evaluator, self.costs, self.reward, self._yardstick)

    @cached_property
    def _yardstick(self) -> Mapping[str, float]:
        """What the reward compares with: the dense costs and, for a reward that asks for it, the dense metric."""
        if not uses_dense_metric(self.reward):
            return self.dense
        it = self.evaluator
        return {**self.dense, "metric": it.score(it.recover(it.realise(self.space.dense()))).metric}

    def rehearse(self) -> Candidate:
        """Make the thinnest network once, so that what can never work is refused before a run is begun.

        Nothing is trained for that. Returns it, not recovered.
        """
        with contextlib.suppress(Exhausted):
            self.controller().ask()
        it, thinnest = self.evaluator, self.space.thinnest()
        candidate = it.rehearse(thinnest) if isinstance(it, Trains) else it.realise(thinnest)
        what = f"the thinnest pruned network fails on an input of shape {inputs.shapes(self.task.example)}"
        samples.run_once(candidate.model, self.task.example, what)
        if self.config.finetune.start == "scratch":
            restart(candidate.model, self.seed)
        samples.look(self.task, "test")
        self.require_loss()
        return candidate

    def require_loss(self) -> None:
        """Raise ConfigError where something needs the task's loss on training samples and cannot have it."""
        if asking := self._asks_for_the_loss():
            samples.require_loss(self.task, asking)

    def _asks_for_the_loss(self) -> str:
        """What needs the task's loss on training samples, and what to write without them; "" if nothing does."""
        config, finetune = self.config, self.finetune
        if needs_loss(finetune) or (config.finetune.epochs and not config.finetune.use and not self.task.trains):
            return f"[finetune] epochs = {config.finetune.epochs:g}; write epochs = 0"
        if isinstance(self.evaluator, NeedsLoss) and self.evaluator.needs_loss:
            return f"evaluator {config.evaluator.use!r}; take 'recalibrate' or 'reconstruct'"
        if "grad" in needed(plugins.build("criterion", config.criterion.settings)):
            return f"criterion {config.criterion.use!r}; take 'group_norm'"
        return ""

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
    anew: bool = False,
    measures: bool = True,
) -> Study:
    """The study of `config`.

    `task` stands in for the config's. `found` is what was found when the run that is resumed began, and is not looked
    for again: precision, what costs had learnt, step, short cuts. `watch` hears what is being done. `costs` are wanted
    besides those that are needed. With `anew`, it is measured again which precision pays. What does not measure, a
    worker among others, needs what costs had learnt in `found`.
    """
    begun = time.perf_counter()
    _check_plugins(config)
    watch("loading the task", 0, 1)
    given, seed = task or _task(config), config.search.seed
    task = samples.as_begun(samples.looked_at(adapted(given, config.search.device)), found)
    task = dataclasses.replace(task, example=inputs.in_use(task.model, task.example))
    watch("tracing the network", 0, 1)
    declared = [plugins.build("operator", one.settings) for one in config.operator]
    traced = trace(task.model, task.example, declared, config.space.kinds)
    if not traced.choices:
        raise ModelError(f"no group of {task.name} can be pruned; `autoprune check` names what is frozen and why")
    step = int(found.get("step", 1)) if found else _found_step(config, traced, task, watch)
    space = _space(config, task, traced, step)
    always = [name for name in ALWAYS if name != "macs" or not space.unpriced]
    reward: Reward = plugins.build("reward", config.reward.settings)
    require_fit(config.reward.use, reward, task.judge)
    priced = _costs([*always, *config.budget, *costs], config, reward, space, traced, task, found.get("costs", {}))
    for name, cost in priced.items():
        if isinstance(cost, Learns):
            if not measures and name not in found.get("costs", {}):
                raise ConfigError(f"what {name} had learnt was not sent, and nothing is timed beside other workers")
            cost.learn(watch)
    ceilings = limits(config.budget, priced, space)
    for one in ceilings:
        if fault := one.unmet(space):
            raise BudgetError(fault + config.space.blamed(traced.choices, step, one.cost.predict))
    watch("choosing the precision", 0, 1)
    arithmetic, noted = _arithmetic(config, task, found, anew)
    shortcuts = bool(found.get("shortcuts", True)) if found else config.search.pays(PAYS)
    criterion = plugins.build("criterion", config.criterion.settings)
    bench = Bench(task, traced, space, criterion, seed, arithmetic.score, shortcuts, arithmetic.training)
    return Study(
        config=config,
        task=task,
        trace=traced,
        space=space,
        costs=priced,
        dense={name: float(cost.predict(space.dense())) for name, cost in priced.items()},
        budget=Budget(space, ceilings, fill=not uses_costs(reward)),
        bench=bench,
        evaluator=plugins.build("evaluator", config.evaluator.settings, bench=bench),
        reward=reward,
        arithmetic=arithmetic,
        step=step,
        shortcuts=shortcuts,
        notes=(*changes(given.model), *traced.notes, *noted),
        begun=begun,
    )


def _space(config: Config, task: Task, traced: Trace, step: int = 1) -> SearchSpace:
    """What may be decided, within the limits of [space], where `step` is the multiple that was found."""
    name, ties = config.name or task.name, config.space.tied(traced.choices)
    choices = config.choices(traced.choices, step)
    return SearchSpace(name, choices, traced.ops, traced.parameters, ties)


def _found_step(config: Config, traced: Trace, task: Task, watch: Watch) -> int:
    """The multiple of channels that costs nothing on the target, from a model of policies of any width; 1 unasked."""
    if not config.space.finds_step:
        return 1
    space = _space(config, task, traced)
    target = plugins.build("target", config.target.settings)
    cost = plugins.build("cost", {"use": "latency"}, space=space, trace=traced, task=task, target=target)
    cost.learn(watch)
    return int(cost.step())


def _check_plugins(config: Config) -> None:
    """Refuse an unknown plugin or setting now, before data are read and networks are traced."""
    for kind in ("controller", "evaluator", "criterion", "reward", "target"):
        plugins.check(kind, getattr(config, kind).settings)
    for one in config.operator:
        plugins.check("operator", one.settings)
    check_recipe(config.finetune.recipe(1, "fp32"))
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


def _arithmetic(config: Config, task: Task, found: Facts, anew: bool) -> tuple[Chosen, Sequence[str]]:
    """The precision of scores and of training, and what a reader must know of that; what was `found` stays."""
    seed, asked = config.search.seed, config.search.precision
    if "precision" in found:
        score, of_run = found["precision"], "torch" in found
        if score not in get_args(precision.Precision):
            raise RunError(f"machine.json: precision = {score!r}; 'fp32', 'bf16' or 'int8' is right")
        default = precision.trained(score) if of_run else precision.trains(task.model, _probe(task, seed))
        because = str(found.get("because", "it was chosen when the run began" if of_run else "it is exact"))
        return Chosen(score, found.get("training", default), because), ()
    if asked != "auto":
        return precision.pinned(asked, task.model, _probe(task, seed)), ()
    kept = Calibration(task.model, anew)
    judge = draw(task.holdout, _JUDGED, seed)
    chosen = precision.choose(task.model, _probe(task, seed), kept, lambda model: task.quality(model, judge))
    return chosen, kept.notes


def _probe(task: Task, seed: int) -> Inputs:
    images, _ = next(iter(draw(task.calibration, _PROBE, seed).batches(_PROBE)))
    return images
