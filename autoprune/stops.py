"""Stops that wait: Ctrl-C and its like, while code runs that cannot be left in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def later() -> Iterator[None]:
    """Inside, a signal that asks for an end is handled at the end of the block; a second one at once.

    PyTorch's exporters call Python from C++: what a handler raises there is swallowed, or ends the process (SIGABRT).
    A signal that ends a process without a handler of Python's does so still. Of threads, only the main one hears any.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: handler for one in STOPS if callable(handler := signal.getsignal(one))}
    heard: list[tuple[int, FrameType | None]] = []

    def note(number: int, at: FrameType | None) -> None:
        heard.append((number, at))
        if len(heard) > 1:
            before[signal.Signals(number)](number, at)

    for one in before:
        signal.signal(one, here(note))
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if heard:
            number, at = heard[0]
            before[signal.Signals(number)](number, at)


def here(handle: Handler) -> Handler:
    """`handle` for this process. A copy of it (fork), as loaders of data make them, ends as it would without us."""
    process = os.getpid()

    def handled(number: int, at: FrameType | None) -> None:
        if os.getpid() == process:
            handle(number, at)
        elif number == signal.SIGINT:
            signal.default_int_handler(number, at)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return handled
