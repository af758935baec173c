"""How a run begins, goes on and ends: what `autoprune.search` and the command line call."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from autoprune import config
from autoprune.config import Config
from autoprune.errors import ConfigError
from autoprune.files import disk
from autoprune.files.export import load
from autoprune.protocols import Controller, Learns, Watch, silent
from autoprune.report import page, words
from autoprune.report.facts import Report
from autoprune.runs import agents, failing, firsts, journal, loop, machine, rungs, spoken, study, warm
from autoprune.runs.baselines import Baselines
from autoprune.runs.course import Ladder, Straight
from autoprune.runs.deliver import finish, finished
from autoprune.runs.journal import Run
from autoprune.runs.rehearsal import rehearse
from autoprune.runs.study import Study
from autoprune.runs.warm import Warm
from autoprune.runs.workers import Crew, Terms, alone
from autoprune.task import Task
from autoprune.trust import named, remember, restored
from autoprune.values import people
from autoprune.values.space import Policy

_THEN: Mapping[str, Mapping[str, Any]] = {"evolution": {"brood": 12}}  # of controllers, what other defaults were


@dataclass(frozen=True)
class Result:
    """What came out of a search.

    Attributes:
        policy: the best one found, or a baseline's where that was better on the holdout after the finetune.
        model: the network pruned by it and finetuned.
        report: what `report.json` holds.
        directory: of the run; everything lies there.
    """

    policy: Policy
    model: nn.Module
    report: Report
    directory: Path

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        head, *rows = words.table(self.report)
        below = f"{words.delivered(self.report)} All of it: {self.directory / page.PAGE}".strip()
        return people.table(words.sentence(self.report), head, rows, below)


def asked_of(task: Task | str | Path, over: Mapping[str, Any]) -> Config:
    """The config of what `search` takes as its task, with `over` on top."""
    if isinstance(task, Task):
        return config.parse({"name": task.name, "task": {"use": study.GIVEN}}, f"task {task.name!r}", over)
    return config.find(str(task), over)


def begin(built: Study, root: Path, known: Warm = warm.NOTHING, crew: Crew | None = None, *, called: str = "") -> Run:
    """A new run of a study, in a new folder below `root`. Nothing is written if the study, or a worker, cannot work.

    The folder is named after the controller, or `called` what is said.

    What is `known` from elsewhere is asked before all else, and told to the controller.
    """
    built.require_end()
    rehearse(built)
    asked = built.config
    remember(named(asked))
    directory = journal.place(root, built.name, called or asked.controller.use, built.seed, datetime.now(UTC))
    found = {**facts_of(built), **firsts.found(built), **rungs.planned(built)}
    own = () if known.told else firsts.known(found)
    found[firsts.KEY] = [policy.levels for policy in dict.fromkeys([*known.first, *own])]
    found |= {warm.KEY: known.facts()} if known.sources else {}
    if crew:
        found |= crew.facts()
        crew.equip(built, found)
    found[journal.PREPARING] = perf_counter() - built.begun
    return Run(directory, asked.plain(), built.space, found, costs=built.costs, limits=built.budget.limits)


def reopen(
    directory: Path,
    *,
    trials: int = 0,
    time: str | float = 0.0,
    task: Task | None = None,
    watch: Watch = silent,
    trust: Sequence[str] = (),
    lr: float = 0.0,
    staff: Mapping[str, Any] | None = None,
) -> tuple[Study, Run]:
    """The study and the run that lie in `directory`, on the threads and in the precision that they were begun with.

    `lr` is the learning rate of the finetune in place of the run's, whose config stays as it is; `staff` are workers
    in place of the run's.
    """
    source = str(directory / "config.json")
    if 0 < trials < (held := journal.count(directory)):
        raise ConfigError(f"{directory} holds {held} trials already; write --trials {held} or more")
    written = journal.stored(directory, "config.json")
    if time and not written.get("search", {}).get("time"):
        raise ConfigError(f"time = {time!r}: {directory} was begun with so many trials; --trials N goes on with it")
    over: dict[str, Any] = {f"search.{key}": value for key, value in (("trials", trials), ("time", time)) if value}
    if staff is not None:
        others = {"local": 0, "gpus": 0, "cluster": "", **staff}
        over |= {f"workers.{key}": who for key, who in others.items()}
    found = machine.read(directory)
    begun = written if firsts.RULES in found else _with_defaults_of_then(written)
    asked = restored(begun, source, over, trust=trust)
    if "threads" in found:
        torch.set_num_threads(found["threads"])
    rated = restored(begun, source, {**over, "finetune.lr": lr}, trust=trust) if lr else asked
    built = study.build(rated, task=task, found=found, watch=watch)
    now = asked.plain()
    compared, limits = _as_written(written, now), built.budget.limits
    return built, Run(directory, now, built.space, compared=compared, costs=built.costs, limits=limits)


def complete(
    built: Study,
    opened: Run,
    crew: Crew | None = None,
    *,
    watch: loop.Watch = lambda trial: None,
    stage: Watch = silent,
    again: bool = False,
) -> Result:
    """Search until the run holds what was asked for, then finetune, export and report; `again` if that was done.

    Policies are evaluated by `crew`, or else here. `watch` sees every trial; `stage` hears how far the work before and
    after the search has come. The logger `autoprune` is told both.
    """
    spoken.begins(built, opened)
    watch, stage = failing.watching(built, spoken.trials(built, watch)), spoken.stages(stage)
    before, held = finished(opened), len(opened)
    over = _searched(built, opened, before)
    if again or not over:
        built.prepare(opened.directory, stage)
    with crew.searching(built, opened) if crew else alone(Terms.of(opened.machine)) as executor:
        controller = _search(built, opened, executor, watch, stage, over=over)
        undone = again or before is None or len(opened) > held
        baselines = Baselines.scored(built, opened, stage, executor) if undone else None
    if undone:
        failing.of_winner(built, opened.best().policy)
    with disk.refused(opened.directory):
        agents.kept(controller, opened.directory)
        report = finish(built, opened, stage, again=again, baselines=baselines)
    spoken.ends(report, opened)
    return Result(Policy(report.final.kept), load(opened.directory, model=built.task.model), report, opened.directory)


def _searched(built: Study, run: Run, came: Report | None) -> bool:
    """Whether `run`, which came to a report, had the time that is asked for, or holds so many trials."""
    asked = built.config.search
    return came is not None and (asked.time <= came.time if asked.time else len(run) >= asked.trials)


def _search(built: Study, run: Run, executor: Executor, watch: loop.Watch, stage: Watch, *, over: bool) -> Controller:
    """Go on with the trials of `run`, as its facts say, unless it is `over`; returns the controller that asked last."""
    asking = list[Controller]()

    def make() -> Controller:
        asking.append(warm.begun(built, run.machine))
        return asking[-1]

    terms, steps, first = Terms.of(run.machine), rungs.known(run.machine), firsts.known(run.machine)
    asked, attempts = built.config.search, rungs.attempts(built, steps)
    limit = asked.time - run.machine.get(rungs.SPENT, 0.0) if asked.time else math.inf
    if terms == Terms():
        attempts = [loop.remembering(each, run, rung) for rung, each in enumerate(attempts)]
    loop.follow(
        Ladder(steps, make, first, stage) if steps[1:] else Straight(make(), first),
        attempts,
        run,
        trials=asked.trials,
        seconds=0.0 if over else limit,
        watch=watch,
        executor=executor,
        window=terms.window,
        finished=terms.finished,
    )
    return asking[-1]


def _with_defaults_of_then(written: dict[str, Any]) -> dict[str, Any]:
    """The config of a run that was begun before rules were kept, with the defaults of settings that it did not say."""
    controller = written.get("controller")
    if not isinstance(controller, dict) or controller.get("use") not in _THEN:
        return written
    return {**written, "controller": {**_THEN[controller["use"]], **controller}}


def _as_written(before: Any, now: Any) -> Any:
    """`now` without the settings that there were not yet when `before` was written; they are at their defaults."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: _as_written(before[key], value) for key, value in now.items() if key in before}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [_as_written(one, other) for one, other in zip(before, now, strict=True)]
    return now


def facts_of(built: Study) -> dict[str, Any]:
    """What a resumed run goes on with, and what a reader wants to know."""
    versions = {name: importlib.metadata.version(name) for name in ("autoprune", "torch", "numpy")}
    return {
        "precision": built.arithmetic.score,
        "training": built.arithmetic.training,
        "because": built.arithmetic.because,
        "step": built.step,
        "shortcuts": built.shortcuts,
        "draws": "stratified",
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count() or 1,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "costs": {name: dict(cost.state()) for name, cost in built.costs.items() if isinstance(cost, Learns)},
        **versions,
    }
