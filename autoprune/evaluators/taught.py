"""Another evaluator's networks, trained for some steps as the winner of a search is in the end: a rung."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.evaluators.bench import Bench, Rebuilt
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.sampling import counting
from autoprune.finetuning import finetune
from autoprune.protocols import Evaluator, Score
from autoprune.structure.prune import Candidate
from autoprune.train import Recipe
from autoprune.values.space import Policy


@dataclass
class Taught(Rebuilt):
    """The networks of `inner`, trained by `recipe` after they recovered, scored on the whole holdout.

    Attributes:
        anew: whether they are trained from new weights.
    """

    bench: Bench
    inner: Evaluator
    recipe: Recipe
    anew: bool = False

    def __post_init__(self) -> None:
        self._fast = Fast(self.bench, counting(images=0, holdout=0), self.inner.realise)

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, not recovered yet."""
        return self.inner.realise(policy)

    def recover(self, candidate: Candidate) -> Candidate:
        """The same after the other evaluator's recovery and training."""
        made = self.inner.recover(candidate)
        finetune(made.model, self.bench.task, self.recipe, seed=self.bench.seed, anew=self.anew)
        return self._fast.recover(Candidate(made.policy, made.model, made.stay))

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)
