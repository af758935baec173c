"""What `autoprune apply` says of the network that it made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoprune.report import words
from autoprune.runs.apply import Applied


def facts(made: Applied) -> dict[str, Any]:
    """As plain values, the metric as it is."""
    costs = {name: {"unit": unit, "dense": dense, "pruned": cost} for name, (unit, dense, cost) in made.costs.items()}
    holdout = {"dense": made.dense, "pruned": made.before, "finetuned": made.after}
    return {"metric_name": made.judge.name, "holdout": holdout, "finetune_steps": made.taught.steps, "costs": costs}


def rows(made: Applied) -> Iterator[list[str]]:
    """A table, its head first: the dense network, the pruned one, and that one after its finetune."""
    arrow = " ↓" if made.judge.lower_is_better else ""
    yield [
        "network",
        f"holdout {made.judge.name}{arrow}",
        *(words.heading(n, u) for n, (u, _, _) in made.costs.items()),
    ]
    yield ["dense", _quality(made, made.dense), *(words.quantity(dense) for _, dense, _ in made.costs.values())]
    pruned = [f"{words.quantity(cost)} ({cost / dense:.1%})" for _, dense, cost in made.costs.values()]
    yield ["pruned", _quality(made, made.before), *pruned]
    if made.taught.steps:
        yield ["finetuned", _quality(made, made.after), *pruned]


def sentence(made: Applied) -> str:
    """How the network was trained."""
    it = made.taught
    if not it.steps:
        return "It was not finetuned."
    return f"It was finetuned: {words.counted(it.steps, 'step')} of {it.batch} samples, learning rate {it.lr:g}."


def _quality(made: Applied, metric: float) -> str:
    return words.number(metric, percent=made.judge.percent)
