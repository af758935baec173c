"""What a search asks before its controller does: the uniform policy, and what rankings of the network's units give.

They are found when a run begins and kept with its facts, so that a resumed run asks the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autoprune import plugins
from autoprune.controllers.rules import uniform
from autoprune.criteria import needed, scores
from autoprune.errors import ConfigError
from autoprune.protocols import Criterion, Unadvised
from autoprune.rankings import Alike, by_max, by_mean, by_norm, ranked, spread
from autoprune.runs import samples
from autoprune.runs.study import Facts, Study
from autoprune.values.space import Policy
from autoprune.values.terms import Floats

KEY = "first"  # in a run's facts
_RANKINGS: Mapping[str, Sequence[Alike]] = {
    "group_norm": [by_max],
    "taylor": [by_norm, by_mean],
    "l2": [by_max],
    "fpgm": [by_mean],
}
_SHARE = 5  # at most one in so many trials is a ranking


def found(study: Study) -> list[Policy]:
    """Uniform, and then the rankings that differ most; none where the controller begins by itself.

    None, too, where there is no budget to rank for.
    """
    asked, count = study.config.search.first, study.config.search.trials // _SHARE
    if asked == "none" or (asked == "auto" and _begins_by_itself(study)) or not study.budget.limits:
        return []
    others = list(_rankings(study)) if count else []
    return spread(uniform(study.space, study.budget), others, count, study.budget)


def known(facts: Facts) -> list[Policy]:
    """Those of a run that was begun, by its facts."""
    return [Policy.of(levels) for levels in facts.get(KEY, ())]


def _begins_by_itself(study: Study) -> bool:
    controller = study.controller()
    return isinstance(controller, Unadvised) and controller.unadvised


def _rankings(study: Study) -> Iterator[Policy]:
    """Those of the criteria that the task has what is needed for."""
    for name, ways in _RANKINGS.items():
        criterion: Criterion = plugins.build("criterion", {"use": name})
        if "grad" in needed(criterion) and not _has_loss(study):
            continue
        ranks = scores(study.task.model, study.trace, criterion, task=study.task, seed=study.seed)
        of: list[Floats] = [rank.double().numpy() for rank in ranks]
        yield from (ranked(study.budget, of, alike) for alike in ways)


def _has_loss(study: Study) -> bool:
    try:
        samples.require_loss(study.task, "")
    except ConfigError:
        return False
    return True
