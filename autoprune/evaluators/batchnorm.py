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

from autoprune.fused import Moments, Statistics, moments
from autoprune.layout import lay_out
from autoprune.precision import running
from autoprune.prune import Stay
from autoprune.task import Batch

_LEAST = 1e-12  # variance
_FARTHEST = 1.0  # standard deviations by which few images may move a mean, and the logarithm of a variance


@dataclass(frozen=True)
class Peculiar:
    """How statistics on a trial's images differ from those on many, in networks for which both are known.

    Attributes:
        whole: by layer, all True for each of its channels.
        values: (2, channels of all layers): what to add to a mean, in standard deviations, and the factor of a
            variance; means over the networks that have the channel.
    """

    whole: Mapping[str, NDArray[np.bool_]]
    values: Tensor

    @classmethod
    def of(cls, seen: Sequence[tuple[Statistics, Statistics, Stay]]) -> Peculiar:
        """From networks, the dense one first: their statistics on few images, on many, and which channels they have."""
        whole = {layer: np.ones(len(mean), dtype=np.bool_) for layer, (mean, _) in (seen[0][0] if seen else {}).items()}
        sums = {layer: torch.zeros(3, mask.size) for layer, mask in whole.items()}
        for few, many, stay in seen:
            for layer, (mean, var) in few.items():
                mask, (true, spread) = _mask(stay, layer, whole[layer]), many[layer]
                if len(mean) == np.count_nonzero(mask):
                    var, spread = var.clamp(min=_LEAST), spread.clamp(min=_LEAST)
                    differs = torch.stack([(true - mean) / var.sqrt(), (spread / var).log()])
                    differs = differs.clamp(-_FARTHEST, _FARTHEST).cpu()
                    sums[layer][:, torch.from_numpy(mask)] += torch.cat([differs, torch.ones(1, len(mean))])
        values = [torch.stack([shift / count, (growth / count).exp()]) for shift, growth, count in sums.values()]
        return cls(whole, torch.cat(values, 1) if values else torch.empty(2, 0))

    def corrected(self, found: Statistics, stay: Stay) -> Statistics:
        """`found`, by layer, without what is peculiar about the images that they are of.

        A layer of a network that was made elsewhere stays as it is where its channels are not known.
        """
        masks = {k: _mask(stay, k, whole) for k, whole in self.whole.items()}
        known = [k for k, mask in masks.items() if k in found and len(found[k][0]) == np.count_nonzero(mask)]
        if not known:
            return found
        kept = np.concatenate([mask if k in known else np.zeros_like(mask) for k, mask in masks.items()])
        mean, var = (torch.cat(part) for part in zip(*(found[k] for k in known), strict=True))
        shift, ratio = self.values[:, torch.from_numpy(kept)].to(mean.device)
        counts = [len(found[k][0]) for k in known]
        means = (mean + shift * var.sqrt()).split(counts)
        return {**found, **dict(zip(known, zip(means, (var * ratio).split(counts), strict=True), strict=True))}


def _mask(stay: Stay, layer: str, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which channels of `layer` a network has."""
    return stay.get(f"{layer}.weight", {}).get(0, whole)


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
