"""The tables [search] and [ladder]: how long is searched, and how thoroughly policies are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator

from autoprune.space_config import Table
from autoprune.values.ranges import Range, Seed, SomeSteps, Trials

MOST_TRIALS = 1_000_000
_PREPARED = 300.0  # seconds of a search in which half a minute may be spent on what is prepared


def _rising(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if list(numbers) != sorted(set(numbers)):
        raise ValueError("each must be larger than the one before it")
    return numbers


def _seconds(written: object) -> object:
    """A span such as "10m" in seconds."""
    if not isinstance(written, str):
        return written
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", written.strip())
    if not found:
        raise ValueError('write seconds, minutes or hours, such as "90s", "10m" or "1.5h"')
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def in_place_of_trials(over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings laid over a file's, where a time stands in place of its trials unless both were asked for."""
    timed = over.get("search.time") and "search.trials" not in over
    return {**over, "search.trials": MOST_TRIALS} if timed else dict(over)


class Search(Table):
    """How long is searched, and from which seed.

    Attributes:
        trials: policies that are evaluated, at whatever rung.
        time: how long is searched, in seconds or as "10m", what is prepared included; then so many trials as there is
            time for, unless `trials` says fewer. 0: no matter how long.
        seed: of everything random.
        first: what is asked before the controller asks: "rankings" are the uniform policy and what rankings of the
            network's units give under the budget; "none" is nothing; "auto" is "rankings", but for controllers that
            are a rule, chance, or a method as it was published.
        device: where the networks run.
        precision: of scores; training is in bf16 unless it is "fp32". "auto": what the processor, the network's
            outputs and how fast this machine once was say (docs/evaluators.md).
    """

    trials: Trials = 60
    time: Annotated[float, Range(0, 1e8), BeforeValidator(_seconds)] = 0.0
    seed: Seed = 0
    first: Literal["auto", "rankings", "none"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _as_many_as_there_is_time_for(cls, tables: Any) -> Any:
        timed = isinstance(tables, Mapping) and tables.get("time") and "trials" not in tables
        return {**tables, "trials": MOST_TRIALS} if timed else tables

    def pays(self, trials: int) -> bool:
        """Whether so much is searched that what is prepared for `trials` trials pays: half a minute is prepared."""
        return self.trials >= trials and (not self.time or self.time >= _PREPARED)


class Ladder(Table):
    """Longer judgements for the better policies: `autoprune.runs.course`.

    Attributes:
        keep: one in so many policies of a rung goes up to the next. With [search] time, it is so many that each rung
            takes an equal share of it.
        images: holdout images that the evaluator looks at on the first rungs, rising; what its own settings say comes
            after them.
        steps: of the final finetune, on the rungs above, rising, after which the whole holdout is looked at. "auto":
            none, but with [search] time what there is time for.
    """

    keep: Annotated[int, Range(2, 1000)] = 4
    images: Annotated[tuple[Annotated[int, Range(1, 1_000_000_000)], ...], AfterValidator(_rising)] = ()
    steps: Annotated[tuple[SomeSteps, ...], AfterValidator(_rising)] | Literal["auto"] = "auto"

    @property
    def fixed(self) -> tuple[int, ...]:
        """The steps that were asked for."""
        return () if self.steps == "auto" else self.steps
