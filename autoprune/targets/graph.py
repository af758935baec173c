"""Networks as ONNX graphs for targets: exported once, and cut to size for every network pruned from the same one.

An export takes seconds, cutting takes milliseconds. The cut graph has the pruned network's shapes and the dense one's
values: it takes the time that the pruned network takes, and computes something else.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autoprune.errors import TargetError, first_line
from autoprune.files.export import portable, quiet
from autoprune.inputs import Inputs, shapes


def exported(model: nn.Module, inputs: Inputs, target: str) -> onnx.ModelProto:
    """`model` for inputs of just that shape. Raises TargetError where it cannot be exported."""
    if not isinstance(inputs, Tensor):
        raise TargetError(f"target {target} runs networks of one tensor; this one takes {shapes(inputs)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with quiet():
                torch.onnx.export(
                    portable(model), (inputs,), path, dynamo=True, external_data=False,
                    input_names=["input"], output_names=["output"], verbose=False,
                )  # fmt: skip
        except Exception as wrong:  # exporters raise whatever they like
            reason = first_line(wrong)
            raise TargetError(f"target {target}: this network cannot be exported to ONNX ({reason})") from wrong
        return onnx.load(path)


class Cutter:
    """The graph of a dense network, to be cut to the size of networks that were pruned from it."""

    def __init__(self, dense: nn.Module, inputs: Inputs, target: str) -> None:
        self._graph = exported(dense, inputs, target)
        self._shapes = {name: tuple(t.shape) for name, t in _tensors(dense).items()}
        del self._graph.graph.value_info[:]  # shapes of the dense network
        _loosen(self._graph.graph)

    def __call__(self, model: nn.Module) -> onnx.ModelProto:
        """The graph in the shapes of `model`."""
        shapes = {name: tuple(t.shape) for name, t in _tensors(model).items()}
        weights = {w.name: w for w in self._graph.graph.initializer}
        wanted = {
            name: shapes[name]
            for name, w in weights.items()
            if name in shapes and self._shapes.get(name) == tuple(w.dims)
        }
        groups = {}
        for place, node in enumerate(self._graph.graph.node):
            if node.op_type == "Conv" and node.input[1] in wanted:
                shape, before = wanted[node.input[1]], tuple(weights[node.input[1]].dims)
                if len(node.input) > 2 and node.input[2] in weights:
                    wanted[node.input[2]] = shape[:1]
                groups[place] = shape[0], before[0]
        cut = copy.deepcopy(self._graph)
        for weight in cut.graph.initializer:
            if weight.name in wanted and tuple(weight.dims) != wanted[weight.name]:
                weight.CopyFrom(_corner(weight, wanted[weight.name]))
        for place, (outputs, before) in groups.items():
            for attribute in cut.graph.node[place].attribute:
                if attribute.name == "group" and attribute.i > 1:
                    attribute.i = attribute.i * outputs // before
        return cut


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _loosen(graph: onnx.GraphProto) -> None:
    """Let each reshape to fixed sizes find the largest of them by itself: it is most likely the channels."""
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for constant in graph.initializer:
        if constant.name in shapes:
            sizes = numpy_helper.to_array(constant).copy()
            if len(sizes) and (sizes > 0).all():
                first = 1 if len(sizes) > 1 else 0  # the batch stays
                sizes[first + sizes[first:].argmax()] = -1
                constant.CopyFrom(numpy_helper.from_array(sizes, constant.name))


def _corner(weight: onnx.TensorProto, shape: Sequence[int]) -> onnx.TensorProto:
    """The first entries of `weight` along every dimension."""
    values = numpy_helper.to_array(weight)[tuple(slice(n) for n in shape)]
    return numpy_helper.from_array(values.copy(), weight.name)
