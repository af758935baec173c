"""Timings of policies on disk: one line each, so that an interrupted build goes on where it stopped.

A file belongs to one network on one target: its first line says which runtime, device, threads and the like, and whose
operators. A line that is damaged is not used; what it held is measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoprune.errors import CacheError
from autoprune.files import disk

Key = tuple[str, tuple[int, ...]]  # what a timing is for, and the kept units


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed policy.

    Attributes:
        part: what it is for: "build", "unseen" or "again".
        kept: the level of each choice.
        ratio, spread: as `autoprune.values.terms.Figure`.
        dense: milliseconds of the dense network beside it.
    """

    part: str
    kept: tuple[int, ...]
    ratio: float
    spread: float
    dense: float


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
            lines = self.path.read_bytes().splitlines(keepends=True)
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


def folder() -> Path:
    """Where timings lie: $AUTOPRUNE_CACHE, else the user's cache folder (XDG base directory specification)."""
    given = os.environ.get("AUTOPRUNE_CACHE", "")
    base = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    return Path(given) if given else base / "autoprune"


def named(facts: Mapping[str, Any]) -> str:
    """A short name for `facts`."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _refused(path: Path, what: str, wrong: OSError) -> CacheError:
    return CacheError(f"{path} cannot be {what} ({wrong.strerror or wrong}); set AUTOPRUNE_CACHE to a folder of yours")


def _checked(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None where it is not as it was written."""
    try:
        return disk.unsealed(line)
    except ValueError:
        return None


def _timing(line: bytes) -> Timing | None:
    found = _checked(line)
    if found is None or set(found) != {"part", "kept", "ratio", "spread", "dense"}:
        return None
    return Timing(**{**found, "kept": tuple(found["kept"])})
