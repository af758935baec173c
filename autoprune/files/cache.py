"""What is measured once on a machine and kept for its user: where that lies, and under which name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune.files import disk


def folder() -> Path:
    """Where it lies: $AUTOPRUNE_CACHE, else the user's cache folder (XDG base directory specification)."""
    given = os.environ.get("AUTOPRUNE_CACHE", "")
    base = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    return Path(given) if given else base / "autoprune"


def named(facts: Mapping[str, Any]) -> str:
    """A short name for `facts`."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same `path`, a file that is made for that. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = disk.opened(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
