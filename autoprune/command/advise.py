"""What `autoprune check --advise` does: measures what it can in a minute, and says what to take, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator

from autoprune.command.shared import bars, print_json, study_of
from autoprune.command.terminal import show as print
from autoprune.report import words
from autoprune.runs import advice
from autoprune.runs.advice import Line, Measured
from autoprune.runs.study import Study


def show(asked: argparse.Namespace) -> None:
    """Measure and advise."""
    built = study_of(asked)
    with bars(asked) as shown:
        found = advice.measure(built, shown.stage)
    lines = list(advice.given(built, found, asked.within))
    if asked.json:
        given = [dataclasses.asdict(line) for line in lines]
        _print_json(built, found, asked.within, given)
        return
    print(f"{built.name}: what to take, and why\n")
    print("\n".join(f"{x.about}: {x.take}\n    {x.why} ({x.source})" for x in lines))
    print("\n" + "\n".join(_measured(built, found, asked.within)))
    print("\nIn a search space:\n\n" + "\n".join(_file(lines)))


def _print_json(built: Study, found: Measured, points: float, given: list[dict[str, str]]) -> None:
    known = built.task.judge.known
    print_json(
        {
            "name": built.name,
            "advice": given,
            "dense": known(found.dense),
            "headroom": {f"{share:g}": known(metric) for share, metric in found.headroom.items()},
            "within": {"points": points, "share": advice.within(built, found, points)},
            "latency": list(found.latency),
            "alone": [dataclasses.asdict(one) for one in found.alone],
        }
    )


def _measured(built: Study, found: Measured, points: float) -> Iterator[str]:
    """How far the network goes, and what each choice costs."""
    judge = built.task.judge
    shown = [
        f"{share:.0%} {words.number(judge.known(m), percent=judge.percent)}" for share, m in found.headroom.items()
    ]
    dense = words.number(judge.known(found.dense), percent=judge.percent)
    yield f"Uniform pruning, untrained, {judge.name} by share of the {words.label(built.traded)}: dense {dense}, " + (
        ", ".join(shown) or "nothing less can be reached"
    )
    reach = advice.within(built, found, points)
    least = "none of these" if reach is None else f"{reach:.0%} of the {words.label(built.traded)}"
    yield f"The smallest budget at which that loses at most {points:g} points: {least}"
    ranked = sorted(
        ((one.lost, choice.name) for one, choice in zip(found.alone, built.space) if one.lost is not None), reverse=True
    )
    if ranked:
        most = ", ".join(f"{name} {words.number(lost, percent=judge.percent)}" for lost, name in ranked[:5])
        yield f"What {judge.name} loses when one choice alone is cut to half, the most: {most}"


def _file(lines: list[Line]) -> Iterator[str]:
    """The advice as a search space has it."""
    tables: dict[str, list[str]] = {}
    for line in lines:
        if line.table:
            written = (f"{key} = {json.dumps(value)}" for key, value in line.settings.items())
            tables.setdefault(line.table, []).extend(written)
    for table in sorted(tables, key="[[space.group]]".__eq__):  # below [space], which a table of it would end
        yield "\n".join((table, *tables[table]))
