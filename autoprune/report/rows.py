"""The rows of a report's tables: networks, ceilings, choices, trials, rungs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["dense", "ours", "uniform", "rule", "random"]


@dataclass(frozen=True, slots=True)
class Network:
    """One row of the comparison. All pruned networks were finetuned, or trained anew, with the same recipe and seed.

    Attributes:
        searched: metric on the holdout as the search saw it, before the final finetune; None where it failed since.
        holdout, test: metric after the final finetune; of the dense network, as it is; None where there is none.
        costs: counted on the network itself, by name of the cost.
        bytes: size of its weights.
        kept: the level of each choice, in the order of the report's choices.
    """

    searched: float | None
    holdout: float | None
    test: float | None
    costs: Mapping[str, float]
    bytes: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling, and what became of it.

    Attributes:
        predicted: of the policy, by arithmetic or by a fit.
        counted: on the pruned network, or measured.
        spread: standard deviation of the measurements at several moments, as a share of their mean; 0 of a count.
        about: of a cost that is measured: where, and how well it is predicted.
        moments: what was measured at each moment; `counted` is their mean.
        said: the ceiling, and below which prediction policies were kept, in words.
    """

    cost: str
    unit: str
    asked: str
    most: float
    dense: float
    predicted: float
    counted: float
    spread: float = 0.0
    about: str = ""
    moments: tuple[float, ...] = ()
    said: str = ""

    @property
    def met(self) -> bool:
        """Whether what was counted, or measured on average, is within the ceiling."""
        return self.counted <= self.most

    @property
    def verdict(self) -> str:
        """Whether it was met and, of what was measured, how surely."""
        said = "met" if self.met else "exceeded"
        if len(self.moments) < 2:
            return said
        over = sum(moment > self.most for moment in self.moments)
        low, high = (f"{end / self.dense:.1%}" for end in (min(self.moments), max(self.moments)))
        but = f", but not at {over} of them" if self.met and over else ""
        return f"{said}: {low} to {high} of dense at {len(self.moments)} moments, ± {self.spread:.1%}{but}"


@dataclass(frozen=True, slots=True)
class ChoiceFacts:
    """A choice and how it was proven to be prunable ("exact" or "shapes")."""

    name: str
    kind: str
    layers: tuple[str, ...]
    of: int
    lowest: int
    proof: str


@dataclass(frozen=True, slots=True)
class FrozenFacts:
    """Channels that could not be pruned, and why."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """A trial; `kept` is its policy, a level a choice, () where an earlier version wrote none.

    Metrics of different rungs are not to be compared. Costs are as predicted, where `Report.measured` has no other.
    """

    number: int
    metric: float | None
    reward: float | None
    costs: Mapping[str, float]
    error: str = ""
    kept: tuple[int, ...] = ()
    rung: int = 0


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many trials of the search, how many failed ones among them, and random ones are not listed: see `thin`."""

    trials: int = 0
    failed: int = 0
    random: int = 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one score puts policies in the order of another.

    Attributes:
        tau: Kendall's tau-b, in [-1, 1]; None where one of the scores is the same for all policies.
        low, high: the 90 % bootstrap interval of `tau`.
        recall: share of the best tenth by the other score that is in the best tenth by this one, in [0, 1].
        policies: how many were counted.
        failed: how many were left out, since one of the scores failed.
    """

    tau: float | None
    low: float | None
    high: float | None
    recall: float
    policies: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RungFacts:
    """A rung of the ladder, and what became of it.

    Attributes:
        said: how policies were judged there.
        trials: how many there were.
        seconds: of one of them, the median.
        tau: Kendall's tau-b with the rung above, over the policies that have both; None where it is not known.
        policies: how many those are.
    """

    said: str
    trials: int
    seconds: float
    tau: float | None
    policies: int
