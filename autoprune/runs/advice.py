"""What to take for a network: budget, controller, evaluator, trials, each with its reason.

The reasons are our own benchmarks (docs/controllers.md, docs/evaluators.md) and what the literature recommends.
"""

from __future__ import annotations

import math

from torch import nn

from autoprune.runs.study import Study

Advice = tuple[object, str]  # what to take, and why
_HALF, _ROOM = 0.5, 0.4  # the usual share; the largest reachable one that leaves room for it
_MANY = 30  # choices from which on a search is hard


def budget(built: Study, cost: str) -> tuple[float, str]:
    """A share of the dense cost that leaves a search something to decide, in (0, 1]; and why."""
    least = built.costs[cost].predict(built.space.thinnest()) / built.dense[cost]
    if least <= _ROOM:
        return _HALF, f"of the dense network; {least:.0%} is the least that can be reached"
    share = min(1.0, math.ceil((least + 1) / 2 * 20) / 20)
    return share, f"half of what can go at all: {least:.0%} is the least that can be reached"


def evaluator(built: Study) -> tuple[str, str]:
    """How pruned networks should recover before they are judged."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in built.task.model.modules()):
        return "recalibrate", 'BatchNorm statistics anew; "reconstruct" also fits weights, and ends higher untrained'
    return "reconstruct", "there is no BatchNorm to recalibrate; weights are fitted by least squares"


def controller(built: Study) -> tuple[str, str]:
    """Who should propose policies."""
    if len(built.space) > _MANY:
        return "knapsack", f"{len(built.space)} choices are many: what each loses is learnt apart (docs/controllers.md)"
    return "evolution", 'looks further round than "switch", needs no settings (docs/controllers.md)'


def trials(built: Study) -> tuple[int, str]:
    """How many policies should be evaluated."""
    if len(built.space) > _MANY:
        return 150, "from 120 on, what makes fast scores faster is prepared and pays (docs/decisions/0008)"
    return 60, f"{len(built.space)} choices; more are better, 400 with many"
