"""What `autoprune check` says of a network: its choices, what is frozen and why, what everything costs."""

from __future__ import annotations

from typing import Any

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
        "unpriced": built.trace.unpriced,
        "remarks": [*built.notes, *built.remarks],
        "costs": [
            {"name": name, "unit": cost.unit, "dense": built.dense[name], "smallest": cost.predict(thinnest)}
            for name, cost in built.costs.items()
        ],
        "budget": [{"cost": limit.name, "asked": limit.asked, "most": limit.most} for limit in built.budget.limits],
    }


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
