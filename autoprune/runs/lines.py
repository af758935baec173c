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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autoprune.errors import RunError
from autoprune.files.disk import Json, sealed, unsealed
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.trial import Failure, Outcome, Trial

FORMAT = 2
_AROUND = {"ask", "journal", "tell"}  # phases of every trial of format 1; one with others was evaluated
_WHOLE, _WORDS = ("repeats", "rung", "asked", "told", "attempt"), ("worker", "note")
_KEYS = {"number", "policy", "metric", "values", "costs", "error", "seconds", *_WHOLE, *_WORDS}


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


def read(journal: Path, whole: bytes, space: SearchSpace) -> Held:
    """What `whole`, the content of `journal`, holds, without a last line that was cut short.

    Raises RunError naming the first line that is damaged.
    """
    end = whole.rfind(b"\n") + 1
    found = whole[:end].split(b"\n")[:-1]
    if not found:
        return Held("", [], 0)
    trials: list[Trial] = []
    if b'"format"' not in found[0]:
        for number, text in enumerate(found, start=1):
            with _named(journal, number):
                trials.append(_first_format(text, trials, space))
        return Held("", trials, end)
    with _named(journal, 1):
        facts = _facts(found[0])
    for number, text in enumerate(found[1:], start=2):
        with _named(journal, number):
            entry = _entry(text)
            if "metric" in entry or "error" in entry:
                trials.append(_trial(entry, len(trials), space))
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
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as wrong:
        raise RunError(
            f"{journal}, line {number} is damaged ({wrong}); restore it, or cut the file before that line"
        ) from None


def _facts(text: bytes) -> str:
    entry = unsealed(text)
    if entry.get("format") != FORMAT or not isinstance(entry.get("facts"), str):
        raise ValueError(f"its format is {entry.get('format')!r}; this version reads 1 and {FORMAT}")
    return str(entry["facts"])


def _entry(text: bytes) -> dict[str, Any]:
    entry = unsealed(text)
    if unknown := sorted(set(entry) - _KEYS):
        raise ValueError(f"it has an unknown field {unknown[0]!r}")
    whole = all(isinstance(entry.get(word, 0), int) and entry.get(word, 0) >= 0 for word in _WHOLE)
    if not whole or not all(isinstance(entry.get(word, ""), str) for word in (*_WORDS, "error")):
        raise ValueError("one of its fields is of a wrong type")
    return entry


def _trial(entry: Json, number: int, space: SearchSpace) -> Trial:
    policy = Policy(tuple(entry["policy"]))
    if entry["number"] != number:
        raise ValueError(f"it is of trial {entry['number']}, not {number}")
    if not all(type(level) is int for level in policy.levels):
        raise ValueError("its policy is not of whole numbers")
    space.require(policy)
    costs, seconds = _numbers(entry["costs"]), _numbers(entry["seconds"])
    outcome: Outcome | Failure = Failure(entry.get("error", ""), costs)
    if "metric" in entry:
        outcome = Outcome(_finite(entry["metric"]), tuple(map(_finite, entry["values"])), costs)
        if not outcome.values:
            raise ValueError("it has no values")
    repeats, rung, worker = entry.get("repeats"), entry.get("rung", 0), entry.get("worker", "")
    return Trial(number, policy, outcome, seconds, rung, repeats, worker)


def _first_format(text: bytes, before: Sequence[Trial], space: SearchSpace) -> Trial:
    entry = json.loads(text)
    sparsities, costs = [float(s) for s in entry["policy"]], _numbers(entry["costs"])
    if entry["number"] != len(before):
        raise ValueError(f"it is of trial {entry['number']}, not {len(before)}")
    if len(sparsities) != len(space) or not all(0 <= s < 1 for s in sparsities):
        raise ValueError(f"its policy is not {len(space)} sparsities in [0, 1)")
    policy = Policy(tuple(c.dense - round(s * c.dense) for c, s in zip(space, sparsities)))
    seconds, status = _numbers(entry["seconds"]), entry["status"]
    if status == "failed" and entry["metric"] is None and entry["reward"] is None:
        return Trial(len(before), policy, Failure(str(entry["error"]), costs), seconds)
    if status != "ok":
        said = f"metric {entry['metric']!r} and reward {entry['reward']!r}"
        raise ValueError(f"status {status!r} with {said}")
    same = next((t.number for t in before if t.policy == policy and t.metric is not None), None)
    repeats = same if seconds.keys() <= _AROUND else None
    outcome = Outcome(_finite(entry["metric"]), (_finite(entry["reward"]),), costs)
    return Trial(len(before), policy, outcome, seconds, repeats=repeats)


def _numbers(found: Any) -> Mapping[str, float]:
    if not isinstance(found, dict):
        raise TypeError("its costs or seconds are no object of numbers")
    return {str(name): _finite(value) for name, value in found.items()}


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
