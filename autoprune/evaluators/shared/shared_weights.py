"""Scoring networks whose weights come from shared ones: trained once, then cut for each policy and never trained again.

`pruningnet` and `supernet` differ in what is shared and in what a training step is; the rest is here, as their base.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune import criteria
from autoprune.criteria import Scoring
from autoprune.engine.precision import running, training
from autoprune.errors import ConfigError, ModelError
from autoprune.evaluators.recalibrate import Careful, Recalibrate
from autoprune.evaluators.recovery.batchnorm import recalibrate
from autoprune.evaluators.shared.resumable_training import Course
from autoprune.evaluators.shared.subnets import Subnets, Weights
from autoprune.files import policy_file
from autoprune.protocols import Watch
from autoprune.structure.prune import Units, order
from autoprune.structure.trace import Trace
from autoprune.task import Loss, Task
from autoprune.train import Recipe, forked, restart, thaw
from autoprune.values.space import Policy, SearchSpace

STARTS = ("dense", "scratch")
_CHOICES = "widths of [space]"
_SETTINGS = ("criterion", "settings")  # of a training, besides its recipe
_REFERENCE, _BATCH = 1024, 128  # images of the widest network's statistics


def blended(outputs: Tensor, targets: Tensor, taught: Tensor | None, loss: Loss, distill: float) -> Tensor:
    """The loss against `targets`, and with weight `distill` against the classes that `taught`, logits, makes likely.

    Raises ConfigError where outputs are not (n, classes, ...).
    """
    if taught is None or not distill:
        return loss(outputs, targets)
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        shape = f"these are of shape {tuple(outputs.shape)}"
        raise ConfigError(f"distill={distill} is for outputs (n, classes), and {shape}; distill = 0 is right for them")
    soft = functional.cross_entropy(outputs, taught.softmax(1))
    return distill * soft + (1 - distill) * loss(outputs, targets) if distill < 1 else soft


def _check_distill(task: Task, distill: float) -> None:
    """Raise ConfigError where `distill` is no share, or asked for though the task's outputs are no classes' logits."""
    if not 0 <= distill <= 1:
        raise ConfigError(f"distill={distill}; a number in [0, 1] is right")
    judged = task.loss is functional.cross_entropy or isinstance(task.loss, nn.CrossEntropyLoss)
    if distill and not judged:
        raise ConfigError(f"distill={distill} is for tasks with a cross-entropy as loss; distill = 0 is right for this")


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
        weights: the directory of a run whose trained weights are used instead of training, or the file itself; in a
            search space's file, relative to it.
        distill: weight of a wider network's outputs in the loss, in [0, 1]; the rest is the labels'.
    """

    name: ClassVar[str]  # of the evaluator, in messages and file names

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    start: str = "dense"
    epochs: float = 8.0
    batch: int = 128
    lr: float = 0.02
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip: float = 5.0
    images: int = 128
    holdout: int = 0
    weights: str = ""
    distill: float = 0.0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ConfigError(f"start = {self.start!r}; {' or '.join(map(repr, STARTS))} is right")
        if not (self.epochs > 0 and self.lr > 0 and self.clip > 0 and self.batch >= 2 and 0 <= self.warmup < 1):
            given = f"epochs={self.epochs}, lr={self.lr}, clip={self.clip}, batch={self.batch}, warmup={self.warmup}"
            raise ConfigError(f"{given}: all above 0, at least two images a batch, and a warmup below 1 are needed")
        if self.images < 2 or self.holdout < 0 or self.weight_decay < 0:
            given = f"images={self.images}, holdout={self.holdout}, weight_decay={self.weight_decay}"
            raise ConfigError(f"{given}: at least 2, 0 and 0 are needed")
        _check_distill(self.task, self.distill)
        self._ready = False

    @property
    def about(self) -> Mapping[str, object]:
        """Settings in which a file of trained weights must agree."""
        return {"start": self.start}

    @property
    def lessons(self) -> Mapping[str, object]:
        """Settings that a training step depends on, besides the recipe."""
        return {"distill": self.distill}

    def shared(self, net: nn.Module, ranked: Sequence[Units]) -> Weights:
        """The shared weights, from a network of full width of its own and the ranking of its units."""
        raise NotImplementedError

    def lesson(self, step: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of one training step, whose gradients are added to the weights."""
        raise NotImplementedError

    @property
    def file(self) -> str:
        """The name of the file that trained weights are kept in."""
        return f"{self.name}.safetensors"

    @property
    def seconds(self) -> float:
        """As `autoprune.protocols.Trains.seconds`."""
        return self.course.seconds

    def rehearse(self, policy: Policy) -> nn.Module:
        """As `autoprune.protocols.Trains.rehearse`."""
        if self.weights:
            self._borrow()
        return self.subnets.network(self.space.kept(policy))[0]

    def prepare(self, folder: Path | None, watch: Watch) -> None:
        """As `autoprune.protocols.Trains.prepare`."""
        if self._ready:
            return
        file = folder / self.file if folder is not None else None
        if file is not None and file.exists():
            self._own(file)
        elif self.weights:
            if not self.course.done:  # it was read for the rehearsal
                self._borrow()
            if file is not None:
                self.course.write(file)
        self.course.run(self.task.train, self.lesson, file, lambda done, of: watch(f"train {self.name}", done, of))
        self._ready = True

    def take_up(self, folder: Path) -> None:
        """As `autoprune.protocols.Trains.take_up`. Widths are not limited by a space then."""
        self._finished(folder / self.file, () if self.weights else ("recipe", "seed", *_SETTINGS))
        self._ready = True

    def realise(self, policy: Policy) -> nn.Module:
        """The network of those widths with its generated or shared weights; statistics are not estimated yet.

        Raises PolicyError where the network cannot have those widths.
        """
        self.space.require(policy)
        self.prepare(None, lambda what, done, of: None)
        model, stay = self.subnets.network(self.space.kept(policy))
        for own, dense in zip(model.parameters(), self.task.model.parameters(), strict=True):
            own.requires_grad_(dense.requires_grad)
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
        course, count = self.course, sum(p.numel() for p in self.subnets.weights.parameters())
        trained = (
            f"Networks were scored with weights of a {self.name} of {count:,} parameters, trained from {self.start} "
            f"for {course.recipe.steps:,} steps of {course.recipe.batch} images in {course.seconds:.0f} s."
        )
        return (trained, *self._scored.notes)

    @cached_property
    def subnets(self) -> Subnets:
        """Every network that can be cut, from weights that begin as `start` says.

        What is frozen in the dense network stays as it is, but for one that is frozen as a whole.
        """
        net = copy.deepcopy(self.task.model)
        if self.start == "scratch":
            restart(net, self.seed)
        else:
            thaw(net)
        with forked(self.seed):
            return Subnets(self.shared(net, self._ranked()), self.trace, self.space)

    @cached_property
    def course(self) -> Course:
        """How the shared weights are trained, and how far that has come."""
        batch = min(self.batch, len(self.task.train))
        recipe = Recipe(
            steps=math.ceil(self.epochs * len(self.task.train) / batch),
            batch=batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            precision=training(self.precision),
            clip=self.clip,
        )
        dense = policy_file.fingerprint(self.task.model, self.task.rebuild)
        groups = [[group.name, group.of] for group in self.space]
        own = {"architecture": dense.architecture, "dense network": dense.weights, "groups": groups}
        details = {
            "criterion": getattr(self.criterion, "__qualname__", type(self.criterion).__qualname__),
            "settings": dict(self.lessons),
            _CHOICES: [group.choices() for group in self.space],
        }
        return Course(self.subnets.weights, recipe, self.seed, {**own, **self.about}, details)

    def _outputs(self, kept: Sequence[int], inputs: Tensor) -> Tensor:
        """What the network of those widths gives in training."""
        with running(self.course.recipe.precision, inputs.device):
            return self.subnets.outputs(kept, inputs).float()

    def _ranked(self) -> list[Units]:
        """The units of each group, those that stay longest first; in their own order from scratch."""
        if self.start == "scratch":
            return [np.arange(group.of) for group in self.space]
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    def _own(self, file: Path) -> None:
        """Go on from the run's own file."""
        if self.weights:
            self._widths(file, self._finished(file))
        else:
            self.course.take_up(file, ("recipe", "seed", *_SETTINGS, _CHOICES))

    def _borrow(self) -> None:
        """Take what another run trained. Raises ModelError where that is not finished, or of fewer widths."""
        file = Path(self.weights, self.file) if os.path.isdir(self.weights) else Path(self.weights)
        self._widths(file, self._finished(file))

    def _widths(self, file: Path, details: Mapping[str, Any]) -> None:
        """Refuse a space with widths that the weights in `file` were not trained for."""
        for group, trained in zip(self.space, details[_CHOICES], strict=True):
            if new := sorted(set(group.choices()) - set(trained)):
                widths = f"group {group.name!r} was never trained with {new[0]} of {group.of} units"
                raise ModelError(f"{file}: {widths}, which [space] allows; train anew for that")

    def _finished(self, file: Path, agree: Sequence[str] = ()) -> Mapping[str, Any]:
        """What `file` says of weights that were trained to the end, which this then has."""
        details = self.course.take_up(file, agree)
        if not self.course.done:
            made = f"{self.course.step} of {self.course.recipe.steps} steps"
            raise ModelError(f"{file} is not trained to the end, only for {made}; go on with its run first")
        return details

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
            panel=1,
            probes=0,
        )
