"""The slow score, to compare fast ones with: all images, full precision, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recovery.batchnorm import recalibrate
from autoprune.evaluators.recovery.replay import drawn
from autoprune.evaluators.recovery.sampling import Sampling
from autoprune.evaluators.recovery.scorer import first_images, refuse_nonfinite
from autoprune.protocols import Score
from autoprune.structure.prune import Candidate
from autoprune.train import forked
from autoprune.values.space import Policy


@dataclass(frozen=True)
class Careful:
    """An evaluator without short cuts.

    Attributes:
        bench: what it stands on.
        sampling: of the evaluator whose statistics and score are done carefully here.
        made: makes the pruned network.
        draw: which of the disjoint sets of calibration images it takes.
    """

    bench: Bench
    sampling: Sampling
    made: Callable[[Policy], Candidate]
    draw: int = 0

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, as the fast evaluator makes it."""
        return self.made(policy)

    def recover(self, candidate: Candidate) -> Candidate:
        """The same with statistics of `reference` images."""
        task, it = self.bench.task, self.sampling
        with forked(self.bench.seed):
            if it.images:
                images = drawn(task.calibration, self.bench.seed, self._images, it.batch, self.draw)
                recalibrate(candidate.model, images, "fp32")
        return candidate

    def score(self, candidate: Candidate) -> Score:
        """The metric on the whole holdout."""
        task = self.bench.task
        with forked(self.bench.seed):
            refuse_nonfinite(candidate.model.eval(), first_images(task.holdout))
            return Score(task.quality(candidate.model, task.holdout))

    def again(self) -> Careful | None:
        """The same with other calibration images; None where too few are left, or none are looked at."""
        it, other = self.sampling, self.draw + 1
        enough = (other + 1) * (self._images // it.batch) * it.batch <= len(self.bench.task.calibration)
        return replace(self, draw=other) if it.images and enough else None

    @property
    def _images(self) -> int:
        return max(self.sampling.images, self.sampling.reference)
