"""The fast evaluator: prune, re-estimate the BatchNorm statistics, score on the holdout.

Pruned layers feed other means and variances forward than their BatchNorms remember; without this step the score of a
pruned network says next to nothing. No weight is trained.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune import criteria
from autoprune.criteria import Scoring
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.inputs import Ready, Replay
from autoprune.precision import laid_out, running
from autoprune.prune import Units, keep_first, order, prune
from autoprune.space import Policy, SearchSpace
from autoprune.task import Batch, Task
from autoprune.trace import Trace
from autoprune.train import forked

_PROBED = 8  # images whose outputs must be finite


@dataclass
class Recalibrate:
    """Prune, re-estimate BatchNorm statistics on training images, score on the holdout.

    Attributes:
        task: the dense network, which is only read, and its images.
        trace: the index tables of its groups.
        space: the policies' space.
        criterion: which units stay; scored once, on the dense network.
        seed: of the calibration images and of a random criterion.
        precision: "fp32" or "bf16".
        images: training images that statistics are estimated on; 0 leaves them.
        batch: images a step of that.
        holdout: holdout images that score a trial; 0 takes them all.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    images: int = 1024
    batch: int = 128
    holdout: int = 0

    def __post_init__(self) -> None:
        if self.images and not self.images >= self.batch >= 2:
            raise ConfigError(f"images={self.images}, batch={self.batch}: images >= batch >= 2 is needed")
        if self.holdout < 0:
            raise ConfigError(f"holdout={self.holdout}: a number of images is needed, or 0 for all")

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, not recovered yet."""
        return prune(self.task.model, self.trace, self.units(policy))

    def units(self, policy: Policy) -> list[Units]:
        """The units of each group that stay."""
        return keep_first(self._ranked, self.space.kept(policy))

    def metric(self, model: nn.Module) -> float:
        """The holdout metric with re-estimated statistics, which `model` then has."""
        with forked(self.seed):
            if self.images:
                recalibrate(model, self._calibration, self.precision)
            else:
                model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            return self._score(model)

    def _score(self, model: nn.Module) -> float:
        device = next(model.parameters()).device
        with running(self.precision, device):
            _refuse_nonfinite(model, self._probe)
            value = float(self.task.metric(model, self._holdout))
        if not math.isfinite(value):
            raise TrialFailed(f"the metric is {value}; it should be a finite number")
        return value

    @cached_property
    def _ranked(self) -> list[Units]:
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    @cached_property
    def _calibration(self) -> Replay:
        return Replay(self._drawn)

    def _drawn(self) -> Iterator[Batch]:
        shuffled = self.task.train.shuffled(self.batch, torch.Generator().manual_seed(self.seed))
        return islice(shuffled, self.images // self.batch)

    @cached_property
    def _holdout(self) -> Ready:
        return Ready(self.task.holdout.head(self.holdout) if self.holdout else self.task.holdout)

    @cached_property
    def _probe(self) -> Tensor:
        inputs, _ = next(self.task.holdout.head(_PROBED).batches(_PROBED))
        return laid_out(inputs)


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
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
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
