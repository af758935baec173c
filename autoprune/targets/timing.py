"""Timing networks against one another: interleaved rounds, so that what disturbs the machine disturbs all alike.

A network is timed in short bursts, each beside a burst of the reference; its figure is the median over the rounds of
the ratio of the two. A machine that slows down for a second, or over minutes, then changes no figure.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.protocols import Sampler
from autoprune.values.terms import Figure

ROUNDS, BURST = 7, 12.0  # rounds of bursts, milliseconds of each
_FEW = 3  # rounds, where one run takes long
_LEAST, _MOST = 2, 50  # runs of a burst
_SLOW = 400.0  # milliseconds from which on one run is a burst, without another to warm up
_BETWEEN = 4  # networks between two bursts of the reference


@dataclass(frozen=True, slots=True)
class Timed:
    """Networks that were timed together.

    Attributes:
        reference: milliseconds of the reference, the median over all rounds.
        figures: one a network.
    """

    reference: float
    figures: tuple[Figure, ...]


def compare(reference: Sampler, samplers: Sequence[Sampler], *, rounds: int = ROUNDS, burst: float = BURST) -> Timed:
    """Time `samplers` against `reference`. What a sampler raises is passed on."""
    runs = [_runs(sampler, burst) for sampler in (reference, *samplers)]
    rounds = min(rounds, _FEW) if 0 in runs else rounds
    ratios: list[list[float]] = [[] for _ in samplers]
    references: list[float] = []
    order = np.random.default_rng(0)
    for _ in range(rounds):
        shuffled = order.permutation(len(samplers)).tolist()
        before = _burst(reference, runs[0])
        references.append(before)
        for part in _parts(shuffled):
            times = [_burst(samplers[i], runs[i + 1]) for i in part]
            after = _burst(reference, runs[0])
            references.append(after)
            for i, spent in zip(part, times, strict=True):
                ratios[i].append(2 * spent / (before + after))
            before = after
    return Timed(statistics.median(references), tuple(_figure(r) for r in ratios))


def _parts(items: Sequence[int]) -> list[Sequence[int]]:
    return [items[i : i + _BETWEEN] for i in range(0, len(items), _BETWEEN)]


def _figure(ratios: Sequence[float]) -> Figure:
    middle = statistics.median(ratios)
    scatter = 1.4826 * statistics.median(abs(r - middle) for r in ratios)  # of a normal distribution, from the median
    return Figure(middle, 1.2533 * scatter / math.sqrt(len(ratios)) / middle)  # standard error of a median


def _runs(sampler: Sampler, burst: float) -> int:
    """How many runs make a burst; the first call of all is not looked at."""
    begun = time.perf_counter()
    sampler()
    wall = 1e3 * (time.perf_counter() - begun)
    if wall > _SLOW:
        return 0
    spent = min(sampler() for _ in range(2))
    return min(_MOST, max(_LEAST, round(burst / max(spent, 1e-3))))


def _burst(sampler: Sampler, runs: int) -> float:
    """The median of a burst, after one run that brings the network back into the caches."""
    if not runs:
        return sampler()
    sampler()
    return statistics.median(sampler() for _ in range(runs))
