"""What `autoprune check` says of a network: its choices, what is frozen and why, what everything costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from autoprune.command import terminal
from autoprune.protocols import Explains
from autoprune.runs.study import Study
from autoprune.structure.edits import layer_of
from autoprune.structure.trace import Trace


def facts(built: Study) -> dict[str, Any]:
    """All of it, as plain values."""
    thinnest = built.space.thinnest()
    choices = zip(built.space, built.trace.proofs, strict=True)
    fixed = fixed_parameters(built.trace)
    return {
        "name": built.name,
        "choices": [
            {
                "name": c.name,
                "kind": c.kind,
                "of": c.dense,
                "lowest": c.levels[0],
                "levels": len(c.levels),
                "layers": c.layers,
                "proof": proof,
            }
            for c, proof in choices
        ],
        "frozen": [
            {"name": f.name, "units": f.units, "reason": f.reason, "layers": f.layers, "params": params}
            for f, params in zip(built.trace.frozen, fixed, strict=True)
        ],
        "fixed_params": sum(fixed),
        "precision": dataclasses.asdict(built.arithmetic),
        "unpriced": built.trace.unpriced,
        "remarks": [*built.notes, *built.remarks, *_noted(built)],
        "costs": [
            {"name": name, "unit": cost.unit, "dense": built.dense[name], "smallest": cost.predict(thinnest)}
            for name, cost in built.costs.items()
        ],
        "budget": [
            {
                "cost": limit.name,
                "asked": limit.asked,
                "most": limit.most,
                "allowed": limit.allowed,
                "sentence": limit.sentence(),
            }
            for limit in built.budget.limits
        ],
    }


def _noted(built: Study) -> list[str]:
    """What costs that were measured have to say."""
    return [note for cost in built.costs.values() if isinstance(cost, Explains) for note in cost.notes]


def fixed_parameters(trace: Trace) -> list[int]:
    """For each frozen entry the parameters of its layers that no policy changes; each is counted once."""
    counts = [0] * len(trace.frozen)
    entry_of: dict[str, int] = {}
    for place, entry in enumerate(trace.frozen):
        for layer in entry.layers:
            entry_of.setdefault(layer, place)
    for parameter in trace.parameters:
        place = entry_of.get(layer_of(parameter.name), -1)
        if not parameter.extents and place >= 0:
            counts[place] += parameter.times
    return counts


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`facts` as a terminal shows them."""
    yield f"{found['name']}: {len(found['choices'])} choices, {len(found['frozen'])} frozen\n"
    words = ("name", "kind", "of", "lowest", "levels")
    rows = [[choice[word] for word in words] + [terminal.shortened(choice["layers"])] for choice in found["choices"]]
    yield from terminal.table(["choice", "kind", "units", "lowest", "levels", "layers"], rows)
    if found["frozen"]:
        rows = [[frozen[word] for word in ("name", "units", "params", "reason")] for frozen in found["frozen"]]
        yield ""
        yield from terminal.table(["frozen", "units", "fixed params", "reason"], rows)
    yield ""
    costs = [[c["name"], c["dense"], c["smallest"], f"{c['smallest'] / c['dense']:.1%}"] for c in found["costs"]]
    yield from terminal.table(["cost", "dense", "smallest reachable", "of dense"], costs)
    yield from (f"\nbudget: {limit['sentence']}" for limit in found["budget"])
    how = found["precision"]
    yield f"\nnetworks are scored in {how['score']} and trained in {how['training']}: {how['because']}"
    yield from (f"\n{remark}" for remark in found["remarks"])
    for what in found["unpriced"]:
        yield f"\nMACs are not known: {what} reads weights, and how often it multiplies by them cannot be told"
