"""Make the pruned network: slice tensors by index tables, leave modules out. Only this file changes shapes of weights.

Nothing is traced or guessed here: `structure.trace` found which positions of which tensors belong to each unit. What
comes out is a candidate, which knows whose it is.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from autoprune.copies import computed
from autoprune.structure import recurrent, weights
from autoprune.structure.attention import prunable, widths
from autoprune.structure.edits import Edit, Resize, Skip, sliced
from autoprune.structure.heads import CONFIG
from autoprune.structure.skipped import Answer, Skipped, inside, renumber
from autoprune.values.space import Policy

Units = NDArray[np.int64]
Stay = Mapping[str, Mapping[int, NDArray[np.bool_]]]  # by tensor and dimension, which positions stay

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Identity)
_NUMBERS, _EMPTY = (bool, int, float, str, type(None)), (dict, OrderedDict, set)


class Traced(Protocol):
    """What is needed of a trace: the edits of each choice."""

    @property
    def edits(self) -> Sequence[Sequence[Edit]]:
        """edits[i] are those of choice i."""
        ...

    @property
    def resizes(self) -> Sequence[Resize]:
        """The numbers that count units of choices."""
        ...


@dataclass(frozen=True)
class Candidate:
    """The pruned network of a policy.

    Attributes:
        policy: what it is of.
        model: the network, which shares no tensor with the dense one.
        stay: which positions of each of the dense network's tensors it has kept; tensors that stay whole are left out.
        gone: the modules that it lacks, by name.
    """

    policy: Policy
    model: nn.Module
    stay: Stay = field(default_factory=dict)
    gone: frozenset[str] = frozenset()


def order(scores: Sequence[Tensor]) -> list[Units]:
    """The units of each choice, most important first; ties go to the lower index."""
    return [torch.argsort(s.double(), descending=True, stable=True).numpy() for s in scores]


def keep_first(ranked: Sequence[Units], levels: Sequence[int]) -> list[Units]:
    """The `levels[i]` most important units of each choice i, in ascending order."""
    return [np.sort(units[:count]) for units, count in zip(ranked, levels, strict=True)]


def made(
    model: nn.Module,
    trace: Traced,
    policy: Policy,
    ranked: Sequence[Units],
    values: Mapping[str, Tensor] = MappingProxyType({}),
) -> Candidate:
    """The candidate of `policy`, with the units that `ranked` puts first; `values` stand in for tensors of `model`."""
    units = keep_first(ranked, policy.levels)
    stay, without = staying(model, trace.edits, units), skips(trace.edits, units)
    return Candidate(
        policy, slices(model, stay, trace.resizes, values=values, without=without), stay, frozenset(without)
    )


def prune(model: nn.Module, trace: Traced, units: Sequence[Units]) -> nn.Module:
    """A new network in which choice i has `units[i]` left, ascending indices; it shares no tensor with `model`."""
    stay, without = staying(model, trace.edits, units), skips(trace.edits, units)
    return slices(model, stay, trace.resizes, without=without)


def slices(
    model: nn.Module,
    stay: Stay,
    resizes: Sequence[Resize] = (),
    *,
    share: bool = False,
    values: Mapping[str, Tensor] = MappingProxyType({}),
    without: Mapping[str, Answer] = MappingProxyType({}),
) -> nn.Module:
    """As `prune`, where it is known what stays of each tensor; `values` stand in for tensors of `model`.

    With `share`, parameters that stay whole are the dense network's own. `without` are the modules that are left out,
    with what answers in their place.
    """
    tensors, modules = _tensors(model), dict(model.named_modules(remove_duplicate=False))
    memo = computed(model) | ({id(t): t for t in model.parameters()} if share else {})
    memo |= {id(modules[name]): Skipped(answer, modules[name]) for name, answer in without.items()}
    for name in dict.fromkeys((*stay, *values)):
        if all(mask.any() for mask in stay.get(name, {}).values()):
            memo[id(tensors[name])] = _sliced(tensors[name], values.get(name, tensors[name]), stay.get(name, {}))
    for name, module in modules.items():
        if type(module) in _PLAIN and id(module) not in memo and not inside(name, without):
            _copy(module, memo)
    pruned = copy.deepcopy(model, memo)  # what is in the memo is taken as it is; only the rest is copied
    if stay:
        prunable(pruned)
    weights.refresh(pruned)
    if without:
        renumber(pruned)
    for name, new in pruned.named_modules():
        if not isinstance(new, Skipped):
            _match_attributes(new, modules[name])
    _resize(pruned, model, [one for one in resizes if not inside(one.module, without)], stay)
    return pruned


def _resize(pruned: nn.Module, model: nn.Module, resizes: Sequence[Resize], stay: Stay) -> None:
    """Let the numbers of `pruned` fall from what they are in `model`; one of a config, if all say the same of it."""
    falls: dict[tuple[str, str], int] = {}
    for one in resizes:
        mask, at = stay.get(one.tensor, {}).get(one.dim), (one.module, one.attribute)
        falls[at] = falls.get(at, 0) + (0 if mask is None else one.each * int((~mask[one.index]).sum()))
    shared: dict[tuple[int, str], set[int]] = {}
    for (name, attribute), fall in falls.items():
        _, config, word = attribute.rpartition(f"{CONFIG}.")
        dense, new = model.get_submodule(name), pruned.get_submodule(name)
        if config:
            said = shared.setdefault((id(new.config), word), set())
            said.add(fall)
            vars(new.config)[word] = vars(dense.config)[word] - (fall if len(said) == 1 else 0)
        elif fall:
            setattr(new, word, getattr(dense, word) - fall)


def skips(edits: Sequence[Sequence[Edit]], units: Sequence[Units]) -> dict[str, Answer]:
    """The modules that are left out, those of choices of which no unit stays, and what answers in their place."""
    gone = (group for group, stay in zip(edits, units, strict=True) if not len(stay))
    return {one.module: one.answer for group in gone for one in group if isinstance(one, Skip)}


def staying(model: nn.Module, edits: Sequence[Sequence[Edit]], units: Sequence[Units]) -> Stay:
    """For each tensor of `model` that is cut and each of its dimensions, which positions stay.

    Of a tensor that leaves as a whole, none of its first dimension.
    """
    tensors = _tensors(model)
    gone = leaving(model, frozenset(skips(edits, units)))
    masks: dict[str, dict[int, NDArray[np.bool_]]] = {}
    for group, stay in zip(edits, units, strict=True):
        for one in sliced(group):
            if len(stay) == len(one.index) or one.tensor in gone:
                continue
            lost = np.ones(len(one.index), dtype=np.bool_)
            lost[stay] = False
            dims = masks.setdefault(one.tensor, {})
            mask = dims.setdefault(one.dim, np.ones(tensors[one.tensor].shape[one.dim], dtype=np.bool_))
            mask[one.index[lost].ravel()] = False
    whole = {name: {0: np.zeros(len(tensors[name]), dtype=np.bool_)} for name in gone if tensors[name].dim()}
    return {**masks, **whole}


def leaving(model: nn.Module, modules: frozenset[str]) -> frozenset[str]:
    """The parameters and buffers of `model`, by their first name, that leave with `modules`: none that others use."""
    first: dict[int, str] = {}
    stays = set[int]()
    for tensors in (model.named_parameters, model.named_buffers) if modules else ():
        for name, tensor in tensors(remove_duplicate=False):
            first.setdefault(id(tensor), name)
            if not inside(name, modules):
                stays.add(id(tensor))
    return frozenset(name for one, name in first.items() if one not in stays)


def _copy(module: nn.Module, memo: dict[int, object]) -> None:
    """Put into `memo` what deepcopy would make of `module`, faster: most of what it holds is empty or a number."""
    made = memo[id(module)] = type(module).__new__(type(module))
    for name, value in vars(module).items():
        if isinstance(value, _NUMBERS) or (type(value) is tuple and all(isinstance(one, _NUMBERS) for one in value)):
            vars(made)[name] = value
        else:
            vars(made)[name] = type(value)() if type(value) in _EMPTY and not value else copy.deepcopy(value, memo)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def narrowed(tensor: Tensor, stay: Mapping[int, NDArray[np.bool_]]) -> Tensor:
    """The positions of each dimension of `tensor` that stay, with gradients; itself where all do."""
    for dim, mask in stay.items():
        tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))
    return tensor


def _sliced(tensor: Tensor, value: Tensor, stay: Mapping[int, NDArray[np.bool_]]) -> Tensor:
    """What stays of `value`, as the kind of tensor that `tensor` is."""
    with torch.no_grad():
        part = narrowed(value.detach(), stay) if stay else value.detach().clone()
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            part = part.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def _match_attributes(module: nn.Module, dense: nn.Module) -> None:
    """Make what a module says of its sizes agree with its weights."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        for name, size in recurrent.sizes(module).items():
            setattr(module, name, size)
        return
    if isinstance(module, nn.MultiheadAttention):
        for name, size in widths(module).items():
            setattr(module, name, size)
        return
    weight = getattr(dense, "weight", None)
    if not isinstance(weight, Tensor) or not isinstance(module.weight, Tensor) or weight.shape == module.weight.shape:
        return
    for name, value in sizes(module, dense).items():
        setattr(module, name, value)


