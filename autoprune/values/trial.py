"""What one evaluation said, and which of several say most: the front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autoprune.values.space import Policy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a policy.

    Attributes:
        metric: the task's quality on the holdout, higher is better.
        values: what is searched for, all upwards; the first is the reward that controllers maximise. Several make a
            front.
        costs: by name of the cost model, lower is better.
    """

    metric: float
    values: tuple[float, ...]
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing came of a policy.

    Attributes:
        error: one line.
        costs: as of an `Outcome`, since they are known without a network.
    """

    error: str
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy and what became of it. Immutable: it is told as it was written.

    Attributes:
        number: of the ask, counted from 0.
        policy: what was evaluated.
        outcome: what came of it, or why nothing did.
        seconds: time spent, by phase ("ask", "prune", "recover", "score" ...).
        rung: how thorough the evaluation was, counted from 0; what was asked at one rung may be asked again at another.
        repeats: the number of the trial whose outcome this one copies, since its policy is the same; None where a
            network was made for it.
        worker: who evaluated it; "" for this process.
    """

    number: int
    policy: Policy
    outcome: Outcome | Failure
    seconds: Mapping[str, float] = field(default_factory=dict)
    rung: int = 0
    repeats: int | None = None
    worker: str = ""

    @property
    def metric(self) -> float | None:
        """The task's quality; None where the trial failed."""
        return self.outcome.metric if isinstance(self.outcome, Outcome) else None

    @property
    def reward(self) -> float | None:
        """What the controller maximises; None where the trial failed."""
        return self.outcome.values[0] if isinstance(self.outcome, Outcome) else None

    @property
    def costs(self) -> Mapping[str, float]:
        """By name of the cost model."""
        return self.outcome.costs

    @property
    def error(self) -> str:
        """Why it failed; "" where it did not."""
        return self.outcome.error if isinstance(self.outcome, Failure) else ""

    def again(self, number: int) -> Trial:
        """The same outcome for another number, for which nothing was evaluated."""
        return replace(self, number=number, seconds={}, repeats=self.number, worker="")


FIRST, FEWEST = 10, 3  # different policies that should not all score the same


def front(values: Sequence[Sequence[float]]) -> list[int]:
    """The rows that no other beats, all numbers upwards: none is as large everywhere; of equal rows the first.

    In falling order of their last number: by rising cost, where that comes last with a minus sign.
    """
    found: list[int] = []
    if not len(values):
        return found
    points = np.array(values, dtype=np.float64)
    for at in np.lexsort([np.arange(len(points)), *(-points.T)]).tolist():  # whoever beats a row comes before it
        if not (points[found] >= points[at]).all(axis=1).any():
            found.append(at)
    return found


def scored(trials: Iterable[Trial]) -> int:
    """How many different networks got a score in `trials`."""
    return len({trial.policy for trial in trials if trial.metric is not None})


@dataclass(slots=True)
class Tally:
    """What is said of trials while they go on, from one look at each.

    Attributes:
        evaluated: trials for which a network was made.
        seconds: what these took.
        first: the metrics of the first `FIRST` different policies that succeeded.
    """

    evaluated: int = 0
    seconds: float = 0.0
    first: dict[Policy, float] = field(default_factory=dict)

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Tally:
        """The tally of `trials`."""
        tally = cls()
        for trial in trials:
            tally.add(trial)
        return tally

    def add(self, trial: Trial) -> None:
        """Look at one more trial."""
        if trial.repeats is None:
            self.evaluated += 1
            self.seconds += sum(trial.seconds.values())
        if trial.metric is not None and len(self.first) < FIRST:
            self.first.setdefault(trial.policy, trial.metric)

    @property
    def pace(self) -> float:
        """Evaluated policies a second; 0 where there are none."""
        return self.evaluated / self.seconds if self.seconds else 0.0

    @property
    def same(self) -> float | None:
        """The one metric of all first policies; None where they differ, or are too few to say."""
        found = list(self.first.values())
        return found[0] if len(found) >= FEWEST and len(set(found)) == 1 else None


def policies_per_second(trials: Iterable[Trial]) -> float:
    """How many of `trials` were evaluated, by the sum of their seconds; 0 where none was."""
    return Tally.of(trials).pace


def score_of_all(trials: Iterable[Trial]) -> float | None:
    """The metric of the first `FIRST` different policies, or as many as there are; None where they differ."""
    return Tally.of(trials).same
