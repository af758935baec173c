"""Scoring networks whose weights come from shared ones: trained once, then cut for each policy and never trained again.

`pruningnet` and `supernet` differ in what is shared and in what a training step is; the rest is here, as their base.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune import criteria, policy_file
from autoprune.criteria import Scoring
from autoprune.errors import ConfigError, ModelError
from autoprune.evaluators.course import Course
from autoprune.evaluators.recalibrate import Careful, Recalibrate, recalibrate
from autoprune.evaluators.subnets import Subnets, Weights
from autoprune.precision import training
from autoprune.protocols import Watch
from autoprune.prune import Units, order
from autoprune.space import Policy, SearchSpace
from autoprune.task import Loss, Task
from autoprune.trace import Trace
from autoprune.train import Recipe, forked, restart

STARTS = ("dense", "scratch")
_REFERENCE, _BATCH = 1024, 128  # images of the widest network's statistics


def blended(outputs: Tensor, targets: Tensor, taught: Tensor | None, loss: Loss, distill: float) -> Tensor:
    """The loss against `targets`, and with weight `distill` against the classes that `taught`, logits, makes likely."""
    if taught is None or not distill:
        return loss(outputs, targets)
    soft = functional.cross_entropy(outputs, taught.softmax(1))
    return distill * soft + (1 - distill) * loss(outputs, targets) if distill < 1 else soft


@dataclass
class OneShot:
    """What both have in common.

    Attributes:
        task: the dense network, which is only read, and its images; the holdout is never trained on.
        trace: the index tables of its groups.
        space: the policies' space; within it widths are drawn.
        criterion: which units of the dense network stay longest; not used from scratch.
        seed: of everything random.
        precision: "fp32", "bf16" or "int8", of the score; training is in bf16 at the least.
        start: what shared weights begin as: "dense", the trained network's, units by importance; "scratch", new ones.
        epochs: passes over the training split.
        batch: training images a step.
        lr: peak learning rate; it rises over the first `warmup` share of the steps and falls along a cosine to zero.
        weight_decay: on tensors of two dimensions and more only.
        warmup: share of the steps in which the learning rate rises, in [0, 1).
        clip: largest gradient norm.
        images: training images that a policy's statistics are estimated on.
        holdout: holdout images that score a policy; 0 takes them all.
        weights: the directory of a run whose trained weights are used instead of training, or the file itself.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    start: str = "dense"
    epochs: float = 8.0
    batch: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip: float = 5.0
    images: int = 128
    holdout: int = 0
    weights: str = ""

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ConfigError(f"start = {self.start!r}; {' or '.join(map(repr, STARTS))} is right")
        if not (self.epochs > 0 and self.lr > 0 and self.clip > 0 and self.batch >= 2 and 0 <= self.warmup < 1):
            given = f"epochs={self.epochs}, lr={self.lr}, clip={self.clip}, batch={self.batch}, warmup={self.warmup}"
            raise ConfigError(f"{given}: all above 0, at least two images a batch, and a warmup below 1 are needed")
        if self.images < 2 or self.holdout < 0:
            raise ConfigError(f"images={self.images}, holdout={self.holdout}: at least 2 and 0 are needed")
        self._ready = False

    @property
    def name(self) -> str:
        """Of the evaluator, in messages and file names."""
        raise NotImplementedError

    @property
    def about(self) -> Mapping[str, object]:
        """Settings in which a file of trained weights must agree."""
        return {"start": self.start}

    def shared(self, net: nn.Module) -> nn.Module:
        """The shared weights, a module with the methods of `Weights`, from a network of full width of its own."""
        raise NotImplementedError

    def lesson(self, step: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of one training step, whose gradients are added to the weights."""
        raise NotImplementedError

    @property
    def file(self) -> str:
        """As `autoprune.protocols.Trains.file`."""
        return f"{self.name}.safetensors"

    def prepare(self, folder: Path | None, watch: Watch) -> None:
        """As `autoprune.protocols.Trains.prepare`."""
        if self._ready:
            return
        file = folder / self.file if folder is not None else None
        if file is not None and file.exists():
            self.course.take_up(file)
        elif self.weights:
            self._borrow(Path(self.weights), file)
        self.course.run(self.task.train, self.lesson, file, lambda done, of: watch(f"train {self.name}", done, of))
        self._ready = True

    def realise(self, policy: Policy) -> nn.Module:
        """The network of those widths with its generated or shared weights; statistics are not estimated yet.

        Raises PolicyError where the network cannot have those widths.
        """
        self.space.require(policy)
        self.prepare(None, lambda what, done, of: None)
        model, stay = self.subnets.network(self.space.kept(policy))
        self._scored.remember(model, stay)
        return model

    def metric(self, model: nn.Module) -> float:
        """The holdout metric with statistics of its own, which `model` then has."""
        return self._scored.metric(model)

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds of the last `metric`, by phase."""
        return self._scored.spent

    def careful(self) -> Careful:
        """The same without the short cuts of recalibration and score."""
        return Careful(self.realise, self._scored)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was trained, how long it took, and how scores are computed."""
        course, count = self.course, sum(p.numel() for p in self.course.module.parameters())
        trained = (
            f"Networks were scored with weights of a {self.name} of {count:,} parameters, trained from {self.start} "
            f"for {course.recipe.steps:,} steps of {course.recipe.batch} images in {course.seconds:.0f} s."
        )
        return (trained, *self._scored.notes)

    @cached_property
    def subnets(self) -> Subnets:
        """Every network that can be cut, from weights that begin as `start` says."""
        net = copy.deepcopy(self.task.model).requires_grad_(True)
        if self.start == "scratch":
            restart(net, self.seed)
        with forked(self.seed):
            weights = self.shared(net)
        assert isinstance(weights, Weights)
        return Subnets(weights, self.trace, self.space, self._ranked())

    @cached_property
    def course(self) -> Course:
        """How the shared weights are trained, and how far that has come."""
        module = self.subnets.weights
        assert isinstance(module, nn.Module)
        recipe = Recipe(
            steps=math.ceil(self.epochs * len(self.task.train) / self.batch),
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            precision=training(self.precision),
            clip=self.clip,
        )
        dense = policy_file.fingerprint(self.task.model, self.task.rebuild)
        groups = [[group.name, group.of, group.choices()[0]] for group in self.space]
        own = {"architecture": dense.architecture, "dense network": dense.weights, "space": groups}
        return Course(module, recipe, self.seed, {**own, **self.about})

    def _ranked(self) -> list[Units]:
        """The units of each group, those that stay longest first; in their own order from scratch."""
        if self.start == "scratch":
            return [np.arange(group.of) for group in self.space]
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    def _borrow(self, source: Path, file: Path | None) -> None:
        """Take what another run trained, and keep it. Raises ModelError where that is not finished."""
        source = source / self.file if source.is_dir() else source
        self.course.take_up(source)
        if not self.course.done:
            made = f"{self.course.step} of {self.course.recipe.steps} steps"
            raise ModelError(f"{source} is not trained to the end, only for {made}; go on with its run first")
        if file is not None:
            self.course.write(file)

    @cached_property
    def _scored(self) -> Recalibrate:
        """Estimates statistics and scores, with the widest network in the dense one's place."""
        widest, _ = self.subnets.network(self.subnets.extremes()[0])
        with forked(self.seed):
            shuffled = self.task.train.shuffled(_BATCH, torch.Generator().manual_seed(self.seed))
            recalibrate(widest, islice(shuffled, _REFERENCE // _BATCH), training(self.precision))
        return Recalibrate(
            dataclasses.replace(self.task, model=widest),
            self.trace,
            self.space,
            self.criterion,
            seed=self.seed,
            precision=self.precision,
            images=self.images,
            batch=min(128, self.images),
            holdout=self.holdout,
        )
