"""Anchors: two thinner networks that are timed beside every few others, to see whether the machine stays as it is.

A ratio to the dense network cancels what slows all networks down alike. It does not cancel what the threads of an
operator wait for one another, which is more of a small network's time than of a large one's, and changes from one
moment to another: then the anchors' own ratios move, and with them those of all policies of their size.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from autoprune.costs.latency.draws import LEAST, drawn
from autoprune.inputs import Inputs
from autoprune.protocols import Sampler, Target, TimesFamilies
from autoprune.targets.timing import compare
from autoprune.values.space import SearchSpace

SHARES = (0.5, LEAST)  # of the dense network's MACs, where the space allows it
UNSTEADY = 0.03  # from one moment to another, standard deviation
_MOMENTS, _FEWEST = 4, 3  # of the trial with one thread; without which nothing is said
_SEED = 20261126


def chosen(space: SearchSpace) -> list[tuple[int, ...]]:
    """The levels of the anchors, different policies, the thicker first."""
    rng = np.random.default_rng(_SEED)
    found = [drawn(space, 1, rng, share)[0] for share in SHARES]
    return list(dict.fromkeys(one for one in found if one != space.dense().levels))


def unrest(moments: Sequence[Sequence[float]]) -> float:
    """By how much the anchors' ratios move, (anchors, moments): the worst standard deviation, as a share of the mean.

    0 where there are too few moments to tell.
    """
    moving = [statistics.stdev(ratios) / statistics.mean(ratios) for ratios in moments if len(ratios) >= _FEWEST]
    return max(moving, default=0.0)


def remark(moments: Sequence[Sequence[float]], threads: int, alone: Callable[[], float]) -> str:
    """What a reader must know of how steady the machine was; "" where it was.

    `alone` says how far the anchors move with one thread; it is asked where they move with several.
    """
    moved = unrest(moments)
    if moved < UNSTEADY:
        return ""
    ends = ", ".join(f"{min(ratios):.1%} to {max(ratios):.1%}" for ratios in moments if len(ratios) >= _FEWEST)
    said = (
        f"The machine is not steady: one and the same thinner network took {ends} of the dense network's time from "
        f"one moment to another, a standard deviation of {moved:.1%}, and a ceiling is worth no more than that"
    )
    if threads < 2:
        return f"{said}; measure when nothing else runs."
    single = alone()
    if single < moved / 2:
        return f"{said}; with threads = 1 in [target] it was {single:.1%}, which is right for figures that stay."
    return f"{said}; with threads = 1 in [target] it was {single:.1%}, so that more than threads disturbs it."


def with_one_thread(target: Target, model: nn.Module, thinner: Sequence[nn.Module], example: Inputs) -> float:
    """`unrest` of these networks on the same target with one thread; it has that setting."""
    settings: Any = target
    single: Target = dataclasses.replace(settings, threads=1)
    moments: list[list[float]] = [[] for _ in thinner]
    for _ in range(_MOMENTS):
        ready = single.family(model, example) if isinstance(single, TimesFamilies) else _each(single, example)
        timed = compare(ready(model), [ready(one) for one in thinner])
        for ratios, figure in zip(moments, timed.figures, strict=True):
            ratios.append(figure.ratio)
    return unrest(moments)


def threads_of(target: Target) -> int:
    """How many threads `target` runs an operator with, where that can be set; else 1."""
    can = dataclasses.is_dataclass(target) and any(one.name == "threads" for one in dataclasses.fields(target))
    return int(target.key.get("threads", 1)) if can else 1


def _each(target: Target, example: Inputs) -> Callable[[nn.Module], Sampler]:
    return lambda model: target.ready(model, example)
