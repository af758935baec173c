"""A pruned network as files that work without the search: safetensors, torch.export and ONNX.

`save` and `load` are for those who have autoprune: the weights, and beside them the sizes of every layer, so that the
dense architecture is cut to size without tracing anything. `export` writes standalone programs with a free batch size;
each is loaded back, run on real inputs and compared with the network before the file gets its name.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.files.disk import renamed
from autoprune.inputs import Inputs, arguments, call, device_of, first, mapped, moved, shapes, size, tensors
from autoprune.models import build
from autoprune.models.weights import read

WEIGHTS, PROGRAM, ONNX = "model.safetensors", "model.pt2", "model.onnx"
SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
    "num_groups", "num_channels",
)  # fmt: skip
TOLERANCE = 1e-3  # of the largest output; what is seen is 1e-6, another network differs by about 1

Run = Callable[..., Any]  # called as the network is


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, run and compared.

    Attributes:
        file: its name in the run's directory.
        bytes: its size.
        difference: largest absolute difference of any output to the network's, as a share of the largest output.
        images: how many inputs were compared.
    """

    file: str
    bytes: int
    difference: float
    images: int


def save(model: nn.Module, path: Path, *, rebuild: str = "", task: str = "") -> None:
    """Write the weights and the layers' sizes. `rebuild` ("task:model") lets `load` do without the dense network."""
    state, ties = _distinct(model)
    about = {
        "format": "autoprune",
        "version": "1",
        "task": task,
        "rebuild": rebuild,
        "sizes": json.dumps(_sizes(model), sort_keys=True),
        "ties": json.dumps(ties, sort_keys=True),
    }
    with renamed(path) as part:
        part.write_bytes(safetensors.torch.save(state, metadata=about))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The pruned network in a `model.safetensors` or a run's directory, in eval mode.

    `model` is the dense network (its weights do not matter; it is not changed); built-in architectures need none.
    Raises ModelError where the file is damaged or does not belong to the dense network.
    """
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    tensors = read(path)
    about = _about(path)
    dense = build(about["rebuild"]) if model is None and about["rebuild"] else copy.deepcopy(model)
    if dense is None:
        raise ModelError(f"{path} holds no built-in network; hand over the dense one: load(path, model=...)")
    with _belongs(path):
        _resize(dense, json.loads(about["sizes"]))
        _fill(dense, {**tensors, **{copied: tensors[first] for copied, first in json.loads(about["ties"]).items()}})
    return dense.eval()


def check_saved(model: nn.Module, path: Path, images: Inputs, dense: nn.Module | None = None) -> Exported:
    """Load `path` back and compare; where that fails the file is removed and ModelError raised."""
    try:
        return _compare(model, load(path, dense), path, images)
    except ModelError:
        path.unlink(missing_ok=True)
        raise


def export_program(model: nn.Module, path: Path, images: Inputs) -> Exported:
    """Write `model` for torch.export.load, with a free batch size. Where it fails: ModelError, and no file is left."""
    network = portable(model)

    def write(part: Path) -> None:
        placed, named = arguments(first(images, 2))
        torch.export.save(torch.export.export(network, placed, named, dynamic_shapes=_free_batch(images)), part)

    def back(part: Path) -> Run:
        return cast(Run, torch.export.load(part).module())

    return _checked(network, path, images, write, back)


def export_onnx(model: nn.Module, path: Path, images: Inputs) -> Exported:
    """Write `model` as one ONNX file, with a free batch size. Where it fails: ModelError, and no file is left."""
    if not isinstance(images, Tensor):
        raise ModelError(f"{path.name} is of networks of one tensor; this one takes {shapes(first(images, 1))}")
    network = portable(model)

    def write(part: Path) -> None:
        placed, named = arguments(first(images, 2))
        torch.onnx.export(
            network, placed, part, kwargs=named, dynamo=True, dynamic_shapes=_free_batch(images), external_data=False,
            input_names=["input"], output_names=["output"], verbose=False,
        )  # fmt: skip

    return _checked(network, path, images, write, _onnx_session)


def state_bytes(model: nn.Module) -> int:
    """The size of the network's weights as a safetensors file."""
    return len(safetensors.torch.save(_distinct(model)[0]))


