"""Where a group is proven: the whole network, or a module of it called as the network calls it.

The smaller the place, the cheaper the proof: the module that holds all tensors of a group is a block of many, and
most networks take smaller images than those that they were made for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.copies import copied
from autoprune.errors import first_line
from autoprune.inputs import Inputs, arguments, mapped, moved, tensors
from autoprune.structure.edits import Index, Resize, Slice
from autoprune.structure.failures import explained
from autoprune.structure.prune import slices, staying

TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by far less
EFFECT = 1e-3  # of the largest output: what ignoring the units must change at least, or nothing is proven
_SIDES = (64, 128)  # of small images, where those of the example are at least twice as large

Cuts = Sequence[Sequence[Slice]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a scene does not prove what was cut.

    Attributes:
        why: in words.
        fails: whether what is left cannot run at all.
    """

    why: str
    fails: bool = False


NO_EFFECT = Doubt("leaving its units out changes nothing that could be seen")


@dataclass(frozen=True)
class Scene:
    """A module and how it is called.

    Attributes:
        name: of the module in the network; "" is the network itself.
        module: the module, with random weights. It is changed while `refute` runs and is afterwards as before.
        calls: all arguments of each call.
        dense: all that it answers, as one vector.
        scale: what is taken of the tolerances.
        random: whether it answers something else each time, so that only shapes can be compared.
        resizes: the numbers on it and on what it holds that count units.
    """

    name: str
    module: nn.Module
    calls: tuple[Arguments, ...]
    dense: Tensor
    scale: float = 1.0
    random: bool = False
    resizes: tuple[Resize, ...] = ()

    def refute(self, cuts: Cuts, units: Sequence[Index], *, shapes_only: bool) -> Doubt | None:
        """Why cutting each group to its `units` is not what ignoring all others is; None if it is."""
        cuts = [[self._own(one) for one in group] for group in cuts]
        pruned = self._pruned(cuts, units)
        if isinstance(pruned, Doubt):
            return pruned
        if pruned.shape != self.dense.shape:
            return Doubt("changes the size of the network's output")
        if shapes_only or self.random:
            return None
        with _ignoring(self.module, cuts, units):
            ignored = _answers(self.module, self.calls)
        return _compare(self.dense, ignored, pruned, self.scale)

    def precise(self) -> Scene:
        """The same in double precision; itself, where the module asks for single precision."""
        module, calls = copied(self.module).double(), moved(self.calls, torch.float64)
        try:
            dense = _answers(module, calls)
        except Exception:  # whatever a network raises on numbers of another type
            return self
        return dataclasses.replace(self, module=module, calls=calls, dense=dense, scale=1e-6)

    def _pruned(self, cuts: Cuts, units: Sequence[Index]) -> Tensor | Doubt:
        try:
            left = slices(self.module, staying(self.module, cuts, units), self.resizes, share=True)
        except Exception as wrong:
            return Doubt(f"cannot be cut: {first_line(wrong)}", fails=True)
        try:
            return _answers(left, self.calls)
        except Exception:
            return Doubt(explained(left, self.name, lambda: _answers(left, self.calls)), fails=True)

    def _own(self, one: Slice) -> Slice:
        return dataclasses.replace(one, tensor=one.tensor.removeprefix(f"{self.name}.")) if self.name else one


def whole(probe: nn.Module, example: Inputs, resizes: tuple[Resize, ...] = ()) -> Scene:
    """The network on `example`."""
    calls = (arguments(example),)
    dense = _answers(probe, calls)
    random = probe.training and not torch.equal(dense, _answers(probe, calls))
    return Scene("", probe, calls, dense, random=random, resizes=resizes)


def smaller(network: Scene, homes: Sequence[str]) -> tuple[Scene, dict[str, Scene]]:
    """The network on one sample, and of images on the smallest that it takes; itself where it takes none of these.

    And for each of the modules `homes` of it, that module or the next larger one that the network calls, with all its
    calls; without the network.
    """
    around = {home: [home.rsplit(".", up)[0] for up in range(home.count(".") + 1)] for home in homes if home}
    for side in (*_SIDES, 0):
        try:
            small, seen = _watched(network, mapped(network.calls, partial(_corner, side=side)), around)
        except Exception:  # what a network of another size raises
            continue
        return small, _inside(small, seen, around)
    return network, _inside(network, _watched(network, network.calls, around)[1], around)


@dataclass
class _Seen:
    """How the network calls a module: all arguments of each call, and what it answers."""

    calls: list[Arguments] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append(mapped((args, kwargs), Tensor.clone))

    def leave(self, module: nn.Module, args: object, outputs: Any) -> None:
        self.answers.append(_numbers(outputs))


