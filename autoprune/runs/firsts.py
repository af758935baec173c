"""Policies without a search: rules of thumb and rankings of the network's units, under the budget.

They are found when a run begins and kept with its facts. A few of them are asked before the controller asks, so that a
search knows something when it begins; all of them are scored in the end, to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoprune import plugins
from autoprune.controllers.rules import RULES as SHAPES, uniform
from autoprune.criteria import needed, scores
from autoprune.errors import ConfigError
from autoprune.protocols import Criterion, Unadvised
from autoprune.rankings import Alike, by_lamp, by_max, by_mean, by_norm, ranked, spread
from autoprune.runs import samples
from autoprune.runs.study import Facts, Study
from autoprune.values.space import Policy
from autoprune.values.terms import Floats

KEY, RULES = "first", "rules"  # in a run's facts
_RANKINGS: Mapping[str, Mapping[str, Alike]] = {
    "group_norm": {"by its maximum": by_max},
    "taylor": {"by its norm": by_norm, "by its mean": by_mean},
    "l2": {"by its maximum": by_max, "by LAMP": by_lamp},
    "fpgm": {"by its mean": by_mean},
}
_SHARE = 5  # at most one in so many trials is a ranking


def found(study: Study) -> dict[str, Any]:
    """What a run's facts hold: what is asked first, and the rules; nothing where there is no budget to meet."""
    if not study.budget.limits:
        return {KEY: [], RULES: {}}
    asked, count = study.config.search.first, study.config.search.trials // _SHARE
    alone = asked == "none" or (asked == "auto" and _begins_by_itself(study))
    compared = study.config.report.rules
    rankings = dict(_rankings(study)) if compared or (count and not alone) else {}
    flat = uniform(study.space, study.budget)
    first = [] if alone else spread(flat, list(rankings.values()), count, study.budget)
    shapes = {name: rule(study.space, study.budget) for name, rule in SHAPES.items() if name != "uniform"}
    rules = {**shapes, **rankings} if compared else {}
    return {
        KEY: [policy.levels for policy in first],
        RULES: {name: policy.levels for name, policy in rules.items()},
    }


def known(facts: Facts) -> list[Policy]:
    """What is asked first in a run that was begun, by its facts."""
    return [Policy.of(levels) for levels in facts.get(KEY, ())]


def rules(facts: Facts) -> dict[str, Policy]:
    """The rules by name, but for uniform, of a run that was begun."""
    return {name: Policy.of(levels) for name, levels in facts.get(RULES, {}).items()}


def _begins_by_itself(study: Study) -> bool:
    controller = study.controller()
    return isinstance(controller, Unadvised) and controller.unadvised


def _rankings(study: Study) -> Iterator[tuple[str, Policy]]:
    """Those of the criteria that the task has what is needed for."""
    for name, ways in _RANKINGS.items():
        criterion: Criterion = plugins.build("criterion", {"use": name})
        if "grad" in needed(criterion) and not _has_loss(study):
            continue
        ranks = scores(study.task.model, study.trace, criterion, task=study.task, seed=study.seed)
        of: Sequence[Floats] = [rank.double().numpy() for rank in ranks]
        yield from ((f"{name} {way}", ranked(study.budget, of, alike)) for way, alike in ways.items())


def _has_loss(study: Study) -> bool:
    try:
        samples.require_loss(study.task, "")
    except ConfigError:
        return False
    return True
