"""Timings of policies on disk: one line each, so that an interrupted build goes on where it stopped.

A file belongs to one network on one target: its first line says which runtime, device, threads and the like, and whose
operators. A line that is damaged is not used; what it held is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic

from autoprune.errors import CacheError, FileError
from autoprune.files import disk
from autoprune.values.ranges import Range

Key = tuple[str, tuple[int, ...]]  # what a timing is for, and the kept units

Measured = Annotated[float, Range(0, 1e9)]


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed policy.

    Attributes:
        part: what it is for: "build", "unseen" or "again"; "proved", measured after it was predicted, in a search;
            "anchor N", at one of many moments.
        kept: the level of each choice.
        ratio, spread: as `autoprune.values.terms.Figure`.
        dense: milliseconds of the dense network beside it.
    """

    part: str
    kept: tuple[int, ...]
    ratio: Measured
    spread: Measured
    dense: Measured


_TIMING = pydantic.TypeAdapter(Timing)


@dataclass
class Store:
    """The timings in one file.

    Attributes:
        path: of the file.
        facts: what they depend on.
        notes: what was not as it should be, a sentence each.
    """

    path: Path
    facts: Mapping[str, Any]
    notes: list[str] = field(default_factory=list, init=False)
    _held: dict[Key, Timing] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            lines = disk.read_bytes(self.path).splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as wrong:
            raise _refused(self.path, "read", wrong) from None
        if not lines or _checked(lines[0]) != {"facts": dict(self.facts)}:
            self.notes.append(
                f"{self.path} holds timings of another device, runtime or network; all is measured again."
            )
            self._discard()
            return
        found = [_timing(line) for line in lines[1:]]
        self._held = {(t.part, t.kept): t for t in found if t is not None}
        if damaged := found.count(None):
            self.notes.append(f"{self.path} has {damaged} damaged lines; they are measured again.")
            self._rewrite()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, part: str, kept: Sequence[int]) -> Timing | None:
        """The timing of that policy, if there is one."""
        return self._held.get((part, tuple(kept)))

    def of(self, part: str) -> list[Timing]:
        """All timings of one part, whatever number follows its name, in the order in which they were made."""
        return [timing for timing in self._held.values() if timing.part.partition(" ")[0] == part]

    def put(self, timing: Timing) -> None:
        """Keep `timing`; it is on the disk when this returns."""
        if not self._held:
            self._rewrite()
        self._held[timing.part, timing.kept] = timing
        try:
            disk.append_to(self.path, disk.sealed(asdict(timing)))
        except OSError as wrong:
            raise _refused(self.path, "written", wrong) from None

    def _rewrite(self) -> None:
        content = b"".join(map(disk.sealed, [{"facts": dict(self.facts)}, *map(asdict, self._held.values())]))
        try:
            disk.write_whole(self.path, content)
        except OSError as wrong:
            raise _refused(self.path, "written", wrong) from None

    def _discard(self) -> None:
        """Set the file aside: it may be of use to whoever put it there."""
        try:
            disk.set_aside(self.path)
        except OSError as wrong:
            raise _refused(self.path, "written", wrong) from None


def _refused(path: Path, what: str, wrong: OSError) -> CacheError:
    said = str(wrong) if isinstance(wrong, FileError) else f"{path} cannot be {what} ({wrong.strerror or wrong})"
    return CacheError(f"{said}; set AUTOPRUNE_CACHE to a folder of yours")


def _checked(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None where it is not as it was written."""
    try:
        found = disk.unsealed(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _timing(line: bytes) -> Timing | None:
    found = _checked(line)
    if found is None or set(found) != {"part", "kept", "ratio", "spread", "dense"}:
        return None
    try:
        return _TIMING.validate_json(json.dumps(found), strict=True)
    except pydantic.ValidationError:
        return None
