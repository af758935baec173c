"""What to take for a network, each with its reason and source: for `autoprune init`, and measured for `check --advise`.

Sources are our own benchmarks, and what the survey literature recommends (Cheng et al. 2023,
https://arxiv.org/abs/2308.06767).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune import plugins
from autoprune.errors import BudgetError, TargetError, TrialFailed, one_line
from autoprune.protocols import Target, Watch
from autoprune.report import words
from autoprune.report.detail import Alone
from autoprune.runs import loop
from autoprune.runs.details import alone
from autoprune.runs.study import Study
from autoprune.targets import timing
from autoprune.values.budget import Budget, limits
from autoprune.values.space import Policy

SURVEY = "Cheng et al. 2023, arXiv:2308.06767"
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # of the dense cost, at which headroom is looked for
_HALF, _ROOM = 0.5, 0.4  # the usual share; the largest reachable one that leaves room for it
_MANY = 30  # choices from which on a search is hard
_FOLLOWS = 0.6  # of what MACs fall by, by how much latency should for MACs to stand for it


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of advice: what it is about, what to take, why, and where that is from."""

    about: str
    take: str
    why: str
    source: str


@dataclass(frozen=True)
class Measured:
    """What was measured of a network.

    Attributes:
        headroom: the metric of the uniform policy without any training, by its share of the dense cost.
        dense: of the dense network, scored alike.
        alone: what each choice loses when it alone is cut to half.
        latency: of networks on the target as shares of dense: of uniform half of the MACs, and of the same with widths
            in multiples of 8; empty where it cannot be timed, and then `untimed` says why.
    """

    headroom: Mapping[float, float]
    dense: float
    alone: tuple[Alone, ...]
    latency: tuple[float, ...]
    untimed: str = ""


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


def measure(built: Study, watch: Watch) -> Measured:
    """All that can be measured in a minute or so. Raises TrialFailed where the dense network cannot be scored."""
    attempt = loop.attempting(built.evaluator, {}, lambda metric, costs, dense: metric, {})
    first = attempt(0, built.space.dense())
    if first.metric is None:
        raise TrialFailed(first.error)
    found: dict[float, float] = {}
    for at, share in enumerate(SHARES):
        watch("how far uniform pruning goes, untrained", at, len(SHARES))
        try:
            metric = attempt(0, _uniform(built, share)).metric
        except BudgetError:  # that little cannot be reached
            break
        if metric is not None:
            found[share] = metric
    watch("how far uniform pruning goes, untrained", len(SHARES), len(SHARES))
    ratios, why = _timed(built, watch)
    return Measured(found, first.metric, alone(built, watch), ratios, why)


def within(built: Study, found: Measured, points: float) -> float | None:
    """The smallest share whose uniform network loses at most `points`, and all above it too; None where none does.

    `points` are percentage points of a metric in percent, and percent of the dense metric of another.
    """
    most = points / 100 if built.task.judge.percent else points / 100 * abs(found.dense)
    reached = None
    for share, metric in sorted(found.headroom.items(), reverse=True):
        if found.dense - metric > most:
            break
        reached = share
    return reached


def given(built: Study, found: Measured, points: float) -> Iterator[Line]:
    """The advice."""
    yield Line(
        "kind",
        "channel",
        "whole channels leave, so that any runtime is faster or smaller without sparse kernels",
        SURVEY,
    )
    yield from _of_budget(built, found, points)
    name, why = controller(built)
    yield Line("controller", name, why, "docs/controllers.md")
    name, why = evaluator(built)
    yield Line("evaluator", name, why, "docs/evaluators.md")
    count, why = trials(built)
    yield Line("trials", str(count), why, "docs/decisions/0008")
    yield from _of_training(built)
    yield from _of_choices(built, found)


