"""What the layers that read prunable channels see in the dense network: the second moments of their inputs.

A convolution multiplies its weight with *columns*: the input under the kernel at one output position, laid out as
(channel, position in the kernel). A linear layer behind a flattened image has columns of that kind, too. From the
moments of the columns follows, in closed form, the best weight on any subset of the channels (`least_squares`). The
solution is exact (over the sampled columns) unless a layer has too many columns for a Gram matrix of them; then the
positions of the kernel share one Gram matrix of the channels and one solution. So they do where there are too few
samples of the columns to tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from autoprune.copies import copied
from autoprune.inputs import call, device_of, moved
from autoprune.structure.edits import Slice
from autoprune.task import Batch

ENOUGH = 2  # samples for each column, if every column is to have its own solution
_CONVOLUTIONS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer whose weight can be solved for.

    Attributes:
        channels, positions: its columns; a channel leaves with all of its positions.
        shared: whether the positions must share one Gram matrix of the channels.
    """

    channels: int
    positions: int
    shared: bool


@dataclass
class Moments:
    """Of the columns of one layer, (channels, positions) each.

    Attributes:
        gram: (d, d), the mean product of any two columns; d = channels x positions, or channels where these are shared.
            Of the columns less their mean where the layer has a bias to take up the difference.
        mean: (channels, positions).
        count: how many samples.
    """

    gram: Tensor
    mean: Tensor
    count: int = 0

    @property
    def shared(self) -> bool:
        """Whether the positions share one Gram matrix of the channels."""
        return len(self.gram) < self.mean.numel()

    @classmethod
    def empty(cls, reader: Reader, device: torch.device) -> Moments:
        """Of no sample yet."""
        size = reader.channels if reader.shared else reader.channels * reader.positions
        mean = torch.zeros(reader.channels, reader.positions, device=device)
        return cls(torch.zeros(size, size, device=device), mean)

    def add(self, columns: Tensor) -> None:
        """Sum up `columns`, shape (n, channels, positions)."""
        rows = columns.transpose(1, 2).flatten(0, 1) if self.shared else columns.flatten(1)  # (n or n * positions, d)
        self.gram.addmm_(rows.T, rows)
        self.mean += columns.sum(0)
        self.count += len(columns)

    def finish(self, centred: bool) -> None:
        """Make means of the sums."""
        if self.count < ENOUGH * len(self.gram) and not self.shared:
            self.gram = self.gram.view(*self.mean.shape, *self.mean.shape).diagonal(dim1=1, dim2=3).sum(-1)
        self.gram /= self.count
        self.mean /= self.count
        if centred:
            rows = self.mean.T if self.shared else self.mean.reshape(1, -1)  # (., d)
            self.gram.addmm_(rows.T, rows, alpha=-1)


