"""Another program, run for a while: it and all that it started end with its time, and it fills no memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

TAIL = 2**16  # bytes of what it printed that are kept, from the end
_PAUSE = 0.05  # seconds between looks at whether it has ended


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended.

    Attributes:
        status: its exit status, negative where a signal ended it.
        out, err: the end of what it printed, at most `TAIL` bytes each.
    """

    status: int
    out: str
    err: str


def run(words: Sequence[str], seconds: float) -> Done:
    """Run a program, without a shell, until it ends.

    Raises TimeoutError where it runs longer than `seconds`; it has then been killed with everything that it started.
    OSError and ValueError as `subprocess.Popen`, where it cannot be started.
    """
    deadline = time.monotonic() + seconds
    with _started(words) as process:
        tails = _read(process, deadline)
        return Done(process.wait(), *(tail.decode(errors="replace") for tail in tails))


@contextlib.contextmanager
def _started(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a session of its own, which is killed where the block ends early."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        for pipe in _pipes(process):
            pipe.close()


def _read(process: subprocess.Popen[bytes], deadline: float) -> list[bytes]:
    """The ends of its two streams, when it has ended: what it left running may hold them open."""
    streams = _pipes(process)
    tails = [b""] * len(streams)
    with selectors.DefaultSelector() as ready:
        for number, stream in enumerate(streams):
            os.set_blocking(stream.fileno(), False)
            ready.register(stream, selectors.EVENT_READ, number)
        ended = False
        while not ended:
            ended = process.poll() is not None  # before the last look, so that nothing printed before is missed
            if time.monotonic() > deadline and not ended:
                raise TimeoutError
            for key, _ in ready.select(0 if ended else _PAUSE):
                part = os.read(key.fd, TAIL)
                tails[key.data] = (tails[key.data] + part)[-TAIL:]
                if not part:
                    ready.unregister(key.fileobj)
            if not ready.get_map() and not ended:
                time.sleep(_PAUSE)
    return tails


def _pipes(process: subprocess.Popen[bytes]) -> list[IO[bytes]]:
    return [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
