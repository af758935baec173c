"""Scoring networks whose weights come from shared ones: trained once, then cut for each policy and never trained again.

`pruningnet` and `supernet` differ in what is shared and in what a training step is; the rest is here, as their base.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.copies import copied
from autoprune.engine.precision import running
from autoprune.errors import ConfigError, ModelError
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recovery.batchnorm import recalibrate
from autoprune.evaluators.recovery.careful import Careful
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.recovery import Ready
from autoprune.evaluators.recovery.replay import drawn
from autoprune.evaluators.recovery.sampling import counting
from autoprune.evaluators.shared.resumable_training import Course
from autoprune.evaluators.shared.subnets import Subnets, Weights
from autoprune.files import policy_file
from autoprune.inputs import Inputs, moved
from autoprune.metrics import logits
from autoprune.protocols import Score, Watch, silent
from autoprune.structure.prune import Candidate, Units
from autoprune.task import Loss, loss_of
from autoprune.train import Recipe, forked, require_classes, require_loss_of_classes, restart, thaw
from autoprune.values.ranges import Decay, LearningRate, Norm, Range, Samples, Share, ShareBelow, SomeSamples, require
from autoprune.values.space import Policy

STARTS = ("dense", "scratch")
_CHOICES = "widths of [space]"
_SETTINGS = ("criterion", "settings")  # of a training, besides its recipe
_REFERENCE, _BATCH = 1024, 128  # images of the widest network's statistics


def blended(outputs: Any, targets: Any, taught: Any, loss: Loss, distill: float) -> Tensor:
    """The loss against `targets`, and with weight `distill` against the classes that `taught`, logits, makes likely.

    Nothing is `taught` where that is None.

    Raises ConfigError where outputs are not (n, classes, ...).
    """
    if taught is None or not distill:
        return loss_of(loss, outputs, targets)
    scores = logits(outputs)
    require_classes(scores, distill)
    soft = functional.cross_entropy(scores, logits(taught).softmax(1))
    return distill * soft + (1 - distill) * loss_of(loss, outputs, targets) if distill < 1 else soft


@dataclass
class OneShot:
    """What both have in common. The holdout is never trained on.

    Attributes:
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

    bench: Bench
    start: str = "dense"
    epochs: Annotated[float, Range(0, 10_000, above=True)] = 8.0
    batch: Annotated[int, Range(2, 65_536)] = 128
    lr: LearningRate = 0.02
    weight_decay: Decay = 5e-4
    warmup: ShareBelow = 0.1
    clip: Norm = 5.0
    images: SomeSamples = 128
    holdout: Samples = 0
    weights: str = ""
    distill: Share = 0.0

    def __post_init__(self) -> None:
        require(self)
        if self.start not in STARTS:
            raise ConfigError(f"start = {self.start!r}; {' or '.join(map(repr, STARTS))} is right")
        require_loss_of_classes(self.bench.task.loss, self.distill)
        self._ready = False

    @property
    def needs_loss(self) -> bool:
        """As `protocols.NeedsLoss`."""
        return self.distill < 1

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

    def lesson(self, step: int, inputs: Inputs, targets: Any) -> Tensor:
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

    def rehearse(self, policy: Policy) -> Candidate:
        """As `autoprune.protocols.Trains.rehearse`."""
        if self.weights:
            self._borrow()
        return self.subnets.network(policy)

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
        self.course.run(
            self.bench.task.train, self.lesson, file, lambda done, of: watch(f"train {self.name}", done, of)
        )
        self._ready = True

    def take_up(self, folder: Path) -> None:
        """As `autoprune.protocols.Trains.take_up`. Widths are not limited by a space then."""
        self._finished(folder / self.file, () if self.weights else ("recipe", "seed", *_SETTINGS))
        self._ready = True

    def realise(self, policy: Policy) -> Candidate:
        """The network of those widths with its generated or shared weights; statistics are not estimated yet.

        Raises PolicyError where the network cannot have those widths.
        """
        self.bench.space.require(policy)
        self.prepare(None, silent)
        candidate = self.subnets.network(policy)
        for own, dense in zip(candidate.model.parameters(), self.bench.task.model.parameters(), strict=True):
            own.requires_grad_(dense.requires_grad)
        return candidate

    def recover(self, candidate: Candidate) -> Ready:
        """The same with statistics of its own."""
        return self._fast.recover(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)

    def careful(self) -> Careful:
        """The same without the short cuts of recalibration and score."""
        return self._fast.careful()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {self.name} is not pickled: what it trained lies in {self.file} of its run, for `take_up`")

    @property
    def notes(self) -> tuple[str, ...]:
        """What was trained, how long it took, and how scores are computed."""
        course, count = self.course, sum(p.numel() for p in self.subnets.weights.parameters())
        trained = (
            f"Networks were scored with weights of a {self.name} of {count:,} parameters, trained from {self.start} "
            f"for {course.recipe.steps:,} steps of {course.recipe.batch} images in {course.seconds:.0f} s."
        )
        return (trained, *self._fast.notes)

    @cached_property
    def subnets(self) -> Subnets:
        """Every network that can be cut, from weights that begin as `start` says.

        What is frozen in the dense network stays as it is, but for one that is frozen as a whole.
        """
        net, bench = copied(self.bench.task.model), self.bench
        if self.start == "scratch":
            restart(net, bench.seed)
            ranked = [np.arange(choice.dense) for choice in bench.space]  # in their own order
        else:
            thaw(net)
            ranked = bench.ranked
        with forked(bench.seed):
            return Subnets(self.shared(net, ranked), bench.trace, bench.space)

    @cached_property
    def course(self) -> Course:
        """How the shared weights are trained, and how far that has come."""
        bench = self.bench
        batch = min(self.batch, len(bench.task.train))
        recipe = Recipe(
            steps=math.ceil(self.epochs * len(bench.task.train) / batch),
            batch=batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            precision=bench.training,
            clip=self.clip,
        )
        dense = policy_file.fingerprint(bench.task.model, bench.task.rebuild)
        groups = [[choice.name, choice.dense] for choice in bench.space]
        own = {"architecture": dense.architecture, "dense network": dense.weights, "groups": groups}
        details = {
            "criterion": getattr(bench.criterion, "__qualname__", type(bench.criterion).__qualname__),
            "settings": dict(self.lessons),
            _CHOICES: [choice.levels for choice in bench.space],
        }
        return Course(self.subnets.weights, recipe, bench.seed, {**own, **self.about}, details)

    def _outputs(self, widths: Sequence[int], inputs: Inputs) -> Any:
        """What the network of those widths gives in training."""
        with running(self.course.recipe.precision, self.bench.device):
            return moved(self.subnets.outputs(widths, inputs), torch.float32)

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
        for choice, trained in zip(self.bench.space, details[_CHOICES], strict=True):
            if new := sorted(set(choice.levels) - set(trained)):
                widths = f"choice {choice.name!r} was never trained with {new[0]} of {choice.dense} units"
                raise ModelError(f"{file}: {widths}, which [space] allows; train anew for that")

    def _finished(self, file: Path, agree: Sequence[str] = ()) -> Mapping[str, Any]:
        """What `file` says of weights that were trained to the end, which this then has."""
        details = self.course.take_up(file, agree)
        if not self.course.done:
            made = f"{self.course.step} of {self.course.recipe.steps} steps"
            raise ModelError(f"{file} is not trained to the end, only for {made}; go on with its run first")
        return details

    @cached_property
    def _fast(self) -> Fast:
        """Estimates statistics and scores, with the widest network in the dense one's place."""
        bench, widest = self.bench, self.subnets.network(self.bench.space.dense()).model
        with forked(bench.seed):
            images = drawn(bench.task.calibration, bench.seed, _REFERENCE, _BATCH)
            recalibrate(widest, images, bench.training)
        stand = dataclasses.replace(bench, task=bench.task.standing_in(widest))
        return Fast(stand, counting(self.images, self.holdout), self.realise)
