"""The fast evaluator: prune, re-estimate the BatchNorm statistics, score on the holdout.

Pruned layers feed other means and variances forward than their BatchNorms remember; without this step the score of a
pruned network says next to nothing. No weight is trained.

Few images are enough, because the dense network says what is peculiar about them: its statistics on those images and on
many are known, and a pruned network's differ from one to the other in the same way (control variates). The score is
computed by `autoprune.fused`, where the network's graph can be read.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune import criteria
from autoprune.criteria import Scoring
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.inputs import Ready, Replay
from autoprune.fused import Fused, Fuser
from autoprune.fusion import Unfusable
from autoprune.precision import laid_out, running
from autoprune.prune import Units, keep_first, order, prune, staying
from autoprune.space import Policy, SearchSpace
from autoprune.task import Batch, Task
from autoprune.trace import Trace
from autoprune.train import forked

_PROBED = 8  # images whose outputs must be finite

Stay = Mapping[str, Mapping[int, NDArray[np.bool_]]]  # by tensor and dimension, as `prune.staying` gives it
Statistics = Mapping[str, tuple[Tensor, Tensor]]  # by layer: mean and variance of each channel


@dataclass
class Recalibrate:
    """Prune, re-estimate BatchNorm statistics on training images, score on the holdout.

    Attributes:
        task: the dense network, which is only read, and its images.
        trace: the index tables of its groups.
        space: the policies' space.
        criterion: which units stay; scored once, on the dense network.
        seed: of the calibration images and of a random criterion.
        precision: "fp32", "bf16" or "int8", of the score; statistics are estimated in bf16 at the least.
        images: training images that a trial's statistics are estimated on; 0 leaves them.
        batch: images a step of that.
        reference: training images on which the dense network's statistics are measured, once, to correct for what is
            peculiar about a trial's few; no more than `images` corrects nothing.
        holdout: holdout images that score a trial; 0 takes them all.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    images: int = 128
    batch: int = 128
    reference: int = 1024
    holdout: int = 0
    spent: Mapping[str, float] = field(init=False, default_factory=dict)
    _stay: WeakKeyDictionary[nn.Module, Stay] = field(init=False, repr=False, default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        if self.images and not self.images >= self.batch >= 2:
            raise ConfigError(f"images={self.images}, batch={self.batch}: images >= batch >= 2 is needed")
        for name in ("holdout", "reference"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: a number of images is needed, or 0")

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, not recovered yet."""
        units = self.units(policy)
        model = prune(self.task.model, self.trace, units)
        self._stay[model] = staying(self._tensors, self.trace.cuts, units)
        return model

    def stay(self, model: nn.Module) -> Stay:
        """Which positions of each of the dense network's tensors `model`, made by `realise`, has kept."""
        return self._stay.get(model, {})

    def units(self, policy: Policy) -> list[Units]:
        """The units of each group that stay."""
        return keep_first(self._ranked, self.space.kept(policy))

    def metric(self, model: nn.Module) -> float:
        """The holdout metric with re-estimated statistics, which `model` then has.

        How long recovery and score took is in `spent` afterwards, in seconds.
        """
        begun = time.perf_counter()
        with forked(self.seed):
            if self.images:
                self._recover(model)
            else:
                model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            between = time.perf_counter()
            value = self._score(model)
        self.spent = {"recover": between - begun, "score": time.perf_counter() - between}
        return value

    def careful(self) -> Careful:
        """The same without the short cuts."""
        return Careful(self.realise, self)

    @property
    def notes(self) -> tuple[str, ...]:
        """How scores are computed."""
        if isinstance(self._fuser, str):
            return (f"Networks are scored layer by layer: {self._fuser}.",)
        if self.precision == "int8":
            return ("Networks are scored with weights and activations of 8 bits; the report's figures are not.",)
        return ()

    def _recover(self, model: nn.Module) -> None:
        recalibrate(model, self._calibration, self.precision)
        stay = self.stay(model)
        for layer, norm in _norms(model):
            if layer in self._peculiar:
                _correct(norm, *(_kept(t, stay.get(f"{layer}.weight", {}).get(0)) for t in self._peculiar[layer]))

    def _score(self, model: nn.Module) -> float:
        device, fuser = next(model.parameters()).device, self._fuser
        with running(self.precision, device):
            if isinstance(fuser, Fuser):
                ready: nn.Module = fuser(model, self.precision)
            else:
                ready = model
                _refuse_nonfinite(model, self._probe)
            value = float(self.task.metric(ready, self._holdout))
        if isinstance(ready, Fused) and not ready.finite:
            raise TrialFailed("the pruned network's outputs are not finite on holdout images")
        if not math.isfinite(value):
            raise TrialFailed(f"the metric is {value}; it should be a finite number")
        return value

    @cached_property
    def _fuser(self) -> Fuser | str:
        """What makes networks ready to be scored, or why nothing can."""
        try:
            with forked(self.seed):
                inputs, _ = next(self.task.train.shuffled(self.batch, torch.Generator().manual_seed(self.seed)))
                return Fuser.of(self.task.model, laid_out(inputs))
        except Unfusable as wrong:
            return str(wrong)

    @cached_property
    def _peculiar(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """By layer: the dense network's variance on a trial's images, and its mean and variance on many less those."""
        if self.reference <= self.images or not self.images:
            return {}
        with forked(self.seed):
            few = statistics(self.task.model, self._calibration, self.precision)
            many = statistics(self.task.model, self._drawn(self.reference), self.precision)
        return {k: (var, many[k][0] - mean, many[k][1] / var.clamp(min=1e-12)) for k, (mean, var) in few.items()}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.task.model.named_parameters()), **dict(self.task.model.named_buffers())}

    @cached_property
    def _ranked(self) -> list[Units]:
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    @cached_property
    def _calibration(self) -> Replay:
        return Replay(lambda: self._drawn(self.images))

    def _drawn(self, images: int) -> Iterator[Batch]:
        shuffled = self.task.train.shuffled(self.batch, torch.Generator().manual_seed(self.seed))
        return islice(shuffled, images // self.batch)

    @cached_property
    def _holdout(self) -> Ready:
        return Ready(self.task.holdout.head(self.holdout) if self.holdout else self.task.holdout)

    @cached_property
    def _probe(self) -> Tensor:
        inputs, _ = next(self.task.holdout.head(_PROBED).batches(_PROBED))
        return laid_out(inputs)


@dataclass(frozen=True)
class Careful:
    """An evaluator without short cuts, to compare with: all images, full precision, layer by layer.

    Attributes:
        realise: makes the pruned network.
        scored: the evaluator whose statistics and score are done carefully here.
    """

    realise: Callable[[Policy], nn.Module]
    scored: Recalibrate

    def metric(self, model: nn.Module) -> float:
        """The metric on the whole holdout, with statistics of as many images as the dense network's."""
        it = self.scored
        with forked(it.seed):
            if it.images:
                recalibrate(model, it._drawn(max(it.images, it.reference)), "fp32")
            return float(it.task.metric(model.eval(), it.task.holdout))


def statistics(model: nn.Module, batches: Iterable[Batch], precision: str) -> Statistics:
    """Those that `recalibrate` would give the BatchNorms of `model`, which is only read."""
    twin = copy.deepcopy(model)
    recalibrate(twin, batches, precision)
    return {layer: (norm.running_mean, norm.running_var) for layer, norm in _norms(twin)}  # type: ignore[misc]


def _norms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The BatchNorms with statistics, by name."""
    found = ((name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm))
    return [(name, norm) for name, norm in found if norm.running_mean is not None]


def _kept(values: Tensor, stay: NDArray[np.bool_] | None) -> Tensor:
    return values if stay is None else values[torch.from_numpy(stay).to(values.device)]


def _correct(norm: _BatchNorm, var: Tensor, shift: Tensor, ratio: Tensor) -> None:
    """Take off the statistics of `norm` what is peculiar about its images.

    `var` is the dense network's variance on them; `shift` and `ratio` are how its mean and variance differ on many.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if len(var) == len(norm.running_mean):  # else a network that was made elsewhere: its channels are not known
        norm.running_mean += shift * (norm.running_var / var.clamp(min=1e-12)).sqrt()
        norm.running_var *= ratio


def recalibrate(model: nn.Module, batches: Iterable[Batch], precision: str = "fp32") -> None:
    """Give every BatchNorm of `model` the mean statistics of `batches`; leaves it in eval mode, channels last."""
    device = next(model.parameters()).device
    with reestimating(model) as norms, torch.no_grad(), running(precision, device):
        for inputs, _ in batches if norms else ():
            model(inputs.to(device))


@contextlib.contextmanager
def reestimating(model: nn.Module) -> Iterator[int]:
    """Inside, forward passes of `model` make new BatchNorm statistics, and it normalises by each batch's own.

    Gives the number of BatchNorms; leaves the model in eval mode, channels last.
    """
    model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    norms = [norm for _, norm in _norms(model)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for the mean over all batches
        norm.train()
    yield len(norms)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def _refuse_nonfinite(model: nn.Module, inputs: Tensor) -> None:
    """A network full of NaN still has an accuracy: look at its outputs, too."""
    with torch.inference_mode():
        outputs = model(inputs)
    if isinstance(outputs, Tensor) and not bool(outputs.isfinite().all()):
        raise TrialFailed("the pruned network's outputs are not finite on holdout images")
