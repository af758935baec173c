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

Floats = NDArray[np.float64]

_LEAST = 1e-12  # variance
_FARTHEST = 1.0  # standard deviations by which few images may move a mean, and the logarithm of a variance
_ALIKE = 0.17  # difference of widths, as shares of a layer, beyond which networks say little of each other
_REACH = 8  # layers back over which widths matter to a layer's statistics
_NOISE = 0.3  # variance among networks of equal widths, as a share of what widths explain


@dataclass(frozen=True)
class Peculiar:
    """How statistics on a trial's images differ from those on many, in networks for which both are known.

    What to add to a mean, in standard deviations, and to the logarithm of a variance is guessed from those networks. In
    each layer those count most in which the layers before it are about as wide as in the network that is corrected
    (Gaussian process regression: Rasmussen and Williams 2006, equation 2.25).

    Attributes:
        whole: by layer, in the order of the network, all True for each of its channels.
        usual: (2, channels of all layers), means of both over the networks that have the channel.
        others: (networks, 2, channels of all layers), what a network adds to that; 0 where it lacks the channel.
        widths: (networks, layers), the shares of its channels that each layer has.
        solved: (layers, networks, networks), the inverse of how alike the networks are.
    """

    whole: Mapping[str, NDArray[np.bool_]]
    usual: Tensor
    others: Tensor
    widths: Floats
    solved: Floats

    @classmethod
    def of(cls, seen: Sequence[tuple[Statistics, Statistics, Stay]]) -> Peculiar:
        """From networks, the dense one first: their statistics on few images, on many, and which channels they have."""
        if not seen:
            return cls({}, torch.zeros(2, 0), torch.zeros(0, 2, 0), np.zeros((0, 0)), np.zeros((0, 0, 0)))
        whole = {layer: np.ones(len(mean), dtype=np.bool_) for layer, (mean, _) in seen[0][0].items()}
        total = sum(mask.size for mask in whole.values())
        said, have = torch.zeros(len(seen), 2, total), torch.zeros(len(seen), 1, total, dtype=torch.bool)
        for number, (few, many, stay) in enumerate(seen):
            held, known = _known(few, stay, whole)
            have[number, 0] = torch.from_numpy(held)
            (mean, var), (true, spread) = _joined(few, known), _joined(many, known)
            var, spread = var.clamp(min=_LEAST), spread.clamp(min=_LEAST)
            differs = torch.stack([(true - mean) / var.sqrt(), (spread / var).log()])
            said[number][:, have[number, 0]] = differs.clamp(-_FARTHEST, _FARTHEST).cpu()
        usual = said.sum(0) / have.sum(0).clamp(min=1)
        widths = np.stack([_widths(few, whole) for few, *_ in seen])
        alike = np.stack([_alike(one, widths) for one in widths], axis=1)
        solved: Floats = np.linalg.inv(alike + _NOISE * np.eye(len(seen))).astype(np.float64)
        return cls(whole, usual, torch.where(have, said - usual, 0), widths, solved)

    def corrected(self, found: Statistics, stay: Stay) -> Statistics:
        """`found`, by layer, without what is peculiar about the images that they are of.

        A layer of a network that was made elsewhere stays as it is where its channels are not known.
        """
        held, known = _known(found, stay, self.whole)
        if not known:
            return found
        mean, var = _joined(found, known)
        shift, growth = self._guessed(found)[:, torch.from_numpy(held)].to(mean.device)
        counts = [len(found[k][0]) for k in known]
        means = (mean + shift * var.sqrt()).split(counts)
        return {**found, **dict(zip(known, zip(means, (var * growth.exp()).split(counts), strict=True), strict=True))}

    def _guessed(self, found: Statistics) -> Tensor:
        """(2, channels of all layers), for a network of the widths that `found` has."""
        alike = _alike(_widths(found, self.whole), self.widths)
        shares = torch.from_numpy(np.einsum("ln,lnm->lm", alike, self.solved)).float()
        by_channel = shares.repeat_interleave(torch.tensor([mask.size for mask in self.whole.values()]), 0)
        return self.usual + torch.einsum("cn,nsc->sc", by_channel, self.others)


def _widths(found: Statistics, whole: Mapping[str, NDArray[np.bool_]]) -> Floats:
    """The share of its channels that each layer has, (layers,)."""
    return np.array([len(found[layer][0]) / mask.size if layer in found else 1 for layer, mask in whole.items()])


def _alike(one: Floats, others: Floats) -> Floats:
    """How alike two networks are up to each layer, in (0, 1], from widths: (layers, others)."""
    before = np.subtract.outer(np.arange(len(one)), np.arange(len(one)))  # of how many layers another lies before one
    matters = np.where(before > 0, np.exp(-abs(before) / _REACH), 0)
    matters /= np.maximum(matters.sum(1, keepdims=True), _LEAST)
    return np.asarray(np.exp(-matters @ ((others - one) ** 2).T / (2 * _ALIKE**2)))


def _known(
    found: Statistics, stay: Stay, whole: Mapping[str, NDArray[np.bool_]]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which channels of all layers `found` speaks of, and the layers where that is known."""
    masks = {layer: _mask(stay, layer, mask) for layer, mask in whole.items()}
    known = [k for k, mask in masks.items() if k in found and len(found[k][0]) == np.count_nonzero(mask)]
    held = [mask if k in known else np.zeros_like(mask) for k, mask in masks.items()]
    return np.concatenate(held) if held else np.zeros(0, dtype=np.bool_), known


def _joined(found: Statistics, known: Sequence[str]) -> Moments:
    """The moments of the channels of the layers `known`, one after the other."""
    parts = [found[layer] for layer in known] or [(torch.zeros(0), torch.zeros(0))]
    mean, var = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, var


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
