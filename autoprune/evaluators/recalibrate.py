"""The fast evaluator: prune, re-estimate the BatchNorm statistics, score on the holdout.

Pruned layers feed other means and variances forward than their BatchNorms remember; without this step the score of a
pruned network says next to nothing. No weight is trained.

    realise    rank units once, slice the dense network                                              bench.Bench
    recover    read the graph once; convolution, BatchNorm, sum and ReLU run as one operator         engine.fused
               estimate BatchNorm statistics on few images                                           recovery.recovery
               correct them by probes, which are known on both few and many                          recovery.batchnorm
    score      look only at the holdout images that tell networks apart                              recovery.panel
               map that to the metric on all                                                         recovery.scorer
    careful    none of the last four, to compare with                                                recovery.careful
"""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.evaluators.bench import Bench, Rebuilt
from autoprune.evaluators.recovery.careful import Careful
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.recovery import Ready
from autoprune.evaluators.recovery.sampling import Sampling
from autoprune.protocols import Score
from autoprune.structure.prune import Candidate
from autoprune.values.space import Policy


@dataclass
class Recalibrate(Rebuilt, Sampling):
    """Prune, re-estimate BatchNorm statistics on training images, score on the holdout."""

    bench: Bench

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fast = Fast(self.bench, self, self.realise)

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, not recovered yet."""
        return self.bench.pruned(policy)

    def recover(self, candidate: Candidate) -> Ready:
        """The same with re-estimated statistics."""
        return self._fast.recover(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)

    def careful(self) -> Careful:
        """The same without the short cuts."""
        return self._fast.careful()

    @property
    def notes(self) -> tuple[str, ...]:
        """How scores are computed."""
        return self._fast.notes
