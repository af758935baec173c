"""The rows of the page that are more than a number: choices with their bars, layers, intervals, hovered trials."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoprune.report import words
from autoprune.report.detail import Interval, Layers
from autoprune.report.facts import Report

MOST = 30  # layers that are shown by themselves
_NAMED = 6  # layers of a choice that are named


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """What stays of a choice.

    Attributes:
        name: of the choice.
        layers: what its units go through, for people.
        of, kept: units of the dense network, and of the one that is delivered.
        uniform: units that the uniform baseline keeps; None where there is none.
        alone: what is lost when it alone is cut, in words; "" where that is not known.
        weight: the same as a share of the largest of all choices, in [0, 1].
    """

    name: str
    layers: str
    of: int
    kept: int
    uniform: int | None
    alone: str
    weight: float


def choices(r: Report) -> list[ChoiceRow]:
    """Every choice, in the order of the network."""
    alone = r.detail.alone or [None] * len(r.choices)
    most = max((one.lost for one in alone if one and one.lost is not None), default=0.0)
    uniform = r.networks.get("uniform")
    found = []
    for at, (choice, one) in enumerate(zip(r.choices, alone, strict=True)):
        lost = one.lost if one else None
        found.append(
            ChoiceRow(
                name=choice.name,
                layers=_some(choice.layers),
                of=choice.of,
                kept=r.final.kept[at],
                uniform=uniform.kept[at] if uniform else None,
                alone="" if lost is None or one is None else f"{_lost(r, lost)} at {one.kept}",
                weight=max(0.0, lost) / most if lost is not None and most > 0 else 0.0,
            )
        )
    return found


def _some(layers: Sequence[str]) -> str:
    more = len(layers) - _NAMED
    return ", ".join(layers[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _lost(r: Report, lost: float) -> str:
    """A loss of the metric for people; `lost` is positive where it is worse."""
    return words.gap(r, -lost * r.sign)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What a layer takes of a cost, in the dense network and in ours; widths are shares of the largest layer's."""

    name: str
    dense: str
    ours: str
    left: str
    dense_width: float
    ours_width: float


def layers(of: Layers) -> list[LayerRow]:
    """The layers that take most, in the order of the network, and all others together."""
    named = [name for name in of.dense if name]
    kept = set(sorted(named, key=lambda name: -of.dense[name])[:MOST])
    rows = [(name, of.dense[name], of.ours.get(name, 0.0)) for name in named if name in kept]
    if rest := [name for name in named if name not in kept]:
        dense, ours = (sum(some.get(name, 0.0) for name in rest) for some in (of.dense, of.ours))
        rows.append((f"{len(rest)} others", dense, ours))
    if "" in of.dense:
        rows.append(("whatever is pruned", of.dense[""], of.ours.get("", 0.0)))
    most = max((dense for _, dense, _ in rows), default=0.0) or 1.0
    return [
        LayerRow(
            name,
            words.valued(dense, of.unit),
            words.valued(ours, of.unit),
            f"{ours / dense:.0%}" if dense else "-",
            min(1.0, dense / most),
            min(1.0, ours / most),
        )
        for name, dense, ours in rows
    ]


def interval(r: Report, other: str) -> str:
    """How surely what is delivered is better or worse than `other` on test, in words; "" where that is not known."""
    found = next((one for one in r.detail.intervals if one.other == other), None)
    return "" if found is None else f"{found.level:.0%} interval {ends(r, found)}"


def ends(r: Report, one: Interval) -> str:
    """The ends of an interval for people."""
    return f"{words.gap(r, one.low)} to {words.gap(r, one.high)}"


def sure(r: Report) -> Iterator[str]:
    """A sentence on each interval."""
    for one in r.detail.intervals:
        if one.other == "dense":
            continue
        better = (one.difference > 0) != r.lower_is_better
        verdict = f"{'better' if better else 'worse'} beyond chance of the samples" if one.is_sure else "not told apart"
        gap = words.gap(r, one.difference)
        yield f"Against {one.other}: {gap}, {one.level:.0%} interval {ends(r, one)}; {verdict}."


def hovered(r: Report) -> str:
    """What a trial is, by its number, as JSON that may stand in a page."""
    cost = r.headline_cost
    trials = {
        t.number: [
            t.error
            or f"{words.metric(r)} {words.shown(r, t.metric)}, {words.label(cost)} "
            f"{t.costs[cost] / r.dense.costs[cost]:.1%}",
            *t.kept,
        ]
        for t in r.trials
    }
    known = {"choices": [[choice.name, choice.of] for choice in r.choices], "trials": trials}
    return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
