"""What Python users call: search, resume, prune, count. Results, budgets and policies are those of the rest."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoprune import batches, criteria, plugins
from autoprune.command.progress import Bars, Progress, is_watched
from autoprune.config import Config
from autoprune.copies import copied
from autoprune.costs.arithmetic import count_macs
from autoprune.errors import ConfigError, PolicyError
from autoprune.inputs import Inputs
from autoprune.runs import lifecycle, study, warm
from autoprune.runs.journal import RUNS
from autoprune.runs.lifecycle import Result
from autoprune.runs.workers import hired
from autoprune.search_config import in_place_of_trials
from autoprune.structure import prune as cutting
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.train import forked
from autoprune.values.space import Policy, SearchSpace
from autoprune.wrappers import bare

_NAMED = ("criterion", "evaluator", "reward", "target")  # tables for which a name may stand
_OF_TASK = ("metric", "loss", "example", "metric_name", "lower_is_better", "percent", "batch", "holdout_seen")


def search(
    task: Task | nn.Module | str | Path,
    budget: Mapping[str, str | float] | None = None,
    controller: str | Mapping[str, Any] = "",
    trials: int | None = None,
    seed: int | None = None,
    out: str | Path = RUNS,
    *,
    time: str | float | None = None,
    data: object = None,
    warm_start: Sequence[str | Path] = (),
    progress: bool = True,
    **tables: Any,
) -> Result:
    """Search, finetune the winner, export it and write a report.

    Args:
        task: a Task; the name of a built-in one; "file.py:function", which returns one; a search space's .toml file; or
            a trained network, with its `data`.
        budget: ceilings by name of the cost: {"macs": 0.5} is half of dense, {"params": 1e5} is absolute.
        controller: its name, or a table such as {"use": "evolution", ...} with its settings.
        trials: policies to evaluate.
        seed: of everything random.
        time: how long to search, in seconds or as "10m", in place of `trials`.
        out: the folder in which the run makes its own.
        data: of a network, what it is judged and finetuned on: a list of batches (inputs, targets), or a mapping of
            "train", "holdout" and "test"; see `autoprune.batches.task_of`.
        warm_start: what to begin with that others have found: policy files, directories of runs, what `autoprune learn`
            wrote, and agents.
        progress: whether bars are shown, in a terminal or a notebook; elsewhere none are. The logger `autoprune` is
            told in any case.
        tables: further tables of a search space, such as finetune={"epochs": 2} or criterion="taylor"; of a network,
            also what a Task takes, such as metric, loss, example and lower_is_better.

    Raises ConfigError, ModelError and others of `autoprune.AutopruneError`, before anything is written, for what cannot
    work.
    """
    if isinstance(task, nn.Module):
        of_task = {word: tables.pop(word) for word in _OF_TASK if word in tables}
        task = batches.task_of(task, data, seed=seed or 0, **of_task)
    elif data is not None:
        raise ConfigError("data = ... is for a network; a Task, a search space and a file have their own")
    _require_known(tables)
    over: dict[str, Any] = dict(tables)
    over |= {key: {"use": tables[key]} for key in _NAMED if isinstance(tables.get(key), str)}
    for key in _NAMED:
        _require_name(key, tables.get(key))
    _require_name("controller", controller)
    if budget is not None:
        over["budget"] = dict(budget)
    if controller:
        over["controller"] = {"use": controller} if isinstance(controller, str) else dict(controller)
    said = {"trials": trials, "seed": seed, "time": time}
    over |= {f"search.{key}": value for key, value in said.items() if value is not None}
    given = task if isinstance(task, Task) else None
    asked = lifecycle.asked_of(task, in_place_of_trials(over))
    with _bars(progress) as bars:
        built = study.build(asked, task=given, watch=bars.stage)
        known = warm.start(built, warm_start)
        with hired(asked.workers) as crew:
            bars.stage("trying everything once, small", 0, 1)
            with lifecycle.begin(built, Path(out), known, crew) as opened, Progress(built, opened, bars, crew) as shown:
                return lifecycle.complete(built, opened, crew, watch=shown.trial, stage=shown.stage)


def _require_known(tables: Mapping[str, Any]) -> None:
    """Raise ConfigError for a word that is neither an argument of `search` nor a table of a search space."""
    known = [
        *Config.model_fields,
        *(word for word in inspect.signature(search).parameters if word != "tables"),
        *_OF_TASK,
    ]
    for word in tables:
        if word in _OF_TASK:
            raise ConfigError(f"{word} = ... is for a network; a Task has its own")
        if word.partition(".")[0] not in Config.model_fields:
            raise ConfigError(f"search(...) takes no {word!r}{plugins.meant(word, known)}")


def _require_name(table: str, given: object) -> None:
    """Raise ConfigError where a plugin itself was given, by which no run could be gone on with."""
    found = given.get("use") if isinstance(given, Mapping) else given
    if callable(found):
        name = getattr(found, "__name__", type(found).__name__)
        file = getattr(inspect.getmodule(found), "__file__", None)
        address = f"{Path(file).name if file else 'file.py'}:{name}"
        raise ConfigError(f"{table} is {name!r} itself, which no file can hold; write its address, {address!r}")


def resume(
    directory: str | Path,
    *,
    trials: int = 0,
    time: str | float = 0.0,
    task: Task | None = None,
    trust: Sequence[str] = (),
    lr: float = 0.0,
    workers: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Result:
    """Go on with a run as if it had never stopped, to `trials` trials (0: as many as were asked for).

    `time` is how long is searched in all, in seconds or as "10m", of a run that was begun with one.
    With `lr`, a peak learning rate, what was found is finetuned at that, once more if that was done.
    `trust` are addresses of code in its config.json that may be run, from now on. Raises Untrusted for others, unless
    the run was begun by this user. `workers` says who evaluates from now on, {"local": 4} or {"cluster": "tcp://..."};
    without it, who did. `progress` as of `search`.
    """
    with _bars(progress) as bars:
        given: dict[str, Any] = {
            "trials": trials,
            "time": time,
            "task": task,
            "trust": trust,
            "lr": lr,
            "staff": workers,
        }
        built, opened = lifecycle.reopen(Path(directory), watch=bars.stage, **given)
        with opened, hired(built.config.workers) as crew, Progress(built, opened, bars, crew) as shown:
            return lifecycle.complete(built, opened, crew, watch=shown.trial, stage=shown.stage, again=lr > 0)


def prune(
    model: nn.Module,
    policy: Policy | Mapping[str, int] | float,
    example: Inputs,
    *,
    criterion: str | Mapping[str, Any] = "group_norm",
    seed: int = 0,
) -> nn.Module:
    """The network that `policy` leaves of `model`, a new one, without any recovery or training.

    Args:
        model: the dense network; it stays as it is.
        policy: how many units of each choice stay: a Policy, or whole numbers by name of the choice, the others dense;
            or one sparsity in [0, 1) for all choices, the fraction removed.
        example: one batch of inputs as the network takes them.
        criterion: which units stay, a name or a table with settings; none that needs gradients.
        seed: of a criterion that draws.

    Raises ModelError where the network cannot be traced, PolicyError for what is no policy of it, and ConfigError for a
    criterion that needs data.
    """
    traced, dense = trace(model, example), bare(model)
    space = SearchSpace(type(dense).__name__, traced.choices, traced.ops, traced.parameters)
    levels = _levels(space, policy)
    made = plugins.build("criterion", {"use": criterion} if isinstance(criterion, str) else criterion)
    if "grad" in criteria.needed(made):
        raise ConfigError(f"criterion {criterion!r} needs gradients, and there are no data; 'group_norm' needs none")
    with forked(seed):
        found = criteria.scores(dense, traced, made, task=None, seed=seed)
    return cutting.prune(dense, traced, cutting.keep_first(cutting.order(found), levels)).eval()


def count(model: nn.Module, example: Inputs) -> dict[str, int]:
    """Of a network as it is, dense or pruned: "macs" of one sample of `example`, and "params".

    1 MAC is one multiply-accumulate, 2 FLOPs. They are counted with torch's FlopCounterMode on a copy.
    """
    twin = copied(bare(model)).eval()
    return {"macs": count_macs(twin, example), "params": sum(p.numel() for p in twin.parameters())}


def _levels(space: SearchSpace, policy: Policy | Mapping[str, int] | float) -> tuple[int, ...]:
    if isinstance(policy, Mapping):
        known = {choice.name: choice.dense for choice in space}
        if unknown := [name for name in policy if name not in known]:
            hint = plugins.meant(str(unknown[0]), known) or f"; there are {', '.join(known)}"
            raise PolicyError(f"no choice is called {unknown[0]!r}{hint}")
        policy = Policy.of((known | dict(policy)).values())
    elif not isinstance(policy, Policy):
        if not 0 <= policy < 1:
            raise PolicyError(f"a sparsity of {policy} is not in [0, 1); it is the fraction that is removed")
        policy = space.snap([policy] * len(space))
    space.require(policy)
    return policy.levels


def _bars(progress: bool) -> Bars:
    return Bars(quiet=not (progress and is_watched()))