def readers(model: nn.Module, cuts: Iterable[Sequence[Slice]], most: int) -> tuple[dict[str, Reader], dict[str, str]]:
    """The layers that read groups with these `cuts` and can be solved for, by name; and why the others cannot."""
    by_layer: dict[str, list[Slice]] = {}
    for one in (cut for group in cuts for cut in group if cut.role == "in"):
        by_layer.setdefault(one.layer, []).append(one)
    modules, names = dict(model.named_modules()), [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    found, left = {}, {}
    for layer, read in by_layer.items():
        module = modules.get(layer)
        if not _is_plain(module, layer, read) or names.count(id(module.weight)) > 1:  # type: ignore[union-attr]
            left[layer] = "it is no plain convolution or linear layer"
            continue
        channels, positions = _columns(module, read)
        if channels > most:
            left[layer] = f"it reads {channels:,} channels"
        else:
            found[layer] = Reader(channels, positions, shared=channels * positions > most)
    return found, left


def plain(model: nn.Module, most: int) -> list[str]:
    """Every layer, by name, that multiplies at most `most` columns with a weight of its own."""
    ids = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    found = ((name, m) for name, m in model.named_modules() if _is_plain(m, name, ()))
    return [name for name, m in found if ids.count(id(m.weight)) == 1 and m.weight[0].numel() <= most]


def _is_plain(module: nn.Module | None, layer: str, cuts: Sequence[Slice]) -> bool:
    """Whether `module` multiplies its columns with its weight and does nothing else."""
    if any(cut.tensor != f"{layer}.weight" or cut.dim != 1 for cut in cuts):
        return False
    if isinstance(module, _ConvNd):
        return type(module).forward in _CONVOLUTIONS and module.groups == 1
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _columns(module: nn.Module | None, cuts: Sequence[Slice]) -> tuple[int, int]:
    """Channels of a layer, and columns of each."""
    if isinstance(module, _ConvNd):
        return module.in_channels, math.prod(module.kernel_size)
    assert isinstance(module, nn.Linear)
    run = math.gcd(*(cut.index.shape[1] for cut in cuts))
    flattened = all(_in_runs(cut, run) for cut in cuts) and module.in_features % run == 0
    return (module.in_features // run, run) if flattened else (module.in_features, 1)


def _in_runs(cut: Slice, run: int) -> bool:
    """Whether the positions of every unit are whole runs of `run` neighbours, as flattening an image leaves them."""
    runs = cut.index.reshape(-1, run)
    return bool((runs[:, :1] % run == 0).all() and (runs == runs[:, :1] + np.arange(run)).all())


def collect(
    model: nn.Module, layers: Mapping[str, Reader], batches: Iterable[Batch], *, positions: int, seed: int
) -> dict[str, Moments]:
    """The moments of each of `layers`, at up to `positions` output positions of every image; `model` is only read.

    A layer that is never called is left out.
    """
    twin = copied(model).eval()
    device = device_of(twin)
    found = {layer: Moments.empty(reader, device) for layer, reader in layers.items()}
    generator = torch.Generator().manual_seed(seed)

    def watch(layer: str) -> None:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = args[0] if args else kwargs["input"]
            sampled = columns(module, inputs.float(), positions, generator)
            found[layer].add(sampled.reshape(len(sampled), *found[layer].mean.shape))

        twin.get_submodule(layer).register_forward_pre_hook(hook, with_kwargs=True)

    for layer in layers:
        watch(layer)
    with torch.no_grad():
        for inputs, _ in batches:
            call(twin, moved(inputs, device))
    found = {layer: moments for layer, moments in found.items() if moments.count}
    for layer, moments in found.items():
        moments.finish(centred=twin.get_submodule(layer).bias is not None)
    return found


def columns(module: nn.Module, inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """What `module` multiplies its weight with, at up to `count` random output positions of each image.

    Shape (n, channels x kernel positions), in the order of `weight.flatten(1)`.
    """
    if not isinstance(module, _ConvNd):
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])  # (images, places, features)
        pick = _picked(len(rows), rows.shape[1], count, generator).to(inputs.device)
        return rows[torch.arange(len(rows), device=inputs.device)[:, None], pick].flatten(0, 1)
    padded = _padded(module, inputs)
    starts, offsets = _places(module, padded.shape[2:])
    pick = _picked(len(padded), len(starts), count, generator)
    index = (starts[pick][:, :, None] + offsets).flatten(1).to(inputs.device)  # (images, picked * kernel)
    pixels = padded.flatten(2).transpose(1, 2)  # (images, places, channels)
    taken = pixels[torch.arange(len(pixels), device=inputs.device)[:, None], index]
    return taken.reshape(-1, len(offsets), padded.shape[1]).transpose(1, 2).flatten(1)


def _picked(images: int, places: int, count: int, generator: torch.Generator) -> Tensor:
    """Places of each image, (images, at most `count`): all of them, or some at random, with replacement."""
    if places <= count:
        return torch.arange(places).expand(images, places)
    return torch.randint(places, (images, count), generator=generator)


def _padded(module: _ConvNd, inputs: Tensor) -> Tensor:
    """The inputs as the kernel slides over them."""
    sides: list[int] = []
    for dim in reversed(range(len(module.kernel_size))):  # functional.pad counts from the last
        both = module.dilation[dim] * (module.kernel_size[dim] - 1)
        given = module.padding[dim] if not isinstance(module.padding, str) else 0
        sides += [both // 2, both - both // 2] if module.padding == "same" else [int(given)] * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(inputs, sides, mode=mode) if any(sides) else inputs


def _places(module: _ConvNd, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """In a flattened padded image: where the kernel may start, and where its positions are from there."""
    starts, offsets = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    for dim, size in enumerate(sizes):
        kernel, dilation, stride = module.kernel_size[dim], module.dilation[dim], module.stride[dim]
        along = torch.arange(0, size - dilation * (kernel - 1), stride)
        starts = (starts[:, None] * size + along).flatten()
        offsets = (offsets[:, None] * size + dilation * torch.arange(kernel)).flatten()
    return starts, offsets
