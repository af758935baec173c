"""BatchNorm statistics: how they are estimated anew, and what is peculiar about the images that they are of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.copies import copied
from autoprune.engine.fused import Statistics
from autoprune.engine.memory import lay_out
from autoprune.engine.precision import running
from autoprune.engine.steps import Moments, moments
from autoprune.inputs import call, device_of, moved
from autoprune.structure.prune import Stay
from autoprune.task import Batch

_LEAST = 1e-12  # variance
_FARTHEST = 1.0  # standard deviations by which few images may move a mean, and the logarithm of a variance
_ALIKE = 0.17  # difference of widths, as shares of a layer, at which likeness has fallen to exp(-1/2)
_REACH = 8  # layers back at which a width matters less by a factor of e
_NOISE = 0.3  # variance among networks of equal widths, as a share of what widths explain
_UNSEEN = 1e9  # the same of a network that lacks the channel: it says nothing

Seen = tuple[Statistics, Statistics, Stay]
"""Of a network: its statistics on few images, on many, and which channels it has."""


@dataclass(frozen=True)
class Peculiar:
    """How statistics on a trial's images differ from those on many, in networks for which both are known.

    What to add to a mean, in standard deviations, and to the logarithm of a variance is guessed from those networks. In
    each layer those count most in which the layers before it are about as wide as in the network that is corrected
    (Gaussian process regression: Rasmussen and Williams 2006, equation 2.25).

    Attributes:
        whole: by layer, all True for each of its channels; in the order in which layers are computed, or declared where
            the network cannot be fused.
        usual: (2, channels of all layers), what to add to a mean and to a logarithm, on average over the networks.
        pulls: (channels of all layers, networks, 2), what a network adds to that, times how alike it is.
        widths: (networks, layers), the shares of its channels that each layer has.
    """

    whole: Mapping[str, NDArray[np.bool_]]
    usual: Tensor
    pulls: Tensor
    widths: Tensor

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Peculiar:
        """From networks, the dense one first; from none, nothing is ever corrected."""
        if not seen:
            return cls({}, torch.zeros(2, 0), torch.zeros(0, 0, 2), torch.zeros(0, 0))
        whole = {layer: np.ones(len(mean), dtype=np.bool_) for layer, (mean, _) in seen[0][0].items()}
        sizes = [mask.size for mask in whole.values()]
        said, have = torch.zeros(len(seen), sum(sizes), 2), torch.zeros(len(seen), sum(sizes), dtype=torch.bool)
        for number, (few, many, stay) in enumerate(seen):
            held, known = _known(few, stay, whole)
            if known:
                (mean, var), (true, spread) = _joined(few, known), _joined(many, known)
                var, spread = var.clamp(min=_LEAST), spread.clamp(min=_LEAST)
                differs = torch.stack([(true - mean) / var.sqrt(), (spread / var).log()], 1)
                said[number, held], have[number] = differs.clamp(-_FARTHEST, _FARTHEST).to(said), held
        usual = said.sum(0) / have.sum(0).clamp(min=1)[:, None]
        others = torch.where(have[:, :, None], said - usual, 0)
        widths = torch.stack([_widths(few, whole) for few, *_ in seen])
        alike = torch.stack([_alike(one, widths) for one in widths], 1)
        noise = torch.where(have.T, _NOISE, _UNSEEN)
        pulls = torch.linalg.solve(_by_channel(alike, sizes) + torch.diag_embed(noise), others.transpose(0, 1))
        return cls(whole, usual.T, pulls, widths)

    def corrected(self, found: Statistics, stay: Stay) -> Statistics:
        """`found`, by layer, without what is peculiar about the images that they are of.

        A layer of a network that was made elsewhere stays as it is where its channels are not known.
        """
        held, known = _known(found, stay, self.whole)
        if not known:
            return found
        mean, var = _joined(found, known)
        shift, growth = self._guessed(found)[:, held].to(mean)
        counts = [len(found[k][0]) for k in known]
        means = (mean + shift * var.sqrt()).split(counts)
        return {**found, **dict(zip(known, zip(means, (var * growth.exp()).split(counts), strict=True), strict=True))}

    def _guessed(self, found: Statistics) -> Tensor:
        """What to add to means and logarithms in a network of the widths of `found`, (2, channels of all layers)."""
        alike = _alike(_widths(found, self.whole), self.widths)
        by_channel = _by_channel(alike, [mask.size for mask in self.whole.values()])
        return self.usual + torch.einsum("cn,cns->sc", by_channel, self.pulls)


def _widths(found: Statistics, whole: Mapping[str, NDArray[np.bool_]]) -> Tensor:
    """The share of its channels that each layer has, (layers,)."""
    return torch.tensor([len(found[k][0]) / mask.size if k in found else 1.0 for k, mask in whole.items()])


def _alike(one: Tensor, others: Tensor) -> Tensor:
    """How alike two networks are up to each layer, in (0, 1], from widths: (layers, others)."""
    numbers = torch.arange(float(len(one)))
    matters = torch.exp(-(numbers[:, None] - numbers).abs() / _REACH).tril(-1)  # of each layer before a layer
    matters[1:] /= matters[1:].sum(1, keepdim=True)
    return torch.exp(-matters @ ((others - one) ** 2).T / (2 * _ALIKE**2))


def _by_channel(layers: Tensor, sizes: Sequence[int]) -> Tensor:
    """What holds for each layer, (layers, ...), for each of its channels."""
    return layers.repeat_interleave(torch.tensor(sizes, dtype=torch.long), 0)


def _known(found: Statistics, stay: Stay, whole: Mapping[str, NDArray[np.bool_]]) -> tuple[Tensor, list[str]]:
    """Which channels of all layers `found` speaks of, and the layers where that is known."""
    masks = {layer: _mask(stay, layer, mask) for layer, mask in whole.items()}
    known = [k for k, mask in masks.items() if k in found and len(found[k][0]) == np.count_nonzero(mask)]
    held = [mask if k in known else np.zeros_like(mask) for k, mask in masks.items()]
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.bool_), *held])), known


def _joined(found: Statistics, known: Sequence[str]) -> Moments:
    """The moments of the channels of the layers `known`, one after the other."""
    mean, var = (torch.cat(part) for part in zip(*(found[layer] for layer in known), strict=True))
    return mean, var


def _mask(stay: Stay, layer: str, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which channels of `layer` a network has."""
    return stay.get(f"{layer}.weight", {}).get(0, whole)


def statistics(model: nn.Module, batches: Iterable[Batch], precision: str) -> Statistics:
    """Those that `recalibrate` would give the BatchNorms of `model`, which is only read."""
    twin = copied(model)
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
    device = device_of(model)
    with reestimating(model) as norms, torch.no_grad(), running(precision, device):
        for inputs, _ in batches if norms else ():
            call(model, moved(inputs, device))


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
