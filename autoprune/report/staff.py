"""Who evaluated in a search with workers, and how their time went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoprune.values.trial import Trial

AROUND, WAYS = ("ask", "journal", "tell"), ("sent", "idle")  # phases of the search itself, and of waiting for it


@dataclass(frozen=True, slots=True)
class Staff:
    """Who evaluated, and how their time went.

    Attributes:
        workers: how many at once, at most.
        order: "asked" or "finished".
        window: policies under way at once, at most.
        busy, sent, idle: seconds of all workers: they evaluated, policies and results were on their way, they waited.
    """

    workers: int
    order: str
    window: int
    busy: float
    sent: float
    idle: float

    @classmethod
    def of(cls, trials: Iterable[Trial], order: str, window: int) -> Staff | None:
        """Of the trials of a search; None where no worker evaluated."""
        theirs = [trial for trial in trials if trial.worker]
        names = {trial.worker for trial in theirs}
        sums = [sum(trial.seconds.get(phase, 0.0) for trial in theirs) for phase in WAYS]
        busy = sum(sum(s for phase, s in trial.seconds.items() if phase not in (*AROUND, *WAYS)) for trial in theirs)
        return cls(min(len(names), window), order, window, busy, *sums) if theirs else None

    @property
    def utilisation(self) -> float:
        """The share of the workers' time in which they had a policy."""
        return (self.busy + self.sent) / (self.busy + self.sent + self.idle or 1.0)

    @property
    def efficiency(self) -> float:
        """The share of the workers' time in which they evaluated."""
        return self.busy / (self.busy + self.sent + self.idle or 1.0)
