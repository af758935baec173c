"""How true the score of the search is: whether it puts policies in the order that a better judgement puts them in.

The search sees a fast score: few calibration images, perhaps half precision, part of the holdout. Better ones are the
slow score (the same recovery without those savings, from the evaluator's `careful()`) and the score after a short
finetune. How far the slow score agrees with itself on other calibration images says how much of its order is chance.
All are taken on the holdout, never on the test split. A search needs only the order of policies, so what is measured is
Kendall's tau-b, and how many of the best policies the fast score finds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune.copies import copied
from autoprune.errors import ConfigError, Exhausted, SearchFailed, TrialFailed
from autoprune.protocols import Evaluator, Repeats, SavesTime, Score, Watch, silent
from autoprune.report import words
from autoprune.report.facts import Agreement
from autoprune.runs import kendall, loop
from autoprune.runs.study import Study
from autoprune.structure.prune import Candidate
from autoprune.train import Recipe, train
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

Scored = tuple[float, float]  # a score, and the seconds that it took
Scoring = Callable[[Policy], Scored]

FAST, SLOW, AGAIN, FINETUNED = "fast", "slow", "slow again", "finetuned"
_PAIRS = ((FAST, SLOW), (SLOW, AGAIN), (FAST, FINETUNED), (SLOW, FINETUNED))
FEWEST = 5  # policies, below which an order says nothing
_REPEATS = 10  # asks for what was drawn before, after which a space has no more


@dataclass(frozen=True)
class Fidelity:
    """What was found over some random policies.

    Attributes:
        scores: "fast", "slow", "slow again" (with other calibration images) and "finetuned", those that there are; one
            number a policy, the policies in one order.
        seconds: by the same names, from a policy to its score; the median over the policies.
        failed: policies that were left out, since one of their scores failed.
        error: why the first of them failed; empty if none did.
        seed: of the bootstrap.
        notes: what could not be measured, and why.
        lower_is_better: whether the task's metric is better when lower; scores here are better when higher.
    """

    scores: Mapping[str, Sequence[float]]
    seconds: Mapping[str, float]
    failed: int
    error: str
    seed: int
    notes: tuple[str, ...] = ()
    lower_is_better: bool = False

    @property
    def policies(self) -> int:
        """How many were counted."""
        return len(self.scores[FAST])

    def agreements(self) -> dict[tuple[str, str], Agreement]:
        """The fast score against each better one, and these against one another."""
        pairs = [(a, b) for a, b in _PAIRS if a in self.scores and b in self.scores]
        return {(a, b): kendall.measure(self.scores[a], self.scores[b], self.seed, self.failed) for a, b in pairs}

    def difference(self) -> tuple[float, float] | None:
        """Mean and sample standard deviation of the fast score less the slow one, as the task's metric gives them.

        None without a slow one.
        """
        if SLOW not in self.scores:
            return None
        sign = -1 if self.lower_is_better else 1
        gaps = [sign * (fast - slow) for fast, slow in zip(self.scores[FAST], self.scores[SLOW], strict=True)]
        return statistics.mean(gaps), statistics.stdev(gaps)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        pairs = self.agreements().items()
        mean, deviation = self.difference() or (None, None)
        sign = -1 if self.lower_is_better else 1
        return {
            "policies": self.policies,
            "failed": self.failed,
            "error": self.error,
            "agreements": [{"score": a, "against": b, **dataclasses.asdict(found)} for (a, b), found in pairs],
            "fast_less_slow": {"mean": mean, "standard_deviation": deviation},
            "seconds": dict(self.seconds),
            "scores": {name: [sign * value for value in values] for name, values in self.scores.items()},
            "notes": list(self.notes),
        }

    def table(self) -> list[list[str]]:
        """The agreements as rows of text, the head first."""
        rows = [["score", "against", "Kendall's tau", "90 % interval", "best tenth found"]]
        for (score, against), found in self.agreements().items():
            best = f"{found.recall:.0%}" if found.tau is not None else "-"
            rows.append([score, against, words.tau(found), words.interval(found), best])
        return rows

    def remarks(self) -> list[str]:
        """What the table does not hold, a line each."""
        cause = f", the first with: {self.error}" if self.error else ""
        said = [f"{self.policies} random policies on the holdout; {self.failed} failed and left out{cause}."]
        if gap := self.difference():
            said.append(f"Fast less slow score: mean {gap[0]:+.4f}, standard deviation {gap[1]:.4f}.")
        if AGAIN in self.scores:
            said.append(
                f"{AGAIN.capitalize()} has other calibration images: where it disagrees with slow, the order is chance."
            )
        spent = ", ".join(f"{name} {spent:.3g}" for name, spent in self.seconds.items())
        return [*said, f"Seconds from a policy to its score, median: {spent}.", *self.notes]


def measure(study: Study, *, policies: int, steps: int, watch: Watch = silent) -> Fidelity:
    """The scores of `policies` different random policies, in the order in which the random controller asks for them.

    `steps` is the length of the finetune; 0 leaves it out. Raises ConfigError where there is nothing to measure, and
    SearchFailed where fewer than five policies could be scored.
    """
    _refuse(policies, steps)
    study.prepare(None, watch)
    scorings, notes = _scorings(study, steps)
    asked = _different(study, policies)
    rows, errors = list[dict[str, Scored]](), list[str]()
    for number, policy in enumerate(asked):
        watch("policy", number, len(asked))
        try:
            rows.append({name: score(policy) for name, score in scorings.items()})
        except TrialFailed as failure:
            errors.append(str(failure))
    watch("policy", len(asked), len(asked))
    if len(rows) < FEWEST:
        cause = f"at least {FEWEST} are needed; the first failed with: {errors[0]}"
        raise SearchFailed(f"{len(rows)} of {len(asked)} policies could be scored; {cause}")
    return Fidelity(
        scores={name: [row[name][0] for row in rows] for name in scorings},
        seconds={name: statistics.median(row[name][1] for row in rows) for name in scorings},
        failed=len(errors),
        error=errors[0] if errors else "",
        seed=study.seed,
        notes=notes,
        lower_is_better=study.task.judge.lower_is_better,
    )


def of_trials(study: Study, trials: Iterable[Trial], *, most: int, watch: Watch = silent) -> Agreement | None:
    """The score that `trials` have against the slow one, over the first `most` different policies that succeeded.

    None where the evaluator has no slow score, and where there are fewer than five such policies.
    """
    scored: dict[Policy, float] = {}
    for trial in trials:
        if trial.metric is not None and len(scored) < most:
            scored.setdefault(trial.policy, trial.metric)
    if len(scored) < FEWEST or not isinstance(study.evaluator, SavesTime):
        return None
    careful, slow = _scoring(study.evaluator.careful()), dict[Policy, float]()
    for number, policy in enumerate(scored):
        watch("fidelity", number, len(scored))
        with contextlib.suppress(TrialFailed):
            slow[policy], _ = careful(policy)
    watch("fidelity", len(scored), len(scored))
    if len(slow) < FEWEST:
        return None
    return kendall.measure([scored[p] for p in slow], list(slow.values()), study.seed, len(scored) - len(slow))


def _refuse(policies: int, steps: int) -> None:
    if policies < FEWEST:
        raise ConfigError(f"--policies {policies}: at least {FEWEST} are needed")
    if steps < 0:
        raise ConfigError(f"--steps {steps}: a number of gradient steps is needed, or 0 for no finetune")


def _scorings(study: Study, steps: int) -> tuple[dict[str, Scoring], tuple[str, ...]]:
    """How each score is made, by its name; and a note on one that cannot be."""
    made, name = {FAST: _scoring(study.evaluator)}, study.config.evaluator.use
    notes: tuple[str, ...] = (f"Evaluator {name!r} has no slow score.",)
    if isinstance(study.evaluator, SavesTime):
        careful, notes = study.evaluator.careful(), ()
        made[SLOW] = _scoring(careful)
        if isinstance(careful, Repeats) and (again := careful.again()):
            made[AGAIN] = _scoring(again)
    if steps:
        recipe, dense = dataclasses.replace(study.finetune, steps=steps), copied(study.task.model).eval()
        made[FINETUNED] = _scoring(_Finetuned(study, recipe, dense))
    if len(made) < 2:
        raise ConfigError(
            f"evaluator {name!r} has no slow score and --steps is 0; write --steps 50, or another evaluator"
        )
    return made, notes


def _scoring(evaluator: Evaluator) -> Scoring:
    """How `evaluator` scores a policy. What would be a failed trial of a search raises TrialFailed."""
    attempt = loop.attempting(evaluator, {}, lambda metric, costs, dense: metric, {})

    def scored(policy: Policy) -> Scored:
        trial = attempt(0, policy)
        if trial.metric is None:
            raise TrialFailed(trial.error)
        return trial.metric, sum(trial.seconds.values())

    return scored


def _different(study: Study, count: int) -> list[Policy]:
    """Up to `count` different random policies."""
    controller, found = study.controller("random"), dict[Policy, None]()
    with contextlib.suppress(Exhausted):
        repeats = 0
        while len(found) < count and repeats < _REPEATS:
            policy = controller.ask()
            repeats += policy in found
            found[policy] = None
    if len(found) < FEWEST:
        raise ConfigError(f"the space holds {len(found)} different policies at random; at least {FEWEST} are needed")
    return list(found)


@dataclass
class _Finetuned:
    """The evaluator of the study, with some steps of training after its recovery."""

    study: Study
    recipe: Recipe
    dense: nn.Module  # it may teach, with distillation

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network."""
        return self.study.evaluator.realise(policy)

    def recover(self, candidate: Candidate) -> Candidate:
        """The same, recovered and trained."""
        study, task = self.study, self.study.task
        recovered = study.evaluator.recover(candidate)
        train(recovered.model, task.train, task.loss, self.recipe, seed=study.seed, teacher=self.dense)
        return recovered

    def score(self, candidate: Candidate) -> Score:
        """The metric on the whole holdout."""
        task = self.study.task
        return Score(task.quality(candidate.model, task.holdout))