def _watched(
    network: Scene, calls: tuple[Arguments, ...], around: Mapping[str, Sequence[str]]
) -> tuple[Scene, dict[str, _Seen]]:
    """The network with these `calls`, and how it calls each module of `around`."""
    seen = {name: _Seen() for names in around.values() for name in names}
    with contextlib.ExitStack() as hooks:
        for name, one in seen.items():
            module = network.module.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(one.enter, prepend=True, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(one.leave).remove)
        return dataclasses.replace(network, calls=calls, dense=_answers(network.module, calls)), seen


def _inside(network: Scene, seen: Mapping[str, _Seen], around: Mapping[str, Sequence[str]]) -> dict[str, Scene]:
    called = {name: one for name, one in seen.items() if one.calls}
    made: dict[str, Scene] = {}
    for home, names in around.items():
        if name := next((name for name in names if name in called), ""):
            one, module = called[name], network.module.get_submodule(name)
            own = tuple(_within(network.resizes, name))
            made[home] = Scene(name, module, tuple(one.calls), torch.cat(one.answers), resizes=own)
    return made


def _within(resizes: Sequence[Resize], name: str) -> Iterator[Resize]:
    """Those of the module `name`, with names as they are in it."""
    for one in resizes:
        if f"{one.module}.".startswith(f"{name}.") and one.tensor.startswith(f"{name}."):
            tensor, module = one.tensor.removeprefix(f"{name}."), one.module[len(name) + 1 :]
            yield dataclasses.replace(one, tensor=tensor, module=module)


def looks(scene: Scene, cuts: Sequence[Slice]) -> object:
    """What two groups have in common that are cut alike in modules of one class, called alike: all but names."""
    shapes = [[tuple(t.shape) for t in tensors(call)] for call in scene.calls]
    edits = tuple((c.tensor.removeprefix(scene.name), c.dim, c.role, c.index.shape, c.index.tobytes()) for c in cuts)
    return type(scene.module), repr(shapes), edits


def home(cuts: Sequence[Slice]) -> str:
    """The name of the smallest module that holds all these tensors; "" is the network."""
    levels = zip(*(one.tensor.split(".")[:-1] for one in cuts), strict=False)
    return ".".join(steps[0] for steps in itertools.takewhile(lambda steps: len(set(steps)) == 1, levels))


def _corner(tensor: Tensor, side: int) -> Tensor:
    """The first sample; of images (n, c, ..., height, width) at least twice as large, a corner that has that side."""
    shorter = min(tensor.shape[-2:]) if tensor.dim() >= 4 and tensor.is_floating_point() else 0
    if not side or shorter < 2 * side:
        return tensor[:1]
    height, width = (32 * round(length * side / shorter / 32) for length in tensor.shape[-2:])
    return tensor[:1, ..., :height, :width].contiguous()


def _answers(model: nn.Module, calls: Sequence[Arguments]) -> Tensor:
    """All floating-point numbers that `model` answers, as one vector; it may change its arguments in place."""
    with torch.no_grad():
        return _numbers([model(*args, **kwargs) for args, kwargs in mapped(list(calls), Tensor.clone)])


def _numbers(outputs: Any) -> Tensor:
    """All floating-point numbers of `outputs`, copied."""
    return torch.cat([torch.zeros(0), *(t.flatten() for t in tensors(outputs) if t.is_floating_point())])


def _compare(dense: Tensor, ignored: Tensor, pruned: Tensor, scale: float) -> Doubt | None:
    if not dense.numel():
        return NO_EFFECT
    largest = float(dense.abs().max())
    apart = float((pruned - ignored).abs().max())
    if not math.isfinite(apart) or not largest:
        return Doubt("the outputs are not finite, so nothing can be compared")
    if apart > TOLERANCE * scale * largest:
        return Doubt(f"the pruned network computes something else (off by {apart / largest:.1e} of its output)")
    if float((dense - ignored).abs().max()) < EFFECT * scale * largest:
        return NO_EFFECT
    return None


@contextlib.contextmanager
def _ignoring(probe: nn.Module, cuts: Cuts, units: Sequence[Index]) -> Iterator[None]:
    """Inside, the layers that read the units that leave do not read them: their columns are zero."""
    known = {**dict(probe.named_parameters()), **dict(probe.named_buffers())}
    saved: list[tuple[Tensor, Tensor]] = []
    for group, stay in zip(cuts, units, strict=True):
        for one in (c for c in group if c.role == "in" or c.tied):
            tensor = known[one.tensor].data
            saved.append((tensor, tensor.clone()))
            gone = np.setdiff1d(np.arange(len(one.index)), stay)
            tensor.index_fill_(one.dim, torch.from_numpy(one.index[gone].ravel()), 0.0)
    try:
        yield
    finally:
        for tensor, values in reversed(saved):
            tensor.copy_(values)
