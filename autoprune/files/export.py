"""A pruned network as a safetensors file: the weights, and beside them the sizes of every layer.

`load` cuts the dense architecture to those sizes without tracing anything. What needs no autoprune is written by
`files.programs`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import safetensors.torch
from torch import Tensor, nn

from autoprune import bounded
from autoprune.copies import copied
from autoprune.errors import ModelError, one_line
from autoprune.files import disk, layout, tensors
from autoprune.files.compared import Exported, compare
from autoprune.inputs import Inputs
from autoprune.models import build
from autoprune.models.weights import not_finite, read
from autoprune.structure import recurrent
from autoprune.structure.attention import PrunableAttention, prunable
from autoprune.structure.heads import CONFIG, of_config
from autoprune.structure.skipped import answers_of, leave_out, renumber, skipped
from autoprune.wrappers import bare

WEIGHTS = "model.safetensors"
SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
    "num_groups", "num_channels", "num_parameters", "embedding_dim", "input_size", "hidden_size", "proj_size",
    "nx", "nf",
)  # fmt: skip
_STRICT = pydantic.ConfigDict(strict=True)
_NAMES = pydantic.TypeAdapter(list[str], config=_STRICT)  # what metadata say
_TIES = pydantic.TypeAdapter(dict[str, str], config=_STRICT)
_OF_LAYERS = pydantic.TypeAdapter(dict[str, dict[str, Any]], config=_STRICT)


def save(model: nn.Module, path: str | Path, *, rebuild: str = "", task: str = "") -> None:
    """Write weights and sizes of a network's layers, dense or pruned, to a safetensors file.

    `rebuild` ("task:model", of a built-in architecture) lets `load` do without the dense network.

    Raises FileError.
    """
    state, ties = _distinct(bare(model))
    about = {
        "format": "autoprune",
        "version": "1",
        "task": task,
        "rebuild": rebuild,
        "sizes": json.dumps(_sizes(bare(model)), sort_keys=True),
        "ties": json.dumps(ties, sort_keys=True),
        "skipped": json.dumps(dict(skipped(bare(model))), sort_keys=True),
        "channels_last": json.dumps(layout.channels_last(bare(model))),
    }
    disk.write_bytes(Path(path), tensors.written(state, about))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The pruned network in a `model.safetensors` or a run's directory, in eval mode.

    `model` is the dense network (its weights do not matter; it is not changed); built-in architectures need none.
    Weights lie in memory as those that were saved did: PyTorch sums in another order where they lie otherwise.
    Raises ModelError where the file is damaged or does not belong to the dense network.
    """
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    tensors = read(path)
    about = _about(path)
    dense = build(about["rebuild"]) if model is None and about["rebuild"] else model
    if dense is None:
        raise ModelError(f"{path} holds no built-in network; hand over the dense one: load(path, model=...)")
    dense = copied(bare(dense)).float()
    with _belongs(path):
        lasting = _NAMES.validate_python(bounded.parsed(about.get("channels_last", "[]")))
        tensors |= {name: layout.last(tensors[name]) for name in lasting}
        if answers := answers_of(bounded.parsed(about.get("skipped", "{}"))):
            leave_out(dense, answers)
            renumber(dense)
        _resize(dense, _OF_LAYERS.validate_python(bounded.parsed(about["sizes"])))
        ties = _TIES.validate_python(bounded.parsed(about["ties"]))
        _fill(dense, {**tensors, **{copied: tensors[first] for copied, first in ties.items()}})
    return dense.eval()


def check_saved(model: nn.Module, path: Path, images: Inputs, dense: nn.Module | None = None) -> Exported:
    """Load `path` back and compare; where that fails the file is removed and ModelError raised."""
    try:
        return compare(model, load(path, dense), path, images, path.stat().st_size)
    except ModelError:
        path.unlink(missing_ok=True)
        raise


def state_bytes(model: nn.Module) -> int:
    """The size of the network's weights as a safetensors file."""
    return len(safetensors.torch.save(_distinct(model)[0]))


def _sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Of every layer that has any: its class and the attributes that pruning changes."""
    found, configs = {}, set[int]()
    for name, module in model.named_modules():
        own = vars(module)  # what a class computes is no size to write back
        sizes = {word: _plain(value) for word, value in own.items() if _may_change(module, word, value)}
        if id(own.get(CONFIG)) not in configs:
            configs.add(id(own.get(CONFIG)))
            sizes |= {f"{CONFIG}.{word}": value for word, value in of_config(module).items()}
        if sizes:
            found[name] = {"class": type(module).__name__, **sizes}
    return found


def _may_change(module: nn.Module, word: str, value: object) -> bool:
    """Whether pruning may change this attribute: a size of a layer of torch's, or a whole number of another module."""
    plain = type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.MultiheadAttention)
    return _is_size(value) and (word in SIZES or (not plain and isinstance(value, int) and not word.startswith("_")))


