"""Progress for programs: a file of JSON lines, one object an event, written at once.

Every object has "time", seconds since 1970, and "event": "began", "stage", "run", "trial", "warning" or "ended"; what
else each has is listed in docs/command-line.md.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from autoprune.errors import FileError, reason

if TYPE_CHECKING:
    from autoprune.values.trial import Trial

EVERY = 1.0  # seconds between two lines of one stage, at least; its first and its last step are always told


class Events:
    """Where progress is told; nowhere, without a file."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: TextIO | None = None
        self._path, self._stage, self._last = path, "", 0.0
        if path is not None:
            try:
                self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the command runs
            except OSError as wrong:
                raise FileError(f"--events {path} cannot be written: {reason(wrong)}") from None

    def tell(self, event: str, **facts: object) -> None:
        """Write one event. Raises FileError where that fails."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")
            self._file.flush()
        except OSError as wrong:
            self._file = None
            raise FileError(f"--events {self._path} cannot be written: {reason(wrong)}") from None

    def stage(self, what: str, done: int, of: int) -> None:
        """How far a stage has come, once a second at most."""
        if self._file is None:
            return
        now = time.monotonic()
        if what != self._stage or done >= of or now - self._last >= EVERY:
            self._stage, self._last = what, now
            self.tell("stage", what=what, done=done, of=of)

    def trial(self, trial: Trial) -> None:
        """A trial that was made."""
        self.tell(
            "trial",
            number=trial.number,
            rung=trial.rung,
            levels=trial.policy.levels,
            metric=trial.metric,
            reward=trial.reward,
            costs=dict(trial.costs),
            seconds=round(sum(trial.seconds.values()), 6),
            error=trial.error,
        )

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            self._file.close()
            self._file = None
