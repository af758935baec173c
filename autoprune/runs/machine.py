"""machine.json: what was found on the machine that began a run, and what a resumed run goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from autoprune.errors import RunError, begun_small, first_fault
from autoprune.runs import journal
from autoprune.values.ranges import Range

NAME = "machine.json"
_Levels = list[Annotated[int, Range(0, 2**31)]]


class Crew(pydantic.BaseModel):
    """As `autoprune.runs.workers.Terms`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    window: Annotated[int, Range(1, 10_000)]
    finished: bool
    threads: Annotated[int, Range(1, 1024)]


class Told(pydantic.BaseModel):
    """A trial of another run that the controller was told before it asked."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    policy: _Levels
    metric: float
    values: Annotated[list[float], pydantic.Field(min_length=1)]
    costs: dict[str, float]


class Warm(pydantic.BaseModel):
    """What a run was begun with that others had learnt.

    Attributes:
        sources: files and directories, as they were written.
        first: how many of the first policies come from there.
        told: trials that the controller was told.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    sources: list[str] = []
    first: Annotated[int, Range(0, 2**31)] = 0
    told: list[Told] = []


class Machine(pydantic.BaseModel):
    """What of the file is used again; the rest (versions, the platform) is for readers.

    Attributes:
        precision: of scores.
        step: the multiple of channels that was found for step = "auto".
        shortcuts: whether what fast scores prepare was said to pay.
        draws: how samples are drawn.
        threads: of torch.
        costs: by name, what costs had learnt.
        workers: how many policies are under way at once, in which order they are told, and the threads of each worker.
        first: policies that are asked before the controller asks, the levels of each.
        rules: those of rules of thumb, by name.
        rungs: of a ladder, images, steps and keep of each.
        planning: seconds that deciding on them took.
        preparing: seconds from the beginning until the first policy was asked for.
        warm: where some of the first come from, and what the controller was told.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    precision: Literal["", "fp32", "bf16", "int8"] = ""
    step: Annotated[int, Range(1, 65_536)] = 1
    shortcuts: bool = True
    draws: str = ""
    threads: Annotated[int, Range(1, 1024)] = 1
    costs: dict[str, dict[str, Any]] = {}
    workers: Crew | None = None
    first: list[_Levels] = []
    rules: dict[str, _Levels] = {}
    rungs: list[dict[Literal["images", "steps", "keep"], Annotated[int, Range(0, 2**31)]]] = []
    planning: Annotated[float, Range(0, 1e9)] = 0.0
    preparing: Annotated[float, Range(0, 1e9)] = 0.0
    warm: Warm = Warm()


def read(directory: Path) -> dict[str, Any]:
    """What the file of a run holds. Raises RunError where it is missing or damaged."""
    found = journal.stored(directory, NAME)
    try:
        Machine.model_validate_json(json.dumps(found))
    except pydantic.ValidationError as wrong:
        place, said = first_fault(wrong.errors())
        raise RunError(f"{directory / NAME} is damaged at {place}: {begun_small(said)}") from None
    return found
