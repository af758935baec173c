"""What to take for a network, each with its reason and source: for `autoprune init`, and measured for `check --advise`.

Sources are our own benchmarks, and what the survey literature recommends (Cheng et al. 2023,
https://arxiv.org/abs/2308.06767).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
_VAIN = 0.9  # of the time, above which half of the MACs is not worth a budget of latency
_FOLLOWS = 0.6  # of what MACs fall by, by how much latency should for MACs to stand for it


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of advice.

    Attributes:
        about: what it is about.
        take: what to take.
        why: the reason.
        source: where the reason is from.
        table: the table of a search space that says it, "[search]" for one; empty where none does.
        settings: what stands in that table.
    """

    about: str
    take: str
    why: str
    source: str
    table: str = ""
    settings: Mapping[str, str | float] = field(default_factory=dict)


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
        return "knapsack", f"{len(built.space)} choices are many: what each loses is learnt apart"
    return "evolution", 'looks further round than "switch", needs no settings'


def trials(built: Study) -> tuple[int, str]:
    """How many policies should be evaluated."""
    if len(built.space) > _MANY:
        return 150, "from 120 on, what makes fast scores faster is prepared and pays"
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
    yield Line("controller", name, why, "docs/controllers.md", "[controller]", {"use": name})
    name, why = evaluator(built)
    yield Line("evaluator", name, why, "docs/evaluators.md", "[evaluator]", {"use": name})
    count, why = trials(built)
    yield Line("trials", str(count), why, "docs/decisions/0008", "[search]", {"trials": count})
    yield from _of_training(built)
    yield from _of_choices(built, found)


def _of_budget(built: Study, found: Measured, points: float) -> Iterator[Line]:
    vain = bool(found.latency) and min(found.latency) > _VAIN
    slow = bool(found.latency) and not vain and 1 - found.latency[0] < _FOLLOWS * (1 - _HALF)
    cost = "latency" if slow else built.traded
    target = built.config.target.use
    on_target = ("[target]", {"use": target}) if slow else ("", {})
    if found.latency:
        said = f"half of the MACs takes {found.latency[0]:.0%} of the time on {target}"
        stands = "MACs do not stand for it" if slow else "they stand for it"
        stands = "pruning makes this network smaller, and hardly faster there" if vain else stands
        yield Line("cost", cost, f"{said}: {stands}", "measured; docs/latency.md", *on_target)
        if slow and found.latency[1] < 0.9 * found.latency[0]:
            aligned = f"{said}, {found.latency[1]:.0%} with channels in multiples of 8"
            yield Line("step", '"auto"', aligned, "measured; docs/latency.md", "[space]", {"step": "auto"})
    else:
        yield Line("cost", cost, f"latency could not be timed: {found.untimed}", "-")
    share, why = _share(built, found, points, slow)
    yield Line("budget", f"{share:.0%}", why, "measured", "[budget]", {cost: f"{share:.0%}"})


def _share(built: Study, found: Measured, points: float, slow: bool) -> tuple[float, str]:
    """The budget, and why; `slow` if it is one of latency."""
    if slow:
        return math.ceil(20 * min(found.latency)) / 20, f"what half of the MACs can take on {built.config.target.use}"
    share, why = budget(built, built.traded)
    reach = within(built, found, points)
    if reach is None:
        lost = f"uniform pruning to {SHARES[0]:.0%} already loses more than {points:g} points untrained"
        return share, f"{lost}: a finetune must bring it back; {why}"
    far = f"uniform pruning, untrained, stays within {points:g} points down to {reach:.0%}"
    return min(share, reach), f"{far}; a search and a finetune go further"


def _of_training(built: Study) -> Iterator[Line]:
    def finetune(key: str, value: float, why: str, source: str = SURVEY) -> Line:
        return Line("finetune", f"{key} = {value:g}", why, source, "[finetune]", {key: value})

    if not built.task.trains:
        yield finetune("epochs", 0, "there is no training split", "-")
        return
    if any(len(choice.producers) > 2 for choice in built.space):
        yield finetune("lr", 0.01, "with shortcuts, retrain at a small learning rate")
    else:
        yield finetune("lr", 0.05, "without shortcuts, retrain at a larger learning rate")
    if len(built.task.train) < 10_000:
        small = f"{len(built.task.train):,} training samples are few: learn from the dense network, too"
        yield finetune("distill", 0.9, small)
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
        why = f"{name} alone at half loses {lost}, more than all others together"
        rule: dict[str, str | float] = {"match": name, "floor": half}
        yield Line("space", f"at least {half} of {name}", why, "measured", "[[space.group]]", rule)
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
