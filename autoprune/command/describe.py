"""Plugins as people read of them: what each is, and what its settings mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune import plugins
from autoprune.values.ranges import ranges


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a plugin, for people.

    Attributes:
        name: as it is written in a file.
        type: as Python writes it.
        range: of its numbers; "" for what is none, and where a plugin does not say it.
        default: as Python writes it; "required" where there is none.
        meaning: from the plugin's docstring; may be empty.
    """

    name: str
    type: str
    range: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Description:
    """A plugin, for people."""

    kind: str
    name: str
    summary: str
    settings: tuple[Setting, ...]


def describe(kind: str, name: str) -> Description:
    """What a plugin is and what its settings mean."""
    make = plugins.load(kind, name)
    text = inspect.getdoc(make) or ""
    meanings, hints = _inherited(make), plugins.hints_of(make)
    bounds = plugins.hints_of(make, ranges=True)
    settings = tuple(
        Setting(
            name=p.name,
            type=plugins.written(hints.get(p.name, Any)),
            range=", ".join(str(one) for _, one in ranges(bounds.get(p.name)) if one),
            default="required" if p.default is p.empty else repr(p.default),
            meaning=meanings.get(p.name, ""),
        )
        for p in plugins.settings_of(kind, make, plugins.WIRED.get(kind, ())).values()
    )
    return Description(kind, name, " ".join(text.partition("\n\n")[0].split()), settings)


def _inherited(make: Callable[..., Any]) -> dict[str, str]:
    """What each name means, from the docstring of `make` and of the classes that it builds on."""
    found: dict[str, str] = {}
    for base in reversed(make.__mro__) if inspect.isclass(make) else (make,):
        found |= _meanings(inspect.getdoc(base) or "")
    return found


def _meanings(text: str) -> dict[str, str]:
    """From the section "Attributes:" or "Args:" of a docstring: what each name means."""
    section = re.search(r"^(?:Attributes|Args):\n((?:[ ].*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    current: list[str] = []
    for line in section.group(1).splitlines() if section else ():
        entry = re.match(r" {4}(\w[\w, ]*):\s+(.*)", line)
        if entry:
            current = [word.strip() for word in entry.group(1).split(",")]
            found |= dict.fromkeys(current, entry.group(2).strip())
        else:
            found |= {word: f"{found[word]} {line.strip()}".strip() for word in current}
    return found