def _is_size(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else int(value)


def _resize(model: nn.Module, sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the sizes in the file to the layers of the same name."""
    if any(wanted["class"] == PrunableAttention.__name__ for wanted in sizes.values()):
        prunable(model)
    modules = dict(model.named_modules())
    for name, wanted in sizes.items():
        module = modules.get(name)
        if module is None or type(module).__name__ != wanted["class"]:
            there = "no layer of that name" if module is None else f"a {type(module).__name__} there"
            raise ModelError(f"it has the {wanted['class']} {name!r}, but the dense network has {there}")
        for word in set(wanted) - {"class"}:
            size, own = wanted[word], vars(module).get(word)
            if word.startswith(f"{CONFIG}."):
                _resize_config(module, word.removeprefix(f"{CONFIG}."), size)
                continue
            if not _may_change(module, word, own) or not _smaller(size, own, least=word == "groups"):
                raise ModelError(f"it says {word} = {size!r} of the layer {name!r}, the dense network's is {own!r}")
            setattr(module, word, tuple(size) if isinstance(own, tuple) and isinstance(size, list) else size)


def _resize_config(module: nn.Module, word: str, size: object) -> None:
    own = of_config(module).get(word)
    if not _smaller(size, own, least=True):
        raise ModelError(f"it says {CONFIG}.{word} = {size!r}, the dense network's is {own!r}")
    vars(module.config)[word] = size


def _smaller(size: object, own: object, least: int) -> bool:
    """Whether `size` may be what pruning made of `own`: no larger, not below `least`, and of as many numbers."""
    if isinstance(size, list) and isinstance(own, tuple | list):
        return len(size) == len(own) and all(map(_smaller, size, own, [least] * len(size)))
    if isinstance(size, bool) or isinstance(own, bool):
        return size is own
    return isinstance(size, int) and isinstance(own, int) and (least <= size <= own or size == own)


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` in the place of the dense network's own, which they may be smaller than but not larger."""
    dense = model.state_dict()
    absent, extra = sorted(set(dense) - set(tensors)), sorted(set(tensors) - set(dense))
    if absent or extra:
        what = f"it lacks {absent[0]!r}" if absent else f"it has {extra[0]!r}, which the dense network has not"
        raise ModelError(f"{what} ({len(absent)} missing, {len(extra)} unknown)")
    made: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        _require_part(name, tensor, dense[name])
        if (fault := not_finite(name, tensor)) and not not_finite(name, dense[name]):
            raise ModelError(fault)
        owner, _, word = name.rpartition(".")
        module = model.get_submodule(owner)
        if word in module._parameters:
            setattr(module, word, made.setdefault(id(tensor), nn.Parameter(tensor, tensor.is_floating_point())))
        else:
            module._buffers[word] = tensor
    _require_consistent(model)


def _require_part(name: str, tensor: Tensor, dense: Tensor) -> None:
    smaller = tensor.dim() == dense.dim() and all(n <= of for n, of in zip(tensor.shape, dense.shape, strict=True))
    if not smaller:
        raise ModelError(f"{name!r} has shape {tuple(tensor.shape)}, which is no part of {tuple(dense.shape)}")


def _require_consistent(model: nn.Module) -> None:
    """Each layer's weight must have the shape that its sizes say."""
    for name, module in model.named_modules():
        for weight, wanted in _weight_shapes(module):
            if tuple(weight.shape[: len(wanted)]) != wanted:
                raise ModelError(f"layer {name!r} is {wanted} by its sizes, but its weight is {tuple(weight.shape)}")


def _weight_shapes(module: nn.Module) -> Iterable[tuple[Tensor, tuple[int, ...]]]:
    """The weights of a layer and the leading sizes that each should have."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return recurrent.shapes(module)
    weight = getattr(module, "weight", None)
    return [(weight, _weight_shape(module))] if isinstance(weight, Tensor) else []


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The leading sizes of a layer's weight; empty where nothing is known of the layer."""
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return module.in_channels, module.out_channels // module.groups
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.out_channels, module.in_channels // module.groups
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.LayerNorm):
        return tuple(module.normalized_shape)
    size = getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    return (size,) if isinstance(size, int) else ()


def _distinct(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor once, laid out plainly, and for each further name of one the first."""
    first: dict[int, str] = {}
    state, ties = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if known == name:
            state[name] = tensor.detach().cpu().contiguous().clone()
        else:
            ties[name] = known
    return state, ties


def _about(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        about: dict[str, str] = file.metadata() or {}
    if about.get("format") != "autoprune" or about.get("version") != "1":
        raise ModelError(f"{path} was not written by this autoprune; a {WEIGHTS} of a run is needed")
    if lost := [word for word in ("rebuild", "sizes", "ties") if word not in about]:
        raise ModelError(f"{path} has damaged metadata (no {lost[0]!r}); export the network again")
    return about


@contextlib.contextmanager
def _belongs(path: Path) -> Iterator[None]:
    """Inside, what does not fit becomes a ModelError that names the file."""
    try:
        yield
    except ModelError as wrong:
        raise ModelError(f"{path} does not belong to this network: {wrong}") from None
    except (KeyError, TypeError, ValueError) as wrong:
        raise ModelError(f"{path} has damaged metadata ({one_line(wrong)}); export the network again") from None
