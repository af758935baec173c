"""What is measured for the page beyond the comparison, most of it from what the comparison looks at anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.inputs import call, evaluating, first
from autoprune.metrics import Judge, logits, top1
from autoprune.protocols import ByLayer, SavesTime, Watch
from autoprune.report.detail import Alone, Curve, Detail, Interval, Layers
from autoprune.runs import loop
from autoprune.runs.study import Study
from autoprune.splits import Split
from autoprune.task import Task
from autoprune.values.space import Choice, Policy
from autoprune.values.terms import Floats

RESAMPLES, LEVEL = 2000, 0.95  # of the bootstrap over samples
_POINTS = 150  # of a curve
_AT_ONCE = 20_000_000  # draws


@dataclass
class Kept:
    """What the comparison of networks leaves behind, by role.

    Attributes:
        each: the metric of every test sample, higher is better.
        losses: of each step of the finetune.
    """

    each: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def quality(self, judge: Judge, role: str, model: nn.Module, split: Split) -> float | None:
        """The metric of `model` from one number a sample, which are kept; None where the metric gives none."""
        found = judge.each(model, split)
        if found is None:
            return None
        self.each[role] = found.double().cpu().numpy()
        return float(found.double().mean())

    def curve(self, role: str) -> Curve | None:
        """The losses of a finetune, in few points."""
        losses = self.losses.get(role)
        if not losses:
            return None
        parts = np.array_split(np.arange(len(losses)), min(_POINTS, len(losses)))
        means = [float(np.mean([losses[at] for at in part])) for part in parts]
        return Curve(tuple(int(part[-1]) + 1 for part in parts), tuple(means))


def gathered(study: Study, policy: Policy, role: str, kept: Kept, watch: Watch) -> Detail:
    """All that the page shows of the network of `policy`, in that `role`; `watch` hears how far measuring is."""
    return Detail(
        intervals=intervals(kept.each, study.task.judge, study.seed, role),
        curves={role: curve for role in kept.losses if (curve := kept.curve(role))},
        layers=layers(study, policy),
        alone=alone(study, watch),
        chance=chance(study.task),
    )


def intervals(each: Mapping[str, Floats], judge: Judge, seed: int, role: str = "ours") -> tuple[Interval, ...]:
    """The network of one role against every other: a paired bootstrap over test samples (Efron 1979), percentiles."""
    if role not in each:
        return ()
    found = []
    for other, theirs in each.items():
        if other != role and len(theirs) == len(each[role]):
            gaps = each[role] - theirs
            ends = np.quantile(_resampled(gaps, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            low, high = sorted(judge.known(float(end)) for end in ends)
            found.append(Interval(other, judge.known(float(gaps.mean())), low, high, LEVEL, len(gaps)))
    return tuple(found)


def _resampled(gaps: Floats, seed: int) -> Floats:
    """The mean of each bootstrap sample, (RESAMPLES,).

    Equal gaps are drawn together: how often each value comes is multinomial, and of right and wrong there are three.
    """
    values, counts = np.unique(gaps, return_counts=True)
    rng, shares = np.random.default_rng(seed), counts / len(gaps)
    rows = max(1, _AT_ONCE // len(values))
    parts = [rng.multinomial(len(gaps), shares, min(rows, RESAMPLES - at)) for at in range(0, RESAMPLES, rows)]
    means: Floats = np.concatenate([part @ values for part in parts]) / len(gaps)
    return means


def layers(study: Study, policy: Policy) -> tuple[Layers, ...]:
    """Where latency and MACs go, layer by layer, as far as costs know it."""
    dense = study.space.dense()
    return tuple(
        Layers(name, cost.unit, dict(cost.by_layer(dense)), dict(cost.by_layer(policy)))
        for name, cost in study.costs.items()
        if name in ("latency", "macs") and isinstance(cost, ByLayer)
    )


def alone(study: Study, watch: Watch) -> tuple[Alone, ...]:
    """What each choice costs when it alone is cut to about half; nothing where scores are slow, or that is unasked.

    Of more choices than `[report] sensitivity` as many are tried, spread evenly.
    """
    most, space = study.config.report.sensitivity, study.space
    if not most or not isinstance(study.evaluator, SavesTime):
        return ()
    attempt = loop.attempting(study.evaluator, {}, lambda metric, costs, dense: metric, {})
    tried = {round(at) for at in np.linspace(0, len(space) - 1, min(most, len(space)))}
    base, found = attempt(0, space.dense()).metric, list[Alone]()
    for at, choice in enumerate(space.choices):
        watch("each choice alone at half", at, len(space))
        levels = list(space.dense().levels)
        levels[at] = _half(choice) if at in tried and base is not None else choice.dense
        metric = attempt(0, Policy.of(levels)).metric if levels[at] < choice.dense else None
        found.append(Alone(levels[at], None if metric is None or base is None else base - metric))
    watch("each choice alone at half", len(space), len(space))
    return tuple(found)


def _half(choice: Choice) -> int:
    return min(choice.levels, key=lambda level: (abs(level / choice.dense - 0.5), level))


def chance(task: Task) -> float | None:
    """The metric of a guess, of top-1 alone: one over the number of classes."""
    if task.metric is not top1:
        return None
    with torch.inference_mode(), evaluating(task.model):
        outputs = logits(call(task.model, first(task.example, 1)))
    return 1 / outputs.shape[1] if isinstance(outputs, torch.Tensor) and outputs.dim() == 2 else None
