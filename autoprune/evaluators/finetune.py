"""The slow evaluator: prune, train for some steps, re-estimate the BatchNorm statistics, score on the holdout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from autoprune.evaluators.bench import Bench, Rebuilt
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.recovery import Ready
from autoprune.evaluators.recovery.sampling import counting
from autoprune.protocols import Score
from autoprune.structure.prune import Candidate
from autoprune.train import Recipe, teacher_of, thaw, train
from autoprune.values.ranges import (
    Batch,
    Decay,
    LearningRate,
    Norm,
    Samples,
    Share,
    ShareBelow,
    Steps,
    Temperature,
    require,
)
from autoprune.values.space import Policy


@dataclass
class Finetune(Rebuilt):
    """Prune, train for some steps, re-estimate BatchNorm statistics, score on the holdout.

    Every trial is trained alike, with the same images in the same order.

    Attributes:
        steps: gradient steps a trial.
        batch: training images a step.
        lr: peak learning rate; it rises over the first `warmup` share of the steps and falls along a cosine to zero.
        weight_decay: on weights of two dimensions and more only.
        warmup: share of the steps in which the learning rate rises.
        label_smoothing: of the labels, in a cross-entropy only.
        distill: weight of the dense network's softened outputs in the loss. Hinton et al. 2015.
        temperature: of that softening.
        clip: largest gradient norm.
        images: training images that statistics are estimated on.
        holdout: holdout images, drawn by the seed, that score a trial; 0 takes them all.
    """

    bench: Bench
    steps: Steps = 50
    batch: Batch = 128
    lr: LearningRate = 0.02
    weight_decay: Decay = 5e-4
    warmup: ShareBelow = 0.2
    label_smoothing: ShareBelow = 0.0
    distill: Share = 0.0
    temperature: Temperature = 4.0
    clip: Norm = 5.0
    images: Samples = 128
    holdout: Samples = 0

    def __post_init__(self) -> None:
        require(self)
        self._fast = Fast(self.bench, counting(self.images, self.holdout), self.realise)

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, not recovered yet."""
        return self.bench.pruned(policy)

    def recover(self, candidate: Candidate) -> Ready:
        """The same after training, with re-estimated statistics."""
        bench = self.bench
        if self.steps:
            thaw(candidate.model)
            task, teacher = bench.task, self._teacher
            train(candidate.model, task.train, task.loss, self._recipe, seed=bench.seed, teacher=teacher)
        return self._fast.recover(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)

    @property
    def needs_loss(self) -> bool:
        """As `protocols.NeedsLoss`."""
        return self.steps > 0 and self.distill < 1

    @cached_property
    def _recipe(self) -> Recipe:
        return Recipe.of(self, steps=self.steps, precision=self.bench.training)

    @cached_property
    def _teacher(self) -> nn.Module | None:
        return teacher_of(self.bench.task.model) if self.distill else None
