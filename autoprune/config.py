"""From the file a person wrote to checked values. This file and `space_config` alone know the file's shape.

Everything has a default but the task. Relative addresses of Python files are looked for beside the file that names
them.
"""

from __future__ import annotations

import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, WithJsonSchema

from autoprune import bounded, plugins
from autoprune.errors import ConfigError, begun_small, dotted, first_fault, one_line, reason
from autoprune.search_config import Ladder as Ladder, Search as Search
from autoprune.space_config import AUTO as AUTO, GroupRule as GroupRule, Space as Space, Table as Table
from autoprune.train import Recipe
from autoprune.values import budget
from autoprune.values.ranges import (
    Batch,
    Decay,
    Epochs,
    Few,
    LearningRate,
    Norm,
    Range,
    Share,
    ShareBelow,
    Temperature,
)
from autoprune.values.space import Choice


def _ceiling(written: object) -> object:
    if isinstance(written, str | int | float) and not isinstance(written, bool):
        budget.ceiling(written, dense=1.0)
    return written


def _none_or_enough(policies: int) -> int:
    if policies != 0 and policies < 5:
        raise ValueError("write 0 to switch it off, or at least 5")
    return policies


_CODE = ("use", "optimizer", "schedule", "teacher")  # keys under which a file of the user's own may be named
MOST = 4 * bounded.MIB  # of a search space's file
Ceiling = Annotated[
    str | float, BeforeValidator(_ceiling), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})
]


class Use(Table):
    """A plugin by name or address. Its own settings are checked against its signature when it is built."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    use: str

    @pydantic.model_validator(mode="after")
    def _is_finite(self) -> Use:
        for key, value in (self.model_extra or {}).items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ValueError(f"{key} = {value!r}: finite numbers are right") from None
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The whole table, "use" included, as `plugins.build` takes it."""
        return {"use": self.use, **(self.model_extra or {})}


class Finetune(Table):
    """How the winner and the baselines are trained at the end. The meanings are those of `autoprune.train.Recipe`.

    Attributes:
        start: "pruned", the weights that stayed, as the evaluator recovers them; "scratch", new ones, the policy being
            taken for an architecture only. Liu et al. 2019, https://arxiv.org/abs/1810.05270.
        epochs: passes over the training split; 0 trains nothing.
        precision: "auto" is what the processor and the network's outputs allow (docs/evaluators.md).
        use: a whole training loop of one's own, "file.py:function"; "" is ours. docs/training.md.
    """

    start: Literal["pruned", "scratch"] = "pruned"
    epochs: Epochs = 4.0
    batch: Batch = 128
    lr: LearningRate = 0.05
    weight_decay: Decay = 5e-4
    warmup: ShareBelow = 0.1
    label_smoothing: ShareBelow = 0.0
    distill: Share = 0.0
    temperature: Temperature = 4.0
    clip: Norm = 5.0
    optimizer: str = "sgd"
    schedule: str = "cosine"
    accumulate: Few = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    teacher: str = ""
    use: str = ""

    @pydantic.model_validator(mode="after")
    def _trains_what_is_new(self) -> Finetune:
        if self.start == "scratch" and not self.epochs:
            raise ValueError('epochs = 0 would leave the networks of start = "scratch" untrained; write more')
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate = {self.accumulate} parts of batch = {self.batch} samples; fewer are right")
        return self

    @property
    def named(self) -> dict[str, str]:
        """What it names that may be code of the user's own, by key."""
        return {"finetune": self.use, "optimizer": self.optimizer, "schedule": self.schedule, "teacher": self.teacher}

    def recipe(self, images: int, precision: str) -> Recipe:
        """The recipe for a training split of `images` images."""
        steps = math.ceil(self.epochs * images / self.batch) or int(bool(self.use and self.epochs))
        return Recipe.of(self, steps=steps, precision=precision if self.precision == "auto" else self.precision)


