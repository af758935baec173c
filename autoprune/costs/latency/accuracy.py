"""How well latency is predicted, beside what measuring once more differs by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr, t as student

from autoprune.values.terms import Floats

_USUALLY = 5 / 6  # how often a policy at the margin meets its ceiling when it is measured


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well policies that the model never saw are predicted, beside what measuring them again differs by.

    Attributes:
        policies: how many.
        mape: mean absolute error as a share of the measurement.
        within_5, within_10: share of policies with an error of at most 5 % and 10 %.
        spearman: rank correlation of predicted and measured.
        noise, spearman_noise: the same two between one measurement and another of the same networks, made anew.
        mape_macs: error of a straight line in MACs, fitted on the same policies.
    """

    policies: int
    mape: float
    within_5: float
    within_10: float
    spearman: float
    noise: float
    spearman_noise: float
    mape_macs: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.policies} unseen policies are predicted within {self.mape:.1%} on average "
            f"({self.within_5:.0%} within 5 %, {self.within_10:.0%} within 10 %, "
            f"rank correlation {self.spearman:.3f}); "
            f"measured again they differ by {self.noise:.1%} (rank correlation {self.spearman_noise:.3f}); "
            f"a line in MACs misses by {self.mape_macs:.1%}"
        )


def margin(predicted: Floats, measured: Floats) -> float:
    """By which share the measurement of one more policy exceeds its prediction at most, in five cases of six; >= 0.

    A prediction interval of Student's: the better these policies were predicted, and the more they are, the less.
    """
    missed = measured / predicted - 1
    scatter = float(missed.std(ddof=1)) * math.sqrt(1 + 1 / len(missed))
    return max(0.0, float(missed.mean()) + float(student.ppf(_USUALLY, len(missed) - 1)) * scatter)


def straight(x: Floats, y: Floats, at: Floats) -> Floats:
    """A straight line through (x, y), least relative squares, at other places."""
    rows = np.stack([np.ones_like(x), x / x.max()], axis=1) / y[:, None]
    line = np.linalg.lstsq(rows, np.ones_like(y), rcond=None)[0]
    found: Floats = np.stack([np.ones_like(at), at / x.max()], axis=1) @ line
    return found


def accuracy(predicted: Floats, first: Floats, again: Floats, line: Floats) -> Accuracy:
    """How well `predicted` meets what was measured `first` and once more; `line` is a simpler prediction."""
    truth = (first + again) / 2
    missed = np.abs(predicted / truth - 1)
    return Accuracy(
        policies=len(truth),
        mape=float(missed.mean()),
        within_5=float((missed <= 0.05).mean()),
        within_10=float((missed <= 0.10).mean()),
        spearman=_rank(predicted, truth),
        noise=float((np.abs(first - again) / truth).mean()),
        spearman_noise=_rank(first, again),
        mape_macs=float(np.abs(line / truth - 1).mean()),
    )


def _rank(left: Floats, right: Floats) -> float:
    """Spearman's rank correlation; of what does not vary 1, if the other does not either, else 0."""
    vary = [bool((side != side[0]).any()) for side in (left, right)]
    return float(spearmanr(left, right).statistic) if all(vary) else float(not any(vary))
