"""The memory of this process, where the system has /proc; None elsewhere."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

from autoprune.engine import memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(work: Callable[[], object]) -> float | None:
    """The most MiB that `work` takes, above what is held before it."""
    _settle()
    before = _field("VmRSS")
    try:
        _CLEAR.write_text("5")  # the high-water mark counts from here
    except OSError:
        return None
    work()
    return _difference(before, _field("VmHWM"))


def held(work: Callable[[], object]) -> float | None:
    """The MiB that are held after `work` and were not before it."""
    _settle()
    before = _field("VmRSS")
    work()
    _settle()
    return _difference(before, _field("VmRSS"))


def _settle() -> None:
    """Give freed memory back to the system, where it can be told to."""
    gc.collect()
    memory.trim()


def _field(name: str) -> float | None:
    """In MiB."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