class Workers(Table):
    """Who evaluates policies; without `local`, `gpus` and `cluster`, the search itself, one after the other.

    Attributes:
        local: processes on this machine.
        gpus: of this machine's CUDA devices, with a process for each, in place of `local`; "all" are all of them.
        cluster: of the user's own: "tcp://HOST:PORT" of its scheduler, or a scheduler file (.json).
        order: "asked": trials are told in the order of their asks, so that a run is reproducible; "finished": as they
            come, so that none waits for a slower one.
        window: policies that may be under way at once; 0 is as many as there are workers when the run begins.
        threads: of torch in each worker; 0 shares this machine's among local workers, and is 1 in a cluster.
    """

    local: Annotated[int, Range(0, 1024)] = 0
    gpus: Annotated[int | str, Range(0, 1024, word="all")] = 0
    cluster: str = ""
    order: Literal["asked", "finished"] = "asked"
    window: Annotated[int, Range(0, 10_000)] = 0
    threads: Annotated[int, Range(0, 1024)] = 0

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Workers:
        asked = [f"{name} = {value!r}" for name in ("local", "gpus", "cluster") if (value := getattr(self, name))]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)}: one of them is right")
        return self


class Report(Table):
    """What the report compares with.

    Attributes:
        random_trials: random policies, of which the best is the baseline "random"; 0 takes as many as were searched.
        fidelity: at most so many of them get the evaluator's slow score, too, to say how true the search's is; 0, or
            at least 5.
        rules: whether rules of thumb and rankings are scored, too, the best of which is the baseline "rule".
        sensitivity: of at most so many choices the report says what each costs when it alone is cut to half; 0 for
            none. Only where scores are fast.
    """

    random_trials: Annotated[int, Range(0, 1_000_000)] = 0
    fidelity: Annotated[int, Range(0, 10_000), AfterValidator(_none_or_enough)] = 20
    rules: bool = True
    sensitivity: Annotated[int, Range(0, 10_000)] = 40


