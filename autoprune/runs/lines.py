"""What the journal and space.json of a run hold. Format 2 is written; format 1 is read for ever.

The first line of a journal is {"format": 2, "facts": hash of config.json, space.json and machine.json}; every other
line is a trial, with its number, the levels of its policy, seconds by phase, costs, and metric and values or the error.
Where they say something, it has `repeats`, `rung`, `worker` (see `Trial`), and `told`, how many trials are told before
it. A line with neither metric nor error is an ask: a policy that is to be evaluated while others are, and `asked`, how
many trials were told when it was asked for; its trial may come after those of later asks. Every line ends with a
checksum of what stands before it.

In format 1 there was no first line, a policy was sparsities, and there were no checksums.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pydantic

from autoprune.errors import RunError, first_fault, one_line
from autoprune.files.disk import Json, sealed
from autoprune.runs import entries
from autoprune.runs.entries import FORMAT, Ask
from autoprune.runs.rules import Rules
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.trial import Outcome, Trial


class Held(NamedTuple):
    """What a journal holds.

    Attributes:
        facts: the hash in its first line; "" where it is empty or of format 1.
        trials: in the order in which they were told.
        end: bytes up to the end of the last whole line.
        early: those that were done before their turn came, by the place that it has.
        asks: by number, what was asked for before it was evaluated; none where each ask followed the trial before.
    """

    facts: str
    trials: list[Trial]
    end: int
    early: dict[int, Trial]
    asks: dict[int, Ask]


def head(facts: str) -> bytes:
    """The first line."""
    return sealed({"format": FORMAT, "facts": facts})


def line(trial: Trial, told: int | None = None) -> bytes:
    """The line of a trial; `told` is how many are told before it, where there are asks."""
    it = trial.outcome
    entry: dict[str, Any] = {"number": trial.number, "policy": list(trial.policy.levels)}
    entry |= {"metric": it.metric, "values": list(it.values)} if isinstance(it, Outcome) else {"error": it.error}
    entry |= {} if trial.repeats is None else {"repeats": trial.repeats}
    entry |= {word: value for word, value in (("rung", trial.rung), ("worker", trial.worker)) if value}
    entry |= {} if told is None else {"told": told}
    return sealed({**entry, "costs": dict(it.costs), "seconds": dict(trial.seconds)})


def ask_line(ask: Ask) -> bytes:
    """The line of an ask."""
    return sealed({"number": ask.number, "policy": list(ask.policy.levels), "asked": ask.asked})


def read(journal: Path, content: BinaryIO, rules: Rules) -> Held:
    """What `content`, that of `journal`, holds, without a last line that was cut short.

    Raises RunError naming the first line that is damaged, or says what cannot be by `rules`.
    """
    reader, end, facts = _Reader(rules), 0, ""
    fault: tuple[int, Exception] | None = None
    with _collected_later():
        for number, text in enumerate(iter(content.readline, b""), start=1):
            try:
                if not text.endswith(b"\n"):
                    _require_torn(text)
                elif number == 1 and b'"format"' in text:
                    facts = entries.facts(text[:-1])
                else:
                    reader.add(text[:-1], number, first=not facts)
            except (ValueError, OverflowError, RecursionError) as wrong:
                fault = number, wrong
                break
            end += len(text) if text.endswith(b"\n") else 0
        faults = [*reader.faults(), *([fault] if fault else [])]
    for line_of, what in sorted(faults, key=lambda one: one[0])[:1]:
        raise _damaged(journal, line_of, what)
    return Held(facts, reader.trials, end, reader.early, reader.asks)


@contextlib.contextmanager
def _collected_later() -> Iterator[None]:
    """Inside, where a million values are made and none is thrown away, nobody looks for garbage among them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Reader:
    """Takes the lines of a journal one after the other."""

    def __init__(self, rules: Rules) -> None:
        self.trials: list[Trial] = []
        self.early: dict[int, Trial] = {}
        self.asks: dict[int, Ask] = {}
        self._rules = rules
        self._known: dict[Policy, int] = {}  # the first trial that succeeded of each policy, of format 1
        self._places: dict[int, int] = {}  # of the trials that were asked for ahead, by number
        self._at = array("Q")  # the line of each trial
        self._early_at: dict[int, int] = {}

    def add(self, text: bytes, line: int, *, first: bool) -> None:
        """Take one line, of the first format or the second. Raises ValueError where it is damaged."""
        found = entries.first_format(text, self._known, self._rules.space) if first else entries.entry(text)
        if isinstance(found, Ask):
            self._take_ask(found)
            return
        trial, place = found.trial, found.trial.number if found.told is None else found.told
        self._require(trial, place)
        if trial.number in self.asks:
            self._places[trial.number] = place
        if place > len(self.trials):
            self.early[place], self._early_at[place] = trial, line
            return
        self.trials.append(trial)
        self._at.append(line)
        while (place := len(self.trials)) in self.early:
            self.trials.append(self.early.pop(place))
            self._at.append(self._early_at.pop(place))

    def faults(self) -> Iterator[tuple[int, Exception]]:
        """What is wrong with trials by the rules, and in which line."""
        found = [*self.trials, *self.early.values()]
        at = [*self._at, *self._early_at.values()] if self.early else self._at
        return ((at[place], ValueError(fault)) for place, fault in self._rules.faults(found).items())

    def _take_ask(self, ask: Ask) -> None:
        if wrong := self._rules.of_policy(ask.policy):
            raise ValueError(wrong)
        if ask.number in self.asks or ask.number < len(self.trials) or ask.asked > ask.number:
            raise ValueError(f"it asks for trial {ask.number} once more, or too late")
        self.asks[ask.number] = ask

    def _require(self, trial: Trial, place: int) -> None:
        """Raise ValueError where `trial` cannot be told at that place."""
        ask, before = self.asks.get(trial.number), self.trials
        if ask is None:
            if trial.number != len(before) or place != trial.number:
                raise ValueError(f"it is of trial {trial.number}, not {len(before)}")
        elif trial.policy != ask.policy:
            raise ValueError(f"its policy is not the one that trial {trial.number} was asked for with")
        elif trial.number in self._places or place < len(before) or place in self.early:
            raise ValueError(f"there is another trial {trial.number}, or one that was told as number {place}")
        if trial.repeats is None:
            return
        if (at := self._places.get(trial.repeats, trial.repeats)) >= len(before):
            raise ValueError(f"it repeats trial {trial.repeats}, which does not come before it")
        same = before[at]
        if (same.policy, same.metric, same.reward) != (trial.policy, trial.metric, trial.reward):
            raise ValueError(f"it repeats trial {trial.repeats}, which has another policy, metric or reward")


def count(content: BinaryIO) -> int:
    """How many trials a journal of this content holds, by its lines."""
    return sum((b'"metric": ' in each or b'"error": ' in each) and each.endswith(b"\n") for each in content)


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


def _damaged(journal: Path, number: int, wrong: Exception) -> RunError:
    """What a line does not hold as it should, as an error that names the line."""
    reason = _fault(wrong) if isinstance(wrong, pydantic.ValidationError) else one_line(wrong)
    return RunError(f"{journal}, line {number} is damaged ({reason}); restore it, or cut the file before that line")


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
