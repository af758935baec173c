"""One line of a journal, read: what it says and that every field of it is of its type, fast where it is as written.

A line that this version wrote is decoded by msgspec into just the fields that there may be. What is not accepted there
is read once more by the models of pydantic, whose word counts and who name what is wrong.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import pydantic
from msgspec import UNSET, UnsetType

from autoprune.files.disk import checked, parsed, unsealed
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Failure, Outcome, Trial

FORMAT = 2
_AROUND = {"ask", "journal", "tell"}  # phases of every trial of format 1; one with others was evaluated


class Ask(NamedTuple):
    """A policy that was asked for, written down before anybody evaluates it.

    Attributes:
        number: of the ask.
        policy: what the controller proposed.
        asked: how many trials it had been told.
    """

    number: int
    policy: Policy
    asked: int


class Told(NamedTuple):
    """A trial, and how many were told before it; None where that is its number."""

    trial: Trial
    told: int | None = None


Count = Annotated[int, msgspec.Meta(ge=0, le=2**31), pydantic.Field(ge=0, le=2**31)]


class _Written(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line as it is written: of a trial that succeeded or failed, or of an ask."""

    number: Count
    policy: tuple[Count, ...]
    crc: str
    metric: float | UnsetType = UNSET
    values: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] | UnsetType = UNSET
    error: Annotated[str, msgspec.Meta(min_length=1)] | UnsetType = UNSET
    costs: dict[str, float] | UnsetType = UNSET
    seconds: dict[str, float] | UnsetType = UNSET
    asked: Count | UnsetType = UNSET
    repeats: Count | None = None
    rung: Count = 0
    worker: str = ""
    told: Count | None = None


_KEYS = b'": '  # stands behind each key, and in no text that is not escaped
_DECODER = msgspec.json.Decoder(_Written)


def entry(text: bytes) -> Told | Ask:
    """What a line of format 2 says. Raises ValueError where it is damaged."""
    body = checked(text)
    try:
        it = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _named(text)
    keys = body.count(_KEYS) + 1  # with the checksum's
    outcome: Outcome | Failure
    if it.asked is not UNSET:
        return Ask(it.number, Policy(it.policy), it.asked) if keys == 4 else _named(text)
    if it.costs is UNSET or it.seconds is UNSET:
        return _named(text)
    if it.metric is not UNSET and it.values is not UNSET:
        outcome, keys = Outcome(it.metric, it.values, it.costs), keys - 1
    elif it.error is not UNSET:
        outcome = Failure(it.error, it.costs)
    else:
        return _named(text)
    said = (it.repeats is not None) + (it.rung != 0) + (it.worker != "") + (it.told is not None)
    if keys != 6 + said + len(it.costs) + len(it.seconds):  # something is said twice, or otherwise than it is written
        return _named(text)
    return Told(Trial(it.number, Policy(it.policy), outcome, it.seconds, it.rung, it.repeats, it.worker), it.told)


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Head(_Strict):
    format: int
    facts: Annotated[str, pydantic.Field(min_length=1)]


def facts(text: bytes) -> str:
    """The hash in the first line of a journal."""
    plain = unsealed(text)
    if plain.get("format") != FORMAT:
        raise ValueError(f"its format is {plain.get('format')!r}; this version reads 1 and {FORMAT}")
    return _Head.model_validate(plain).facts


class _Asked(_Strict):
    """A line of format 2; by itself, an ask whose outcome is not known."""

    number: Count
    policy: list[Count]
    repeats: Count | None = None
    rung: Count = 0
    asked: Count = 0
    told: Count | None = None
    attempt: Count = 0
    worker: str = ""
    note: str = ""


class _Told(_Asked):
    costs: dict[str, float]
    seconds: dict[str, float]


class _Scored(_Told):
    metric: float
    values: Annotated[list[float], pydantic.Field(min_length=1)]


class _Failed(_Told):
    error: Annotated[str, pydantic.Field(min_length=1)]


class _First(_Strict):
    """A line of format 1."""

    number: pydantic.NonNegativeInt
    policy: list[Annotated[float, pydantic.Field(ge=0, lt=1)]]
    status: Literal["ok", "failed"]
    metric: float | None
    reward: float | None
    costs: dict[str, float]
    seconds: dict[str, float]
    error: str


def _named(text: bytes) -> Told | Ask:
    """As `entry`, of any line; what is wrong is named."""
    plain = unsealed(text)
    if not {"metric", "error"} & plain.keys():
        ask = _Asked.model_validate(plain)
        return Ask(ask.number, Policy(tuple(ask.policy)), ask.asked)
    found = (_Scored if "metric" in plain else _Failed).model_validate(plain)
    outcome: Outcome | Failure
    if isinstance(found, _Scored):
        outcome = Outcome(found.metric, tuple(found.values), found.costs)
    else:
        assert isinstance(found, _Failed)
        outcome = Failure(found.error, found.costs)
    policy = Policy(tuple(found.policy))
    made = Trial(found.number, policy, outcome, found.seconds, found.rung, found.repeats, found.worker)
    return Told(made, found.told)


def first_format(text: bytes, known: dict[Policy, int], space: SearchSpace) -> Told:
    """What a line of format 1 says; `known` is the first trial that succeeded of each policy, and is kept up."""
    found = _First.model_validate(parsed(text))
    if len(found.policy) != len(space):
        raise ValueError(f"its policy is not {len(space)} sparsities in [0, 1)")
    kept = [choice.dense * (1 - sparsity) for choice, sparsity in zip(space, found.policy)]
    if not all(math.isclose(units, round(units), abs_tol=1e-6) for units in kept):
        raise ValueError("its policy keeps no whole number of units")
    policy, repeats = Policy(tuple(map(round, kept))), None
    outcome: Outcome | Failure
    if found.status == "ok" and found.metric is not None and found.reward is not None:
        outcome = Outcome(found.metric, (found.reward,), found.costs)
        same = known.setdefault(policy, found.number)
        repeats = same if same != found.number and found.seconds.keys() <= _AROUND else None
    elif found.status == "failed" and found.metric is None and found.reward is None and found.error:
        outcome = Failure(found.error, found.costs)
    else:
        said = f"metric {found.metric!r}, reward {found.reward!r} and error {found.error!r}"
        raise ValueError(f"status {found.status!r} with {said}")
    return Told(Trial(found.number, policy, outcome, found.seconds, repeats=repeats))
