"""What `autoprune latency` does and says: policies timed on a target, and how well latency is predicted."""

from __future__ import annotations

import argparse
from typing import Any

from autoprune.command.shared import print_json, print_table, study_of
from autoprune.command.terminal import show as print
from autoprune.files import disk
from autoprune.report import words


def command(asked: argparse.Namespace) -> None:
    """Time policies on a target, and show the model that is fitted to them."""
    built = study_of(asked, latency=True)
    cost: Any = built.costs["latency"]
    layers = cost.by_layer(built.space.dense())
    if asked.plot:
        from autoprune.report import latency_plots

        title = f"{built.name} on {cost.target.key['runtime']}"
        disk.write_text(asked.plot, latency_plots.draw(cost.points, layers, title))
    facts = {"name": built.name, "target": dict(cost.target.key), "dense_ms": cost.dense, "layers_ms": layers}
    if asked.json:
        accuracy = {name: getattr(cost.accuracy, name) for name in cost.accuracy.__slots__}
        learnt = {"blocks": cost.fit.work.blocks._asdict(), "build_seconds": cost.building, "margin": cost.margin}
        print_json({**facts, **learnt, **accuracy})
        return
    print(f"{built.name}, dense: {cost.dense:.4g} ms\n")
    rows = [[name or "whatever is pruned", ms, f"{ms / cost.dense:.1%}"] for name, ms in layers.items()]
    print_table(["layer", "ms", "share"], rows)
    print(f"\n{words.begun(cost.sentence())}.")
    print(f"A ceiling on it keeps policies to predictions that are {cost.margin:.1%} lower.")
    for note in cost.notes:
        print(note)
