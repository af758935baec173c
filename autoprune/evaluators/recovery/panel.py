"""The holdout images that tell pruned networks apart, so that a trial need not look at all of them.

Images that are right in almost every pruned network, or in almost none, say little of any. *Probes* tell which those
are: random policies that are scored once on every image. A *panel* is made of the images on which the probes differ
most, as many as make up nearly all of their variance: few where most images are easy, all where hardly any is.

An image that is nearly wrong counts as partly wrong. Networks that are not trained after pruning have many of those, on
which any rounding changes the count of right ones; what is nearly wrong here is wrong elsewhere. What is then counted
is brought to the scale of the metric by a line that fits the probes (the regression estimator: Cochran 1977, Sampling
Techniques, chapter 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.inputs import call
from autoprune.metrics import logits
from autoprune.task import Batch
from autoprune.values.terms import Floats

FEWEST = 500  # images of a panel: with fewer it saves nothing that is worth its noise
_SOFT = 0.1  # margin at which an image is right for three quarters, about, in standard deviations of all margins
_ALIKE = 1e-6  # variance of an image, on average, up to which probes do not differ but by rounding
_APART = 0.01  # standard deviation of the probes' top-1 from which on a line is fitted to them
_SLOPES = (0.7, 1.8)  # within which its slope must lie, times the share of images that are picked: probes are few


@dataclass(frozen=True)
class Panel:
    """Some images, and what top-1 on all is when they are right to some share.

    Attributes:
        picked: (n,), which images of the holdout, ascending.
        said, true: (k,), ascending, from 0 to 1: how right the picked images are, on average, and what top-1 on all is
            then; linear in between.
    """

    picked: NDArray[np.int64]
    said: Floats
    true: Floats

    @classmethod
    def of(cls, margins: Floats, count: int) -> Panel:
        """`count` images, from the margins of every image in every probe, (probes, images).

        Top-1 is read from the line that fits the probes; beyond the best and the worst of them, on the way to all right
        or all wrong.
        """
        picked = np.sort(np.argsort(-_differing(margins), kind="stable")[:count])
        said, true = np.array([_right(one[picked]).mean() for one in margins]), (margins > 0).mean(1)
        ends, slope = np.array([said.mean()]), 0.0
        if len(said) > 2 and said.std() > _APART:
            ends = np.array([said.min(), said.max()])
            low, high = (count / margins.shape[1] * bound for bound in _SLOPES)
            slope = float(np.clip(np.cov(said, true)[0, 1] / said.var(ddof=1), low, high))
        line = np.clip(true.mean() + slope * (ends - said.mean()), 0, 1)
        return cls(picked, np.array([0, *ends, 1]), np.array([0, *line, 1]))

    def top1(self, margins: Floats) -> float:
        """What top-1 on all images is likely to be, in [0, 1], from the margins of those that were picked, (n,)."""
        return float(np.interp(_right(margins).mean(), self.said, self.true))


def _differing(margins: Floats) -> Floats:
    """The variance of how right each image is in the probes, (images,), from (probes, images)."""
    found: Floats = np.array([_right(one) for one in margins]).var(0)
    return found


def _right(margins: Floats) -> Floats:
    """How right each image is, in [0, 1]."""
    return 0.5 + 0.5 * np.tanh(margins / (2 * _SOFT * max(float(margins.std()), 1e-12)))


def enough(margins: Floats, share: float, step: int) -> int:
    """How many images, in whole steps, make up a share of the variance among probes, from (probes, images).

    Not fewer than `FEWEST`; all, where the probes do not differ.
    """
    count = int(margins.shape[1])
    carried = np.sort(_differing(margins))[::-1].cumsum()
    needed = int(np.searchsorted(carried, share * carried[-1])) + 1 if carried[-1] > _ALIKE * count else count
    return min(whole(max(needed, FEWEST), step), count)


def whole(count: int, step: int) -> int:
    """`count` images, or a few more, so that they are whole steps."""
    return math.ceil(count / step) * step


def margins(model: nn.Module, batches: Iterable[Batch]) -> Floats:
    """By how much the logit of the target exceeds all others, (images,)."""
    found = []
    with torch.inference_mode():
        for inputs, targets in batches:
            outputs, target = logits(call(model, inputs)).double(), targets[:, None].long()
            others = outputs.scatter(1, target, -torch.inf).amax(1)
            found.append((outputs.gather(1, target)[:, 0] - others).cpu())
    return torch.cat(found).numpy()