def sizes(module: nn.Module, dense: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """The size attributes that `module` should have, given its weight and the dense module it comes from."""
    shape, before = _shape(module), _shape(dense)
    if isinstance(dense, _ConvNd):
        return _conv_sizes(dense, shape, before)
    if isinstance(dense, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(dense, _NormBase):
        return {"num_features": shape[0]}
    if isinstance(dense, nn.GroupNorm):
        groups = dense.num_groups * shape[0] // before[0] if dense.num_groups > 1 else 1
        return {"num_channels": shape[0], "num_groups": groups}
    if isinstance(dense, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": shape}
    if isinstance(dense, nn.PReLU):
        return {"num_parameters": shape[0]}
    if isinstance(dense, nn.Embedding):
        return {"embedding_dim": shape[1]}
    if type(dense).__name__ == "Conv1D" and hasattr(dense, "nf"):  # of transformers: Linear with its weight turned
        return {"nx": shape[0], "nf": shape[1]}
    return {}


def _conv_sizes(dense: _ConvNd, shape: tuple[int, ...], before: tuple[int, ...]) -> dict[str, int | tuple[int, ...]]:
    """Of a kernel (out, in / groups, ...), or transposed (in, out / groups, ...)."""
    groups = dense.groups * shape[0] // before[0] if dense.groups > 1 else 1
    first, second = shape[0], shape[1] * groups
    inputs, outputs = (first, second) if dense.transposed else (second, first)
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


def _shape(module: nn.Module) -> tuple[int, ...]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape)
