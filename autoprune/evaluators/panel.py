"""The holdout images that tell pruned networks apart, so that a trial need not look at all of them.

Most images are right in almost every pruned network, and say little of any. How hard each one is, some *probes* tell:
random policies that are scored once on every image. A *panel* is then drawn: each image with a probability in
proportion to the standard deviation of its being right (the best allocation: Neyman 1934, Journal of the Royal
Statistical Society 97), at equal distances along the order of difficulty (Madow 1949, Annals of Mathematical Statistics
20), and it counts for as many as it stands for (Horvitz and Thompson 1952, Journal of the American Statistical
Association 47).

An image that is nearly wrong counts as partly wrong. Networks that are not trained after pruning have many of those, on
which any rounding changes the count of right ones; what is nearly wrong here is wrong elsewhere. What is then counted
is brought to the scale of the metric by the line that fits the probes (the regression estimator: Cochran 1977, Sampling
Techniques, chapter 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.space import Policy, SearchSpace
from autoprune.task import Batch

FEWEST = 500  # images, below which a panel saves nothing that is worth its noise
_SOFT = 0.2  # margin at which an image is right for three quarters, about, in standard deviations of all margins
_SURE = 0.05  # least standard deviation of an image's being right: what no probe got wrong may still surprise
_APART = 0.01  # standard deviation of the probes' top-1 from which on a line is fitted to them
_SLOPES = (0.8, 1.25)  # within which its slope must lie: probes are few

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """Some images, what each counts, and what top-1 on all is when they are right to some share.

    Attributes:
        picked: (n,), which images of the holdout, ascending.
        weights: (n,), of each; they add up to 1.
        slope, level: top-1 = level + slope x the weighted mean of how right the images are.
    """

    picked: NDArray[np.int64]
    weights: Floats
    slope: float = 1.0
    level: float = 0.0

    @classmethod
    def drawn(cls, margins: Floats, count: int) -> Panel:
        """`count` images, from the margins of every image in every probe, (probes, images)."""
        right = np.mean([_right(one, np.full(len(one), 1 / len(one))) for one in margins], axis=0)
        chances = _chances(np.maximum(np.sqrt(right * (1 - right)), _SURE), count)
        order = np.argsort(right, kind="stable")
        picked = np.sort(order[np.searchsorted(np.cumsum(chances[order]), np.arange(count) + 0.5)])
        weights = 1 / chances[picked]
        plain = cls(picked, weights / weights.sum())
        said = np.array([plain._mean(one[picked]) for one in margins])
        true = (margins > 0).mean(1)
        slope = np.cov(said, true)[0, 1] / said.var(ddof=1) if len(said) > 2 and said.std() > _APART else 1.0
        slope = float(np.clip(slope, *_SLOPES))
        return cls(picked, plain.weights, slope, float(true.mean() - slope * said.mean()))

    def top1(self, margins: Floats) -> float:
        """What top-1 on all images is likely to be, in [0, 1], from the margins of those that were picked, (n,)."""
        return float(np.clip(self.level + self.slope * self._mean(margins), 0, 1))

    def _mean(self, margins: Floats) -> float:
        return float(self.weights @ _right(margins, self.weights))


def _right(margins: Floats, weights: Floats) -> Floats:
    """How right each image is, in [0, 1]; their spread is that of all images, whom they stand for by `weights`."""
    mean = weights @ margins
    spread = np.sqrt(weights @ (margins - mean) ** 2)
    return 0.5 + 0.5 * np.tanh(margins / (2 * _SOFT * max(float(spread), 1e-12)))


def _chances(wanted: Floats, count: int) -> Floats:
    """Of each image to be picked: in proportion to `wanted` and at most 1, `count` in all."""
    sure = np.zeros(len(wanted), dtype=np.bool_)
    while True:
        chances = np.where(sure, 1.0, wanted * (count - sure.sum()) / max(wanted[~sure].sum(), 1e-12))
        over = (chances >= 1) & ~sure
        if not over.any():
            return chances
        sure |= over


def probes(space: SearchSpace, count: int, seed: int) -> list[Policy]:
    """Random policies, from rather wide to very thin ones: what searches propose lies between."""
    rng = np.random.default_rng(seed)
    most = np.array([group.sparsity(group.choices()[0]) for group in space])
    wanted = (np.minimum(strength * rng.random(len(most)), 1) * most for strength in np.linspace(0.5, 1.5, count))
    return [space.snap(sparsity) for sparsity in wanted]


def margins(model: nn.Module, batches: Iterable[Batch]) -> Floats:
    """By how much the logit of the target exceeds all others, (images,)."""
    found = []
    with torch.inference_mode():
        for inputs, targets in batches:
            logits, target = model(inputs).double(), targets[:, None].long()
            others = logits.scatter(1, target, -torch.inf).amax(1)
            found.append((logits.gather(1, target)[:, 0] - others).cpu())
    return torch.cat(found).numpy()


def pick(batches: Iterable[Batch], picked: NDArray[np.int64], size: int) -> Iterator[Batch]:
    """Of all samples in `batches` those at the places `picked`, ascending, in batches of `size`."""
    seen, held = 0, None
    for inputs, targets in batches:
        places = torch.from_numpy(picked[(picked >= seen) & (picked < seen + len(targets))] - seen).to(targets.device)
        seen += len(targets)
        new = inputs[places], targets[places]
        images, labels = new if held is None else (torch.cat([held[0], new[0]]), torch.cat([held[1], new[1]]))
        while len(labels) >= size:
            yield images[:size], labels[:size]
            images, labels = images[size:], labels[size:]
        held = images, labels
    if held is not None and len(held[1]):
        yield held