def _of_budget(built: Study, found: Measured, points: float) -> Iterator[Line]:
    follows = bool(found.latency) and 1 - found.latency[0] >= _FOLLOWS * (1 - _HALF)
    share, why = budget(built, built.traded)
    target = built.config.target.use
    if found.latency and not follows:
        said = f"half of the MACs takes {found.latency[0]:.0%} of the time on {target}"
        yield Line("cost", "latency", f"{said}: MACs do not stand for it", "measured; docs/latency.md")
        if found.latency[1] < 0.9 * found.latency[0]:
            aligned = f"{found.latency[1]:.0%} with channels in multiples of 8"
            yield Line("step", '"auto"', f"{said}, {aligned}", "measured; docs/latency.md")
    elif found.latency:
        said = f"half of the MACs takes {found.latency[0]:.0%} of the time on {target}"
        yield Line("cost", built.traded, f"{said}: they stand for it", "measured")
    else:
        yield Line("cost", built.traded, f"latency could not be timed: {found.untimed}", "-")
    reach = within(built, found, points)
    if found.latency and not follows:
        least = math.ceil(20 * min(found.latency)) / 20
        yield Line("budget", f"{least:.0%}", f"what half of the MACs can take on {target}", "measured")
    elif reach is None:
        lost = f"uniform pruning to {SHARES[0]:.0%} already loses more than {points:g} points untrained"
        yield Line("budget", f"{share:.0%}", f"{lost}: a finetune must bring it back; {why}", "measured")
    else:
        far = f"uniform pruning, untrained, stays within {points:g} points down to {reach:.0%}"
        yield Line("budget", f"{min(share, reach):.0%}", f"{far}; a search and a finetune go further", "measured")


def _of_training(built: Study) -> Iterator[Line]:
    if not built.task.trains:
        yield Line("finetune", "epochs = 0", "there is no training split", "-")
        return
    shared = any(len(choice.producers) > 2 for choice in built.space)
    rate = ("lr = 0.01", "with shortcuts, retrain") if shared else ("lr = 0.05", "without shortcuts, retrain")
    yield Line("finetune", rate[0], f"{rate[1]} at a {'small' if shared else 'larger'} learning rate", SURVEY)
    if len(built.task.train) < 10_000:
        small = f"{len(built.task.train):,} training samples are few: learn from the dense network, too"
        yield Line("finetune", "distill = 0.9", small, SURVEY)
    steps = built.finetune.steps
    yield Line("schedule", "one-shot", f"one cut, then {steps:,} steps; iterate only with compute to spare", SURVEY)


def _of_choices(built: Study, found: Measured) -> Iterator[Line]:
    """Which choices to spare, and which cost nothing."""
    losses = [one.lost if one.lost is not None else 0.0 for one in found.alone]
    if not losses or max(losses) <= 0:
        return
    worst = losses.index(max(losses))
    lost = words.number(max(losses), percent=built.task.judge.percent)
    name, half = built.space.choices[worst].name, found.alone[worst].kept
    if max(losses) > 0.5 * sum(max(0.0, loss) for loss in losses):
        rule = f"[[space.group]] match = {name!r}, floor = {half}"
        yield Line("space", rule, f"{name} alone at half loses {lost}, more than all others together", "measured")
    else:
        yield Line("space", "as it is", f"no choice stands out; {name} loses most when it is cut, {lost}", "measured")


def _uniform(built: Study, share: float) -> Policy:
    """The uniform policy at a share of the traded cost. Raises BudgetError where that cannot be reached."""
    ceilings = limits({built.traded: share}, built.costs, built.space)
    space_budget = Budget(built.space, ceilings)
    made: Any = plugins.build("controller", {"use": "uniform"}, space=built.space, budget=space_budget, seed=built.seed)
    policy: Policy = made.ask()
    return policy


def _timed(built: Study, watch: Watch) -> tuple[tuple[float, ...], str]:
    """The uniform network of half of the MACs, and the same in multiples of 8, against the dense one on the target."""
    try:
        half = _uniform(built, _HALF)
        eights = (max(8, 8 * round(level / 8)) for level in half.levels)
        aligned = Policy.of(min(level, c.dense) for level, c in zip(eights, built.space, strict=True))
        target: Target = plugins.build("target", built.config.target.settings)
        models = [built.evaluator.realise(policy).model for policy in (built.space.dense(), half, aligned)]
        ready = []
        for at, model in enumerate(models):
            watch("timing on the target", at, len(models))
            ready.append(target.ready(model.eval(), built.task.example))
        watch("timing on the target", len(models), len(models))
        return tuple(figure.ratio for figure in timing.compare(ready[0], ready[1:]).figures), ""
    except (BudgetError, TargetError) as wrong:
        return (), one_line(wrong)
