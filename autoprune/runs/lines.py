"""What the journal and space.json of a run hold. Format 2 is written; format 1 is read for ever.

The first line of a journal is {"format": 2, "facts": hash of config.json, space.json and machine.json}; every other
line is a trial, with its number, the levels of its policy, seconds by phase, costs, and metric and values or the error.
Where they say something, it has `repeats`, `rung`, `worker` (see `Trial`), `asked` and `told` (how many trials were
told when its policy was asked for, and when it was told), `attempt` (counted from 1) and `note`. A line with neither
metric nor error is an ask whose outcome is not known. Every line ends with a checksum of what stands before it.

In format 1 there was no first line, a policy was sparsities, and there were no checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from autoprune.errors import RunError, first_fault, one_line
from autoprune.files.disk import Json, parsed, sealed, unsealed
from autoprune.runs.rules import Rules
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.trial import Failure, Outcome, Trial

FORMAT = 2
_AROUND = {"ask", "journal", "tell"}  # phases of every trial of format 1; one with others was evaluated


class Held(NamedTuple):
    """What a journal holds.

    Attributes:
        facts: the hash in its first line; "" where it is empty or of format 1.
        trials: in order.
        end: bytes up to the end of the last whole line.
    """

    facts: str
    trials: list[Trial]
    end: int


def head(facts: str) -> bytes:
    """The first line."""
    return sealed({"format": FORMAT, "facts": facts})


def line(trial: Trial) -> bytes:
    """The line of a trial."""
    it = trial.outcome
    entry: dict[str, Any] = {"number": trial.number, "policy": list(trial.policy.levels)}
    entry |= {"metric": it.metric, "values": list(it.values)} if isinstance(it, Outcome) else {"error": it.error}
    entry |= {} if trial.repeats is None else {"repeats": trial.repeats}
    entry |= {word: value for word, value in (("rung", trial.rung), ("worker", trial.worker)) if value}
    return sealed({**entry, "costs": dict(it.costs), "seconds": dict(trial.seconds)})


def read(journal: Path, whole: bytes, rules: Rules) -> Held:
    """What `whole`, the content of `journal`, holds, without a last line that was cut short.

    Raises RunError naming the first line that is damaged, or says what cannot be by `rules`.
    """
    end = whole.rfind(b"\n") + 1
    found = whole[:end].split(b"\n")[:-1]
    with _named(journal, len(found) + 1):
        _require_torn(whole[end:])
    if not found:
        return Held("", [], 0)
    facts, first = "", 0
    if b'"format"' in found[0]:
        first = 1
        with _named(journal, 1):
            facts = _facts(found[0])
    trials: list[Trial] = []
    at: list[int] = []  # the line of each
    known: dict[Policy, int] = {}  # the first trial that succeeded of each policy, of format 1
    for number, text in enumerate(found[first:], start=first + 1):
        with _named(journal, number):
            trial = _trial(text, trials, rules) if facts else _first_format(text, trials, known, rules)
            if trial is not None:
                trials.append(trial)
                at.append(number)
    for place, fault in sorted(rules.faults(trials).items()):
        with _named(journal, at[place]):
            raise ValueError(fault)
    return Held(facts, trials, end)


def count(whole: bytes) -> int:
    """How many trials a journal of this content holds, by its lines."""
    return sum(b'"metric": ' in each or b'"error": ' in each for each in whole.split(b"\n")[:-1])


def hashed(facts: Sequence[Json]) -> str:
    """A short name for facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def described(space: SearchSpace) -> dict[str, Any]:
    """What space.json holds."""
    words = ("name", "kind", "within", "layers", "width", "levels")
    choices = [
        {word: getattr(choice, word) for word in words} | ({"of": choice.of} if choice.of else {}) for choice in space
    ]
    plain: dict[str, Any] = json.loads(json.dumps({"name": space.name, "ties": space.ties, "choices": choices}))
    return plain


def space_text(space: SearchSpace) -> str:
    """As it is written: a choice a line."""
    facts = described(space)
    choices = ",\n".join(json.dumps(choice) for choice in facts["choices"])
    return f'{{"name": {json.dumps(facts["name"])}, "ties": {json.dumps(facts["ties"])}, "choices": [\n{choices}\n]}}\n'


