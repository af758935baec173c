"""How much work something is, in calls and bytes: what a clock says on a busy machine is no test."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple


class Work(NamedTuple):
    """Calls of functions, Python's and C's, and the most bytes that were held meanwhile and not before."""

    calls: int
    held: int


class Calls:
    """Counts the calls between `start` and `stop`."""

    def start(self) -> None:
        self._count = 0
        sys.setprofile(self._see)

    def stop(self) -> int:
        sys.setprofile(None)
        return self._count

    def _see(self, frame: FrameType, event: str, arg: object) -> None:
        self._count += event in ("call", "c_call")


class Meter:
    """Counts the work between `start` and `stop`."""

    def __init__(self) -> None:
        self._calls = Calls()

    def start(self) -> None:
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        self._calls.start()

    def stop(self) -> Work:
        calls, peak = self._calls.stop(), tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return Work(calls, peak - self._before)


def least(work: Callable[[], object], times: int = 3) -> Work:
    """The least of several times, since now and then a list grows or a cache is filled."""
    meter, found = Meter(), list[Work]()
    for _ in range(times):
        meter.start()
        work()
        found.append(meter.stop())
    return Work(min(w.calls for w in found), min(w.held for w in found))


def held(*works: Callable[[], object]) -> list[int]:
    """The bytes that are held after each of `works`, one after the other, and were not before the first."""
    found = []
    tracemalloc.start()
    for work in works:
        work()
        gc.collect()
        found.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return found