class Config(Table):
    """Everything that is asked of one run.

    Attributes:
        name: of the search space; a file's is that of the file.
        budget: ceilings by name of the cost: "50%" or 0.5 of dense, or a number ("20e6", "3ms").
        target: where latency is measured, if it is asked for.
        operator: what operators and layers of the network's own do to channels.
    """

    name: str = ""
    task: Use
    space: Space = Space()
    operator: tuple[Use, ...] = ()
    budget: Mapping[str, Ceiling] = {}
    criterion: Use = Use(use="group_norm")
    evaluator: Use = Use(use="recalibrate")
    reward: Use = Use(use="metric")
    target: Use = Use(use="onnxruntime")
    controller: Use = Use(use="evolution")
    search: Search = Search()
    ladder: Ladder = Ladder()
    finetune: Finetune = Finetune()
    workers: Workers = Workers()
    report: Report = Report()

    @pydantic.model_validator(mode="after")
    def _has_a_device(self) -> Config:
        if self.workers.gpus and self.search.device == "cpu":
            raise ValueError(
                f"workers.gpus = {self.workers.gpus!r}, but search.device = 'cpu', where none of them would work; "
                "device = 'cuda' is right"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """As it is written to config.json, every default said."""
        return self.model_dump(mode="json")

    def choices(self, traced: Iterable[Choice], auto: int = 1) -> tuple[Choice, ...]:
        """The traced choices within the limits that [space] sets, where `auto` is the multiple that was found.

        Raises ConfigError for a pattern that matches none.
        """
        return self.space.limited(tuple(traced), auto)


def find(source: str, over: Mapping[str, Any] | None = None) -> Config:
    """The config in a search space's .toml file, or the default one of a task with the name or address `source`."""
    if source.endswith(".toml"):
        return read(Path(source), over)
    if ":" not in source and source not in plugins.names("task"):
        tasks = ", ".join(sorted(plugins.names("task")))
        raise ConfigError(f"{source!r} is no search space: write a .toml file, 'file.py:function', or a task ({tasks})")
    return parse({"name": name_of(source), "task": {"use": source}}, f"task {source!r}", over)


def name_of(task: str) -> str:
    """What runs of a task with that name or address are called: the file or module where it lies, not its function."""
    place = task.rpartition(":")[0]
    return task if not place else Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


def read(path: Path, over: Mapping[str, Any] | None = None) -> Config:
    """The config in a TOML file, with `over` laid on top: dotted keys such as "search.trials", or whole tables."""
    try:
        tables = tomllib.loads(bounded.read(path, MOST).decode())
    except OSError as wrong:
        raise ConfigError(f"{path} cannot be read ({reason(wrong)}); it should be a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; it should be a TOML file") from None
    except RecursionError:
        raise ConfigError(f"{path} nests too deep; it should be a TOML file") from None
    except ValueError as wrong:  # of TOML, and of numbers that are too long to be read
        raise ConfigError(f"{path} is no TOML: {one_line(wrong)}") from None
    return parse({"name": path.stem, **_anchored(tables, path.parent)}, str(path), over)


def parse(tables: Mapping[str, Any], source: str, over: Mapping[str, Any] | None = None) -> Config:
    """The config that `tables` say, with `over` on top. `source` is named in errors."""
    merged = _overlaid(tables, over or {})
    try:
        return Config.model_validate_json(json.dumps(merged, default=str))
    except pydantic.ValidationError as wrong:
        raise ConfigError(f"{source}: {_fault(wrong, merged)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: it nests too deep") from None
    except (TypeError, ValueError) as wrong:
        raise ConfigError(f"{source}: {one_line(wrong)}") from None


def _anchored(tables: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`tables`, where addresses of Python files, and of weights that an evaluator borrows, are no longer relative."""
    anchored = {
        key: [_from_there(one, folder) for one in table] if isinstance(table, list) else _from_there(table, folder)
        for key, table in tables.items()
    }
    evaluator = anchored.get("evaluator")
    if isinstance(evaluator, Mapping) and isinstance(weights := evaluator.get("weights"), str) and weights:
        anchored["evaluator"] = {**evaluator, "weights": str(folder.resolve() / weights)}
    return anchored


def _from_there(table: Any, folder: Path) -> Any:
    if not isinstance(table, Mapping):
        return table
    files = {key: use for key in _CODE if isinstance(use := table.get(key), str) and ".py:" in use}
    return {**table, **{key: str(folder.resolve() / use) for key, use in files.items()}}


def _overlaid(tables: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` with every dotted key of `over` set."""
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    for words, value in over.items():
        key, _, inner = words.partition(".")
        if not inner:
            merged[key] = value
        elif isinstance(merged.setdefault(key, {}), dict):
            merged[key][inner] = value
    return merged


def _fault(wrong: pydantic.ValidationError, tables: Mapping[str, Any]) -> str:
    """The first fault in one line: where, the value, and what would be right."""
    faults = wrong.errors()
    fault = faults[0]
    place = tuple(part for part in fault["loc"] if part not in _TYPES and "[" not in str(part))  # that it tried
    if not place:
        return "it nests too deep" if "recursion" in str(fault["msg"]) else str(fault["msg"])
    where = dotted(place)
    more = len({e["loc"][:2] for e in faults}) - 1
    rest = f" (and {more} more)" if more else ""
    if fault["type"] == "extra_forbidden":
        known = _keys(place[:-1])
        parent = f"[{dotted(place[:-1])}] has" if place[1:] else "there is"
        hint = plugins.meant(str(place[-1]), known) or f"; there are {', '.join(known)}"
        return f"{parent} no {'key' if place[1:] else 'table'} {str(place[-1])!r}{hint}{rest}"
    if fault["type"] == "missing":
        return f"{where} is missing{_wanted(place)}{rest}"
    _, said = first_fault(faults)
    if place[0] == "budget" and fault["type"] != "value_error":
        said = "write a share of dense ('50%', 0.5) or a number ('20e6')"
    return f"{where} = {_value(tables, place)!r}: {begun_small(said)}{rest}"


_TYPES = ("int", "str", "float")


def _wanted(place: Sequence[int | str]) -> str:
    return '; write use = "NAME", see `autoprune plugins`' if place[-1] in ("use", "task") else ""


def _value(tables: Any, place: Sequence[int | str]) -> Any:
    for part in place:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return tables
    return tables


def _keys(place: Sequence[int | str]) -> list[str]:
    """What may be written in the table at `place`."""
    table: Any = Config
    for part in place:
        if isinstance(part, str):
            table = _table_in(table.model_fields[part].annotation)
    return [key for key in table.model_fields if table is not Config or key != "name"]


def _table_in(hint: Any) -> Any:
    """The Table in an annotation such as `tuple[GroupRule, ...]`."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return hint
    return next(arg for arg in typing.get_args(hint) if isinstance(arg, type))
