"""BatchNorm statistics: how they are estimated anew, and what is peculiar about the images that they are of."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.fused import moments
from autoprune.layout import lay_out
from autoprune.precision import running
from autoprune.prune import Stay
from autoprune.task import Batch

Moments = tuple[Tensor, Tensor]  # mean and variance of each channel
Statistics = Mapping[str, Moments]  # by layer


@dataclass(frozen=True)
class Peculiar:
    """How the dense network's statistics on a trial's images differ from those on many.

    Attributes:
        whole: by layer, all True for each of its channels.
        values: (3, channels of all layers): the variance, and what to add to a mean and to multiply a variance with.
    """

    whole: Mapping[str, NDArray[np.bool_]]
    values: Tensor

    @classmethod
    def of(cls, few: Statistics, many: Statistics) -> Peculiar:
        """What is peculiar about the images of `few`, where those of `many` are many."""
        values = [
            torch.stack([var, many[k][0] - mean, many[k][1] / var.clamp(min=1e-12)]) for k, (mean, var) in few.items()
        ]
        whole = {layer: np.ones(len(mean), dtype=np.bool_) for layer, (mean, _) in few.items()}
        return cls(whole, torch.cat(values, 1) if values else torch.empty(3, 0))

    def corrected(self, found: Statistics, stay: Stay) -> Statistics:
        """`found`, by layer, without what is peculiar about the images that they are of.

        A layer of a network that was made elsewhere stays as it is where its channels are not known.
        """
        masks = {k: stay.get(f"{k}.weight", {}).get(0, whole) for k, whole in self.whole.items()}
        known = [k for k, mask in masks.items() if k in found and len(found[k][0]) == np.count_nonzero(mask)]
        if not known:
            return found
        kept = np.concatenate([mask if k in known else np.zeros_like(mask) for k, mask in masks.items()])
        mean, var = (torch.cat(part) for part in zip(*(found[k] for k in known), strict=True))
        dense, shift, ratio = self.values[:, torch.from_numpy(kept).to(mean.device)]
        counts = [len(found[k][0]) for k in known]
        means = (mean + shift * (var / dense.clamp(min=1e-12)).sqrt()).split(counts)
        return {**found, **dict(zip(known, zip(means, (var * ratio).split(counts), strict=True), strict=True))}


def statistics(model: nn.Module, batches: Iterable[Batch], precision: str) -> Statistics:
    """Those that `recalibrate` would give the BatchNorms of `model`, which is only read."""
    twin = copy.deepcopy(model)
    recalibrate(twin, batches, precision)
    return {layer: moments(norm) for layer, norm in norms_of(twin)}


def norms_of(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The BatchNorms with statistics, by name."""
    found = ((name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm))
    return [(name, norm) for name, norm in found if norm.running_mean is not None]


def mean_of(parts: Sequence[Moments]) -> Moments:
    """Of as many images each."""
    means, variances = zip(*parts, strict=True)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


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
    lay_out(model.eval())
    norms = [norm for _, norm in norms_of(model)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for the mean over all batches
        norm.train()
    yield len(norms)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
