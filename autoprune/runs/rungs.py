"""The rungs of a ladder: how thoroughly policies are judged, from the score of every trial to a real finetune.

What [ladder] leaves open is decided when a run begins, by how long judgements take here, and kept with its facts.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from autoprune import plugins
from autoprune.controllers.rules import uniform
from autoprune.errors import ConfigError
from autoprune.evaluators.taught import Taught
from autoprune.protocols import Evaluator
from autoprune.report.facts import RungFacts
from autoprune.report.words import duration
from autoprune.runs import loop
from autoprune.runs.course import Rung, agreement
from autoprune.runs.journal import Run
from autoprune.runs.study import Facts, Study

KEY, SPENT = "rungs", "planning"  # in a run's facts; the latter in seconds
_FEWEST = (8, 4)  # policies that a rung should see: the second, and any above it
_LEAST, _SHARE = 20, 20  # steps of the first finetune: so many, and one in so many of the final ones
_TRIED = (2, 8)  # steps of two finetunes that are timed
_RISE, _MOST = 4, 64  # from one finetune to the next; the most that may share a rung with one that goes up


def planned(study: Study) -> dict[str, Any]:
    """What a run's facts hold: the rungs, where there is more than one, and the seconds that deciding took.

    Raises ConfigError where the time is too short for a trial, or the ladder cannot be.
    """
    asked, begun = study.config.ladder, time.perf_counter()
    keep = asked.keep
    _require(study)
    low = [Rung(images=images, keep=keep) for images in asked.images] + [Rung(keep=keep)]
    timed = study.config.search.time > 0
    found = _timed(study, low, begun) if timed else low + [Rung(steps=steps, keep=keep) for steps in asked.fixed]
    rungs = {KEY: [dataclasses.asdict(rung) for rung in found]} if found[1:] else {}
    return {**rungs, SPENT: time.perf_counter() - begun} if timed else rungs


def known(facts: Facts) -> list[Rung]:
    """The rungs of a run that was begun: one where there is no ladder."""
    return [Rung(**one) for one in facts.get(KEY, [{}])]


def attempts(study: Study, rungs: Sequence[Rung]) -> list[loop.Attempt]:
    """How a policy is attempted at each rung."""
    return [study.attempting(_evaluator(study, rung)) for rung in rungs]


def became(run: Run) -> Iterator[RungFacts]:
    """What became of each rung, where there are several."""
    steps, scored = known(run.machine), [trial for trial in run if trial.reward is not None]
    for rung, step in enumerate(steps if steps[1:] else ()):
        here, above = ({t.policy: t.reward or 0.0 for t in scored if t.rung == at} for at in (rung, rung + 1))
        seconds = [sum(t.seconds.values()) for t in run if t.rung == rung]
        yield RungFacts(step.said(), len(seconds), median(seconds or [0.0]), *agreement(here, above))


def _evaluator(study: Study, rung: Rung) -> Evaluator:
    if rung.steps:
        final, anew = study.finetune, study.config.finetune.start == "scratch"
        share = rung.steps / final.steps if final.steps else 0.0
        recipe = replace(final, steps=rung.steps, epochs=final.epochs * share)
        return Taught(study.bench, study.evaluator, recipe, anew)
    if rung.images:
        settings = {**study.config.evaluator.settings, "holdout": rung.images}
        made: Evaluator = plugins.build("evaluator", settings, bench=study.bench)
        return made
    return study.evaluator


def _require(study: Study) -> None:
    """Raise ConfigError for a ladder that cannot be."""
    asked, held = study.config.ladder, len(study.task.holdout)
    if asked.images and not plugins.takes("evaluator", study.config.evaluator.use, "holdout"):
        raise ConfigError(
            f"[ladder] images = {list(asked.images)}: evaluator {study.config.evaluator.use!r} has no setting holdout; "
            "images = [] is right for it"
        )
    if asked.images and asked.images[-1] >= held:
        raise ConfigError(f"[ladder] images = {list(asked.images)}: the holdout has {held:,}; fewer are right")
    if asked.fixed and not study.task.trains:
        raise ConfigError(f"[ladder] steps = {list(asked.fixed)}: the task has no training split; steps = [] is right")


def _timed(study: Study, low: list[Rung], begun: float) -> list[Rung]:
    """The rungs for a search of so many seconds, each of which is to take an equal share of them."""
    policy, limit = uniform(study.space, study.budget), study.config.search.time

    def left() -> float:
        """Seconds for trials."""
        return limit - (time.perf_counter() - begun)

    def seconds(rung: Rung) -> float:
        """Of one trial."""
        [attempt] = attempts(study, [rung])
        before = time.perf_counter()
        if error := attempt(0, policy).error:
            raise ConfigError(f"the first trial fails: {error}")
        return time.perf_counter() - before

    def require(taken: float) -> None:
        if left() < taken:
            raise ConfigError(
                f"time = {duration(limit)} is too short for one trial: {duration(limit - left())} were spent on what "
                f"is prepared once, and a trial takes {duration(taken)}; write more than that"
            )

    for rung in low:  # the first one prepares
        seconds(rung)
    spent = [seconds(rung) for rung in low]
    require(spent[-1])
    steps = _steps(study, left, seconds)
    require(spent[-1])
    rungs, taken = [*low, *(Rung(steps=many) for many in steps)], [*spent, *steps.values()]
    costs = [max(2, min(_MOST, round(more / less))) for less, more in itertools.pairwise(taken)]
    return [replace(rung, keep=keep) for rung, keep in zip(rungs, [*costs, study.config.ladder.keep], strict=True)]


def _steps(study: Study, left: Callable[[], float], seconds: Callable[[Rung], float]) -> dict[int, float]:
    """The finetunes that there is time for, or that were asked for, and the seconds of each."""
    final, asked = study.finetune.steps, study.config.ladder.fixed
    most = asked[-1] if asked else final // 2
    if not study.task.trains or not (asked or study.config.ladder.steps == "auto") or most < _LEAST:
        return {}
    few, more = (seconds(Rung(steps=many)) for many in _TRIED)
    each = max(1e-4, (more - few) / (_TRIED[1] - _TRIED[0]))

    def takes(many: int) -> float:
        return few + (many - _TRIED[0]) * each

    if asked:
        return {many: takes(many) for many in asked}
    many, found = max(_LEAST, final // _SHARE), dict[int, float]()
    while many <= most and left() / (len(found) + 2) / takes(many) >= _FEWEST[bool(found)]:
        found[many] = takes(many)
        many *= _RISE
    return found
