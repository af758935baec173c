"""Which numbers a setting may have: said once, beside its type, and read by whoever checks it.

    trials: Annotated[int, Range(1, 1_000_000)]

pydantic reads that for the tables of a search space and in `plugins.check`, `require` for a plugin that is made in
Python. The upper ends are far above what anybody uses and far below what never ends, or is no number any more for the
libraries beneath.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

from pydantic_core import core_schema

from autoprune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `least` to `most`.

    Attributes:
        least, most: the ends, both finite.
        above, below: whether a number must lie above `least`, and below `most`.
        word: may stand in place of a number; "" for none.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    word: str = ""

    def __contains__(self, value: object) -> bool:
        if isinstance(value, str):
            return bool(self.word) and value == self.word
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number: Any = value  # whole numbers of any length are compared exactly
        low = self.least < number if self.above else self.least <= number
        return bool(low and (number < self.most if self.below else number <= self.most))

    def said(self, whole: bool) -> str:
        """The range for people, such as "a whole number from 1 to 1,000,000"."""
        return f"a {'whole number' if whole else 'number'} {'' if self.above else 'from '}{self}"

    def __str__(self) -> str:
        low = f"above {_plain(self.least)}" if self.above else _plain(self.least)
        joint = " and below " if self.below else " and up to " if self.above else " to "
        return f"{low}{joint}{_plain(self.most)}" + (f", or {self.word!r}" if self.word else "")

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """What pydantic asks of an annotation: refuse, with one sentence, another type and a number outside."""
        return core_schema.no_info_wrap_validator_function(self._checker(source), handler(source))

    def _checker(self, hint: Any) -> Callable[[Any, Callable[[Any], Any]], Any]:
        def checked(value: Any, inner: Callable[[Any], Any]) -> Any:
            try:
                found = inner(value)
            except ValueError:
                found = None
            if found is None or found not in self:
                raise ValueError(f"{self.said(is_whole(hint))} is right")
            return found

        return checked


def _plain(end: float) -> str:
    return f"{int(end):,}" if end == math.floor(end) else f"{end:g}"


def is_whole(hint: Any) -> bool:
    """Whether the numbers of a type are whole ones."""
    return hint is int or int in typing.get_args(hint)


def ranges(hint: Any) -> Iterator[tuple[Any, Range | None]]:
    """Each type of numbers within `hint`, and the range that is said of it; None where none is."""
    if typing.get_origin(hint) is Annotated:
        inner, *said = typing.get_args(hint)
        found = [one for one in said if isinstance(one, Range)]
        yield from ((inner, one) for one in found) if found else ranges(inner)
    elif hint in (int, float):
        yield hint, None
    else:
        for part in typing.get_args(hint):
            yield from ranges(part)


def require(made: object) -> None:
    """Raise ConfigError where an attribute of `made` is outside the range that its class says; for `__post_init__`."""
    for name, hint in typing.get_type_hints(type(made), include_extras=True).items():
        for inner, one in ranges(hint):
            value = getattr(made, name)
            for number in value if isinstance(value, tuple) else (value,):
                if one and number not in one:
                    right = one.said(is_whole(inner))
                    raise ConfigError(f"{type(made).__name__}: {name} = {number!r}; {right} is right")


Share = Annotated[float, Range(0, 1)]
ShareAbove = Annotated[float, Range(0, 1, above=True)]
ShareBelow = Annotated[float, Range(0, 1, below=True)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what every generator beneath takes
Samples = Annotated[int, Range(0, 10**9)]
SomeSamples = Annotated[int, Range(2, 10**9)]  # statistics of one are none
Batch = Annotated[int, Range(1, 65_536)]
Trials = Annotated[int, Range(1, 1_000_000)]
Steps = Annotated[int, Range(0, 10_000_000)]
SomeSteps = Annotated[int, Range(1, 10_000_000)]
Epochs = Annotated[float, Range(0, 10_000)]
LearningRate = Annotated[float, Range(0, 100, above=True)]
Decay = Annotated[float, Range(0, 1)]
Norm = Annotated[float, Range(0, 1e9, above=True)]
Temperature = Annotated[float, Range(0, 1000, above=True)]
Few = Annotated[int, Range(1, 10_000)]
Threads = Annotated[int, Range(0, 1024)]
