"""How far two scores agree on the order of policies: Kendall's tau-b with an interval, and the share of the best found.

A search needs the order of policies only, so that a score may be wrong by the same amount everywhere and still be true.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from autoprune.report.facts import Agreement
from autoprune.values.terms import Floats

RESAMPLES = 2000
LEVEL = 0.9  # of the bootstrap interval


def measure(score: Sequence[float], truth: Sequence[float], seed: int, failed: int = 0) -> Agreement:
    """How far `score` puts policies in the order of `truth`; `failed` policies were left out."""
    x, y = np.asarray(score, float), np.asarray(truth, float)
    found = Agreement(tau(x, y), None, None, recall(score, truth), len(x), failed)
    if found.tau is None:
        return found
    low, high = np.quantile(_resampled(x, y, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return dataclasses.replace(found, low=float(low), high=float(high))


def tau(score: Sequence[float] | Floats, truth: Sequence[float] | Floats) -> float | None:
    """Kendall's tau-b; None where it is not defined, since one of the two is the same for all or there are none."""
    if not (len(score) and np.ptp(score) and np.ptp(truth)):
        return None
    return float(stats.kendalltau(score, truth).statistic)


def recall(score: Sequence[float], truth: Sequence[float]) -> float:
    """The share of the best tenth by `truth` that is in the best tenth by `score`. Of equals, the earlier is better."""
    count = -(-len(score) // 10)  # rounded up
    return len(_best(score, count) & _best(truth, count)) / count


def _resampled(x: Floats, y: Floats, seed: int) -> Floats:
    """Kendall's tau-b in each bootstrap sample of the pairs (x, y) in which it is defined.

    A sample is described by how often it holds each pair, so that all samples are a few products of matrices.
    """
    n = len(x)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)  # (samples, n)
    over_x, over_y = (np.sign(v[:, None] - v) for v in (x, y))  # (n, n)

    def summed(signs: Floats) -> Floats:
        total: Floats = ((drawn @ signs) * drawn).sum(1)  # (samples,)
        return total

    untied = summed(np.abs(over_x)) * summed(np.abs(over_y))
    taus: Floats = summed(over_x * over_y)[untied > 0] / np.sqrt(untied[untied > 0])
    return taus


def _best(values: Sequence[float], count: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda i: -values[i])[:count])
