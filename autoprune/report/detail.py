"""What a page shows beyond the comparison: intervals, curves of the finetune, where a cost goes, what choices cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interval:
    """How much better the network that is delivered is than another on the test split, and how surely.

    Attributes:
        other: the role of the other.
        difference: of the metric, its own less the other's, as the task's metric gives its numbers.
        low, high: the ends of the bootstrap interval of it, over the samples.
        level: of the interval, in (0, 1).
        samples: in the test split.
    """

    other: str
    difference: float
    low: float
    high: float
    level: float
    samples: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves no doubt which of the two is better."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Curve:
    """The training loss of a network's finetune, thinned: each point is the mean since the one before."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """Where a cost goes: what each layer takes of it, by name; "" is what no pruning changes.

    Attributes:
        cost, unit: of what.
        dense, ours: of the dense network, and of the one that was found.
    """

    cost: str
    unit: str
    dense: Mapping[str, float]
    ours: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Alone:
    """What is lost when one choice alone is cut to about half, by the search's own evaluator.

    Attributes:
        kept: units that stay then; of the dense network, where it was not tried.
        lost: of the metric, positive is worse; None where it was not tried, or failed.
    """

    kept: int
    lost: float | None


@dataclass(frozen=True, slots=True)
class Detail:
    """All of that.

    Attributes:
        intervals: against each other network; none where the metric gives no number a sample.
        curves: by role; none where nothing was trained.
        layers: of latency, where it is a cost, and of MACs.
        alone: one a choice; empty where it was not measured.
        chance: the metric of a guess, where that is known.
        warnings: what went wrong, a sentence each; see `report.warnings`.
    """

    intervals: tuple[Interval, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    layers: tuple[Layers, ...] = ()
    alone: tuple[Alone, ...] = ()
    chance: float | None = None
    warnings: tuple[str, ...] = ()
