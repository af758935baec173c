"""A pruned network as programs that need no autoprune: torch.export's and ONNX.

The number of samples is free, and so is the length of token ids, inputs of whole numbers (n, length), where the network
takes other lengths. Each program is made in memory, loaded back, run on real inputs and compared with the network
before it is written; where lengths are free, on shorter inputs, too. (PyTorch's writer aborts on a full disk.)
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune import stops
from autoprune.errors import ModelError, first_line
from autoprune.files import disk
from autoprune.files.compared import Exported, Run, compare
from autoprune.files.graphs import Free, Frees, graph_of, inputs_by_name, portable
from autoprune.inputs import Inputs, arguments, first, in_use, mapped, moved, plain, repeated, size, tensors

PROGRAM, ONNX = "model.pt2", "model.onnx"
_MOST = 65_536  # samples in a batch


def export_program(model: nn.Module, path: Path, images: Inputs) -> Exported:
    """Write `model` for torch.export.load, with a free batch size. Where it fails: ModelError, and no file is left.

    The program takes what the network takes, without labels, and gives tuples, lists and dicts of tensors. Raises
    FileError where it cannot be written.
    """

    def made(inputs: Inputs, frees: Frees) -> bytes:
        network = portable(model)
        nested = network.forward
        network.forward = functools.wraps(nested)(lambda *placed, **named: plain(nested(*placed, **named)))
        placed, named = arguments(inputs)
        bound = inspect.signature(nested).bind(*placed, **named).arguments
        with stops.later():
            program = torch.export.export(network, placed, named, dynamic_shapes=_shapes(dict(bound), frees))
        program.example_inputs = None  # they would be written, too: samples of the user's
        held = io.BytesIO()
        torch.export.save(program, held)
        return held.getvalue()

    def back(content: bytes) -> Run:
        return cast(Run, torch.export.load(io.BytesIO(content)).module())

    return _checked(model, path, images, made, back)


def export_onnx(model: nn.Module, path: Path, images: Inputs) -> Exported:
    """Write `model` as one ONNX file, with a free batch size. Where it fails: ModelError, and no file is left.

    Raises FileError where the file cannot be written. Inputs and outputs are named as `files.graphs` says.
    """

    def made(inputs: Inputs, frees: Frees) -> bytes:
        content: bytes = graph_of(model, inputs, frees).SerializeToString()
        return content

    def back(content: bytes) -> Run:
        return _session(model, content)

    return _checked(model, path, images, made, back)


def _session(model: nn.Module, content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(*placed: Any, **named: Any) -> dict[str, Tensor]:
        given = inputs_by_name(model, named or (placed if len(placed) > 1 else placed[0]))
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return run


def _checked(
    model: nn.Module,
    path: Path,
    images: Inputs,
    made: Callable[[Inputs, Frees], bytes],
    back: Callable[[bytes], Run],
) -> Exported:
    """Make, load, compare, and only then write the file."""
    images = moved(in_use(model, images), "cpu")
    with quiet():
        content, found = _like(model, path, images, made, back)
    disk.write_bytes(path, content)
    return found


def _like(
    model: nn.Module,
    path: Path,
    images: Inputs,
    made: Callable[[Inputs, Frees], bytes],
    back: Callable[[bytes], Run],
) -> tuple[bytes, Exported]:
    """A program that computes what the network does, and how far it differs; with free lengths, if that can be."""
    two = repeated(images, 2) if size(images) == 1 else first(images, 2)
    if any(map(_is_text, tensors(images))):
        with contextlib.suppress(Exception):  # exporters raise whatever they like; and networks, on other lengths
            content = made(two, _batch_and_length)
            compare(model, back(content), path, mapped(images, _shortened), len(content))
            return content, compare(model, back(content), path, images, len(content))
    try:
        content = made(two, _batch)
        return content, compare(model, back(content), path, images, len(content))
    except ModelError:
        raise
    except Exception as wrong:
        raise ModelError(f"{path.name} cannot be written for this network: {reason(wrong)}") from wrong


def _is_text(tensor: Tensor) -> bool:
    """Whether it may be token ids or a mask of them, (n, length)."""
    return tensor.dim() == 2 and tensor.shape[1] > 1 and not tensor.is_floating_point()


def _shortened(tensor: Tensor) -> Tensor:
    return tensor[:, : (tensor.shape[1] + 1) // 2] if _is_text(tensor) else tensor


def _batch(tensor: Tensor) -> Free:
    return {0: torch.export.Dim("batch", min=1, max=_MOST)} if tensor.dim() else {}


def _batch_and_length(tensor: Tensor) -> Free:
    return {**_batch(tensor), **({1: torch.export.Dim.AUTO} if _is_text(tensor) else {})}


def _shapes(nest: Any, frees: Frees) -> Any:
    """For each argument what is free, nested as the arguments are; nothing in what is no tensor."""
    if isinstance(nest, Tensor):
        return dict(frees(nest))
    if isinstance(nest, tuple | list):
        return tuple(_shapes(entry, frees) for entry in nest)
    return {name: _shapes(entry, frees) for name, entry in nest.items()} if isinstance(nest, Mapping) else None


def reason(wrong: BaseException) -> str:
    """Why an exporter failed, in one line: what it met first, below all that it says about itself."""
    while wrong.__cause__ is not None:
        wrong = wrong.__cause__
    return re.sub(r"\x1b\[\d*m", "", first_line(wrong))


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
