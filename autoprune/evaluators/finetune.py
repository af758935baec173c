"""The slow evaluator: prune, train for some steps, re-estimate the BatchNorm statistics, score on the holdout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from autoprune.criteria import Scoring
from autoprune.engine.precision import training
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.train import Recipe, teacher_of, thaw, train
from autoprune.values.space import Policy, SearchSpace


@dataclass
class Finetune:
    """Prune, train for some steps, re-estimate BatchNorm statistics, score on the holdout.

    Every trial is trained alike, with the same images in the same order.

    Attributes:
        task: the dense network, which is only read (and teaches, with `distill`), and its images.
        trace: the index tables of its groups.
        space: the policies' space.
        criterion: which units stay; scored once, on the dense network.
        seed: of everything random.
        precision: "fp32", "bf16" or "int8" (the score; training is then in bf16).
        steps: gradient steps a trial.
        batch: training images a step.
        lr: peak learning rate; it rises over the first `warmup` share of the steps and falls along a cosine to zero.
        weight_decay: on weights of two dimensions and more only.
        warmup: share of the steps in which the learning rate rises, in [0, 1).
        label_smoothing: in [0, 1); cross-entropy only.
        distill: weight of the dense network's softened outputs in the loss, in [0, 1]. Hinton et al. 2015.
        temperature: of that softening, > 0.
        clip: largest gradient norm.
        images: training images that statistics are estimated on.
        holdout: holdout images that score a trial; 0 takes them all.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    steps: int = 50
    batch: int = 128
    lr: float = 0.02
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    clip: float = 5.0
    images: int = 128
    holdout: int = 0

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, not recovered yet."""
        return self._scored.realise(policy)

    def metric(self, model: nn.Module) -> float:
        """The holdout metric after training `model`, which then has other weights."""
        if self.steps:
            thaw(model)
            train(model, self.task.train, self.task.loss, self._recipe, seed=self.seed, teacher=self._teacher)
        return self._scored.metric(model)

    @cached_property
    def _recipe(self) -> Recipe:
        return Recipe(
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            label_smoothing=self.label_smoothing,
            distill=self.distill,
            temperature=self.temperature,
            precision=training(self.precision),
            clip=self.clip,
        )

    @cached_property
    def _scored(self) -> Recalibrate:
        return Recalibrate(
            self.task,
            self.trace,
            self.space,
            self.criterion,
            seed=self.seed,
            precision=self.precision,
            images=self.images,
            batch=min(128, self.images),
            holdout=self.holdout,
            panel=1,
            probes=0,
        )

    @cached_property
    def _teacher(self) -> nn.Module | None:
        return teacher_of(self.task.model) if self.distill else None
