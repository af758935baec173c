"""How a command ends that is stopped, or that cannot say what it found: one line, and an exit status that tells."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec

from autoprune.stops import STOPS, here

P = ParamSpec("P")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Stopped(KeyboardInterrupt):
    """As Ctrl-C, of any signal that asks a process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stops:
    """Turns signals into `Stopped`, and remembers it.

    A user's code may catch whatever is raised in it, and a library in Rust turns it into an error of its own.
    """

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, number: int, at: FrameType | None) -> None:
        """Handle a signal."""
        self._asked = number
        raise Stopped(number)

    def check(self) -> None:
        """Raise Stopped once more where it was asked for, and something caught it."""
        if self._asked:
            raise Stopped(self._asked)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Inside, whatever error follows a signal is Stopped."""
        try:
            yield
        except Exception as wrong:
            if self._asked:
                raise Stopped(self._asked) from wrong
            raise

    def between(self, watch: Callable[P, None]) -> Callable[P, None]:
        """`watch`, which ends the work where that was asked for and went unheard."""

        def watching(*given: P.args, **named: P.kwargs) -> None:
            self.check()
            watch(*given, **named)

        return watching


@contextlib.contextmanager
def stoppable() -> Iterator[Stops]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP raise Stopped. One that is ignored (nohup), or handled, stays so."""
    stops, usual = Stops(), (signal.SIG_DFL, signal.default_int_handler)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: handler for one in STOPS if (handler := signal.getsignal(one)) in usual}
    for one in before:
        signal.signal(one, here(stops))
    try:
        with stops.heard():
            yield stops
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def status(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that was stopped, as shells have it."""
    return 128 + (stopped.number if isinstance(stopped, Stopped) else signal.SIGINT)


def unsaid(wrong: OSError) -> int:
    """The exit status where stdout took nothing more, which is said on stderr; another fault is raised again."""
    if wrong.filename is not None or wrong.errno not in _FULL:
        raise wrong
    with contextlib.suppress(OSError):
        print(f"autoprune: error: stdout cannot be written: {wrong.strerror}", file=sys.stderr)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what is left of it would fail once more at the end
    return 2