def _onnx_session(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def _free_batch(images: Inputs) -> Any:
    """For each argument, that its first dimension is free."""
    placed, named = arguments(images)
    free = {0: torch.export.Dim("batch", min=1, max=65_536)}
    found: Any = mapped(named or placed, lambda tensor: free)  # type: ignore[arg-type, return-value]
    return found


def portable(model: nn.Module) -> nn.Module:
    """A copy to take apart, on the CPU, in the plain memory layout and in eval mode."""
    portable = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        for tensor in (*portable.parameters(), *portable.buffers()):
            tensor.data = tensor.contiguous()
    return portable


def _checked(
    model: nn.Module, path: Path, images: Inputs, write: Callable[[Path], None], back: Callable[[Path], Run]
) -> Exported:
    """Write beside `path`, load, compare, and only then give the file its name."""
    with renamed(path) as part:
        try:
            with quiet():
                write(part)
                program = back(part)
                return _compare(model, program, path, moved(images, "cpu"), part)
        except ModelError:
            raise
        except Exception as wrong:  # exporters raise whatever they like
            reason = (str(wrong).strip().splitlines() or [type(wrong).__name__])[0]
            raise ModelError(
                f"{path.name} cannot be written for this network: {type(wrong).__name__}: {reason}"
            ) from wrong


def _compare(model: nn.Module, other: Run, path: Path, images: Inputs, file: Path | None = None) -> Exported:
    """Run both on `images`, whole and one by itself, and measure how far they differ."""
    worst = 0.0
    device = device_of(model)
    model.eval()
    with torch.no_grad():
        for inputs in (images, first(images, 1)):
            wanted, got = (
                tensors(moved(call(run, moved(inputs, where)), "cpu"))
                for run, where in ((model, device), (other, "cpu"))
            )
            worst = max([worst, *(_apart(one, its) for one, its in zip(wanted, got, strict=True))])
    if not worst <= TOLERANCE:
        found = f"its outputs differ by {worst:.2g} of the largest, on {size(images)} inputs; {TOLERANCE:g} is allowed"
        raise ModelError(f"{path.name} does not compute what the pruned network does: {found}")
    return Exported(path.name, (file or path).stat().st_size, worst, size(images))


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two outputs differ, as a share of the largest number; whole numbers differ by nothing or by all."""
    if one.shape != other.shape or not bool(torch.isfinite(other).all()):
        return float("inf")
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else float("inf")
    largest = float(one.abs().max().clamp(min=1e-12)) if one.numel() else 1.0
    return float((one - other).abs().max()) / largest if one.numel() else 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing is printed, logged or warned of."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Of every layer that has any: its class and the attributes that pruning changes."""
    found = {}
    for name, module in model.named_modules():
        sizes = {word: _plain(getattr(module, word)) for word in SIZES if _is_size(getattr(module, word, None))}
        if sizes:
            found[name] = {"class": type(module).__name__, **sizes}
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int | tuple | list) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else int(value)


def _resize(model: nn.Module, sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the sizes in the file to the layers of the same name."""
    modules = dict(model.named_modules())
    for name, wanted in sizes.items():
        module = modules.get(name)
        if module is None or type(module).__name__ != wanted["class"]:
            there = "no layer of that name" if module is None else f"a {type(module).__name__} there"
            raise ModelError(f"it has the {wanted['class']} {name!r}, but the dense network has {there}")
        for word in set(wanted) - {"class"}:
            size = wanted[word]
            setattr(module, word, tuple(size) if isinstance(size, list) else size)


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
        owner, _, word = name.rpartition(".")
        module = model.get_submodule(owner)
        if word in module._parameters:
            module._parameters[word] = made.setdefault(id(tensor), nn.Parameter(tensor, tensor.is_floating_point()))
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
        wanted = _weight_shape(module)
        weight = getattr(module, "weight", None)
        if wanted and isinstance(weight, Tensor) and tuple(weight.shape[: len(wanted)]) != wanted:
            raise ModelError(f"layer {name!r} is {wanted} by its sizes, but its weight is {tuple(weight.shape)}")


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
    return about


@contextlib.contextmanager
def _belongs(path: Path) -> Iterator[None]:
    """Inside, what does not fit becomes a ModelError that names the file."""
    try:
        yield
    except ModelError as wrong:
        raise ModelError(f"{path} does not belong to this network: {wrong}") from None
    except (KeyError, TypeError, ValueError) as wrong:
        raise ModelError(f"{path} has damaged metadata ({wrong}); export the network again") from None
