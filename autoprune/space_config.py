"""The table [space] of the file: which choices may vary, within which limits, and which move together.

A pattern is the name of a choice or a glob over such names. One that no name matches is looked for among the layers
that produce the units of a choice: a layer `c2` whose channels are added to those of `stem` finds the choice `stem`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, ConfigDict, WithJsonSchema

from autoprune import plugins
from autoprune.errors import ConfigError
from autoprune.structure.trace import BLOCKS, CHANNELS, restrict
from autoprune.values.ranges import Range, ShareBelow
from autoprune.values.space import Choice, Policy

AUTO = "auto"  # the multiple of channels that the target runs fastest with


def _any_patterns(written: object) -> str | tuple[str, ...]:
    several = [written] if isinstance(written, str) else written
    if not isinstance(several, list | tuple) or not all(isinstance(one, str) and one for one in several):
        raise ValueError("write a name or a glob, or a list of them")
    return written if isinstance(written, str) else tuple(several)


def _patterns(written: object) -> str | tuple[str, ...]:
    if written in ([], ()):
        raise ValueError("write a name or a glob, or a list of them")
    return _any_patterns(written)


Units = Annotated[int, Range(1, 10**9)]
Multiple = Annotated[str | int, Range(1, 65_536, word=AUTO)]
KINDS = (*CHANNELS, *BLOCKS)
_WHY_NONE: Mapping[str, str] = {
    "block": "no block ends with the sum of its input and what it adds; 'branch' decides on each sum apart",
    "branch": "nothing that is added to what came in can be left out",
}


def _kinds(written: object) -> tuple[str, ...]:
    several = (written,) if isinstance(written, str) else written
    if not isinstance(several, list | tuple) or not several or not all(kind in KINDS for kind in several):
        raise ValueError(f"write a list of {', '.join(map(repr, KINDS))}")
    if set(BLOCKS) <= set(several):
        raise ValueError("a block without its branches is no block: write 'block' or 'branch'")
    return tuple(dict.fromkeys(several))


_WRITTEN = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
Patterns = Annotated[str | tuple[str, ...], BeforeValidator(_patterns), _WRITTEN]
Kinds = Annotated[tuple[str, ...], BeforeValidator(_kinds), _WRITTEN]
MaybePatterns = Annotated[str | tuple[str, ...], BeforeValidator(_any_patterns), _WRITTEN]


class Table(pydantic.BaseModel):
    """A table of the file: what is not listed is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GroupRule(Table):
    """What differs for the choices that a pattern finds; the last rule that says something wins.

    Attributes:
        match: a pattern such as "layer3.*", or a list of them.
        max_sparsity: largest fraction that may be removed, in [0, 1); 0 leaves the choice alone.
        step: units are kept in multiples of this; "auto" as in [space].
        floor: units that stay at the least.
        cap: units that stay at the most.
        fix: units that stay, whatever else is said.
    """

    match: Patterns
    max_sparsity: ShareBelow | None = None
    step: Multiple | None = None
    floor: Units | None = None
    cap: Units | None = None
    fix: Units | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The limits that this rule sets."""
        return self.model_dump(exclude={"match"}, exclude_none=True)

    def require(self, choice: Choice) -> None:
        """Raise ConfigError where `choice` has fewer units than this rule speaks of."""
        for word, units in self.said.items():
            if word in ("floor", "cap", "fix") and units > choice.dense:
                place = f"[[space.group]] match = {_listed(self.match)!r}"
                raise ConfigError(f"{place}: {word} = {units}, but {choice.name!r} has {choice.dense} units")


class Space(Table):
    """What may be decided, for every choice.

    Attributes:
        max_sparsity: largest fraction that may be removed, in [0, 1).
        step: units are kept in multiples of this; "auto" finds by timing on the target what costs nothing.
        granularity: what a unit of a width is.
        kinds: the kinds of choices that are looked for: "channel", the widths of layers; "block", whether a residual
            block stays; "branch", whether what is added in each of its sums stays.
        exclude: patterns of choices that stay as they are, whatever rules say.
        ties: lists of patterns; the choices that a list finds move together.
        uniform: whether layers stay alike: widths of layers whose names differ in a number move together.
        group: rules for some choices.
    """

    max_sparsity: ShareBelow = 0.8
    step: Multiple = 1
    granularity: Literal["channel"] = "channel"
    kinds: Kinds = CHANNELS
    exclude: MaybePatterns = ()
    ties: tuple[Patterns, ...] = ()
    uniform: bool = False
    group: tuple[GroupRule, ...] = ()

    @property
    def finds_step(self) -> bool:
        """Whether a multiple is to be found by timing."""
        return AUTO in (self.step, *(rule.step for rule in self.group))

    def limited(self, traced: Sequence[Choice], auto: int = 1) -> tuple[Choice, ...]:
        """The traced choices within these limits, where `auto` is the multiple that was found.

        Raises ConfigError for a pattern that finds none, and for limits that leave a choice no level.
        """
        pairs = zip(traced, self._words(traced), strict=True)
        return tuple(_within(choice, auto, **words) for choice, words in pairs)

    def tied(self, traced: Sequence[Choice]) -> tuple[tuple[int, ...], ...]:
        """The choices, by position, that move together. Raises ConfigError where a list finds fewer than two."""
        ties = [tuple(found(patterns, traced, "[space] ties")) for patterns in self.ties]
        for patterns, tie in zip(self.ties, ties, strict=True):
            if len(tie) < 2:
                raise ConfigError(f"[space] ties: {_listed(patterns)} finds {traced[tie[0]].name!r} alone; "
                                  "a tie is of two choices or more")  # fmt: skip
        for at in {at for tie in ties for at in tie}:
            if sum(at in tie for tie in ties) > 1:
                raise ConfigError(f"[space] ties: {traced[at].name!r} is in two of them; write them as one")
        return (*ties, *_alike(traced, ties)) if self.uniform else tuple(ties)

    def remarks(self, traced: Sequence[Choice], auto: int = 1) -> tuple[str, ...]:
        """What became of these limits that a person might not expect.

        That are kinds of which nothing was found, and choices that a step leaves as they are.
        """
        return tuple(said for said in (self._missing(traced), self._stuck(traced, auto)) if said)

    def _missing(self, traced: Sequence[Choice]) -> str:
        """Which kind of what may be left out was asked for and not found; "" where there is none."""
        missing = {*BLOCKS} & {*self.kinds} - {choice.kind for choice in traced}
        return " ".join(f"No choice of kind {kind!r} was found: {_WHY_NONE[kind]}." for kind in missing)

    def _stuck(self, traced: Sequence[Choice], auto: int) -> str:
        """Which choices a step leaves as they are; "" where it leaves none."""
        stuck = []
        for choice, words in zip(traced, self._words(traced), strict=True):
            now, finer = _within(choice, auto, **words), _within(choice, auto, **{**words, "step": 1})
            if len(now.levels) == 1 < len(finer.levels):
                step = auto if words["step"] == AUTO else words["step"]
                stuck.append(f"{choice.name} ({now.levels[-1]} units, step {step})")
        some = ", ".join(stuck[:5]) + (f" and {len(stuck) - 5} more" if len(stuck) > 5 else "")
        said = f"Too coarse a step leaves nothing to decide of {some}: no multiple of it lies within their limits."
        return said if stuck else ""

    def blamed(self, traced: Sequence[Choice], auto: int, price: Callable[[Policy], float]) -> str:
        """Which of these limits keep networks dear, and what could be reached without: "" where none does."""

        def least(space: Space) -> float:
            try:
                return price(Policy(tuple(choice.levels[0] for choice in space.limited(traced, auto))))
            except ConfigError:  # what is left contradicts itself
                return math.inf

        now = least(self)
        causes = [words for words, looser in self._loosened() if least(looser) < now]
        if not causes:
            return ""
        free = price(Policy(tuple(choice.levels[0] for choice in traced)))
        dense = price(Policy(tuple(choice.dense for choice in traced)))
        return f" with your limits ({'; '.join(causes)}); without them {free / dense:.1%} could be reached"

    def _words(self, traced: Sequence[Choice]) -> list[dict[str, Any]]:
        """The last word on each limit, for each choice."""
        words: list[dict[str, Any]] = [{"max_sparsity": self.max_sparsity, "step": self.step} for _ in traced]
        for rule in self.group:
            for at in found(rule.match, traced, "[[space.group]] match"):
                rule.require(traced[at])
                words[at] |= rule.said
        for at in found(self.exclude, traced, "[space] exclude"):
            words[at] = {"max_sparsity": 0.0, "step": 1}
        return words

    def _loosened(self) -> Iterator[tuple[str, Space]]:
        """Each limit in words, and the table without it."""
        yield f"max_sparsity = {self.max_sparsity:g}", self.model_copy(update={"max_sparsity": 1.0})
        yield f"step = {self.step}", self.model_copy(update={"step": 1})
        yield f"exclude = {_listed(self.exclude)}", self.model_copy(update={"exclude": ()})
        for at, rule in enumerate(self.group):
            said = ", ".join(f"{word} = {value}" for word, value in rule.said.items())
            others = self.group[:at] + self.group[at + 1 :]
            yield f"{said} of {_listed(rule.match)}", self.model_copy(update={"group": others})


def _alike(traced: Sequence[Choice], ties: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """The widths, by position, of layers that must stay alike and are in none of the `ties`.

    Raises ConfigError where they are not alike to begin with.
    """
    taken = {at for tie in ties for at in tie}
    layers: dict[str, list[int]] = {}
    for at, choice in enumerate(traced):
        if choice.kind not in BLOCKS and at not in taken:
            layers.setdefault(re.sub(r"\d+", "*", choice.name), []).append(at)
    for places in layers.values():
        sizes = {traced[at].dense: traced[at].name for at in places}
        if len(sizes) > 1:
            few = " and ".join(f"{one!r} has {size}" for size, one in list(sizes.items())[:2])
            raise ConfigError(f"[space] uniform = true: {few} units, so that the layers are not alike; write ties")
        if len(places) > 1:
            yield tuple(places)


def found(patterns: str | tuple[str, ...], choices: Sequence[Choice], where: str) -> list[int]:
    """The choices, by position, that `patterns` find. Raises ConfigError for one that finds none."""
    places = set[int]()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        named = {at for at, choice in enumerate(choices) if fnmatchcase(choice.name, pattern)}
        made = {at for at, choice in enumerate(choices) if any(fnmatchcase(x, pattern) for x in choice.producers)}
        if not named | made:
            raise ConfigError(f"{where} = {pattern!r} matches no choice{_meant(pattern, choices)}")
        places |= named or made
    return sorted(places)


def _meant(pattern: str, choices: Sequence[Choice]) -> str:
    """What is said of a pattern that finds nothing: where the layer is, or what there is."""
    if readers := [choice.name for choice in choices if pattern in choice.layers]:
        return f": its own channels are in none; as a layer it belongs to {readers[0]!r}"
    names = [choice.name for choice in choices]
    hint = plugins.meant(pattern, dict.fromkeys([*names, *(x for choice in choices for x in choice.producers)]))
    return f"{hint}; there are {', '.join(names)}"


def _within(
    choice: Choice, auto: int, *, max_sparsity: float, step: str | int, floor: int = 0, cap: int = 0, fix: int = 0
) -> Choice:
    """`choice` with the levels that all limits leave; `cap` and `fix` are 0 where nothing is said.

    A block leaves whole or not at all: a share of its single unit limits nothing but for 0, and floor and fix keep it.
    """
    if choice.kind in BLOCKS:
        stays = max_sparsity <= 0 or floor or fix
        return dataclasses.replace(choice, levels=(1,)) if stays else choice
    floor = max(floor, 1)
    multiple = min(auto, choice.dense * choice.width) if isinstance(step, str) else step
    least = max(floor, restrict(choice, max_sparsity=max_sparsity, step=1).levels[0])
    most = cap or choice.dense
    if least > most and not fix:
        raise ConfigError(f"cap = {cap} of {choice.name!r}: other limits keep {least} of its {choice.dense} units")
    levels = [k for k in restrict(choice, max_sparsity=max_sparsity, step=multiple).levels if least <= k <= most]
    left = (fix,) if fix else tuple(levels) or (most,)
    return dataclasses.replace(choice, levels=left, of=0 if left[-1] == choice.dense else choice.dense)


def _listed(patterns: str | tuple[str, ...]) -> str:
    return patterns if isinstance(patterns, str) else ", ".join(patterns)