def upgraded(facts: Json) -> Json:
    """What space.json of either format holds, as `described` says it."""
    if "groups" not in facts:
        return facts
    try:
        found = [
            Choice(g["name"], levels_of(g["of"], g["lowest"], g["step"]), layers=tuple(g["layers"]), width=g["width"])
            for g in facts["groups"]
        ]
        return described(SearchSpace(facts["name"], tuple(found)))
    except (KeyError, TypeError, ValueError) as wrong:
        raise RunError(f"space.json is damaged ({wrong}); it should hold the groups of a run of format 1") from None


@contextlib.contextmanager
def _named(journal: Path, number: int) -> Iterator[None]:
    """Inside, what a line does not hold as it should becomes a RunError that names the line."""
    try:
        yield
    except (ValueError, OverflowError, RecursionError) as wrong:
        reason = _fault(wrong) if isinstance(wrong, pydantic.ValidationError) else one_line(wrong)
        raise RunError(
            f"{journal}, line {number} is damaged ({reason}); restore it, or cut the file before that line"
        ) from None


def _fault(wrong: pydantic.ValidationError) -> str:
    return ": ".join(first_fault(wrong.errors(include_url=False)))


def _require_torn(tail: bytes) -> None:
    """Raise ValueError where what stands behind the last line break is not what a crash leaves of a line.

    The break is written last: a whole line with anything in its place was changed.
    """
    text = tail.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if text.startswith("{") and end < len(text):
        raise ValueError("its line break was changed")


def _facts(text: bytes) -> str:
    entry = unsealed(text)
    if entry.get("format") != FORMAT:
        raise ValueError(f"its format is {entry.get('format')!r}; this version reads 1 and {FORMAT}")
    return _Head.model_validate(entry).facts


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Head(_Strict):
    format: int
    facts: Annotated[str, pydantic.Field(min_length=1)]


class _Asked(_Strict):
    """A line of format 2; by itself, an ask whose outcome is not known."""

    number: pydantic.NonNegativeInt
    policy: list[pydantic.NonNegativeInt]
    repeats: pydantic.NonNegativeInt | None = None
    rung: pydantic.NonNegativeInt = 0
    asked: pydantic.NonNegativeInt = 0
    told: pydantic.NonNegativeInt = 0
    attempt: pydantic.NonNegativeInt = 0
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


def _trial(text: bytes, before: Sequence[Trial], rules: Rules) -> Trial | None:
    """The trial in a line of format 2; None where it is an ask whose outcome is not known."""
    entry = unsealed(text)
    if not {"metric", "error"} & entry.keys():
        _Asked.model_validate(entry)
        return None
    found = (_Scored if "metric" in entry else _Failed).model_validate(entry)
    outcome: Outcome | Failure
    if isinstance(found, _Scored):
        outcome = Outcome(found.metric, tuple(found.values), found.costs)
    else:
        assert isinstance(found, _Failed)
        outcome = Failure(found.error, found.costs)
    policy = Policy(tuple(found.policy))
    trial = Trial(found.number, policy, outcome, found.seconds, found.rung, found.repeats, found.worker)
    _require(trial, before, rules)
    return trial


def _first_format(text: bytes, before: Sequence[Trial], known: dict[Policy, int], rules: Rules) -> Trial:
    found = _First.model_validate(parsed(text))
    if len(found.policy) != len(rules.space):
        raise ValueError(f"its policy is not {len(rules.space)} sparsities in [0, 1)")
    kept = [choice.dense * (1 - sparsity) for choice, sparsity in zip(rules.space, found.policy)]
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
    trial = Trial(found.number, policy, outcome, found.seconds, repeats=repeats)
    _require(trial, before, rules)
    return trial


def _require(trial: Trial, before: Sequence[Trial], rules: Rules) -> None:
    """Raise ValueError where `trial` cannot follow `before`, or its policy cannot be."""
    if trial.number != len(before):
        raise ValueError(f"it is of trial {trial.number}, not {len(before)}")
    if wrong := rules.of_policy(trial.policy):
        raise ValueError(wrong)
    if trial.repeats is None:
        return
    if trial.repeats >= len(before):
        raise ValueError(f"it repeats trial {trial.repeats}, which does not come before it")
    first = before[trial.repeats]
    if _what(first) != _what(trial):
        raise ValueError(f"it repeats trial {trial.repeats}, which has another policy, rung, metric or reward")


def _what(trial: Trial) -> tuple[Policy, int, float | None, float | None]:
    return trial.policy, trial.rung, trial.metric, trial.reward
