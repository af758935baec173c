"""Networks as ONNX graphs for targets: exported once, and cut to size for every network pruned from the same one.

An export takes seconds, cutting takes milliseconds. The cut graph has the pruned network's shapes and the dense one's
values: it takes the time that the pruned network takes, and computes something else.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from torch import Tensor, nn

from autoprune.errors import TargetError
from autoprune.files.graphs import as_written, graph_of, simplified
from autoprune.files.programs import quiet, reason
from autoprune.inputs import Inputs, tensors


def exported(model: nn.Module, inputs: Inputs, target: str) -> onnx.ModelProto:
    """`model` for inputs of just that shape. Raises TargetError where it cannot be exported."""
    with _told(target), quiet():
        return graph_of(model, inputs, lambda tensor: {})


@contextlib.contextmanager
def _told(target: str) -> Iterator[None]:
    """Inside, whatever an exporter raises becomes a TargetError."""
    try:
        yield
    except Exception as wrong:
        raise TargetError(f"target {target}: this network cannot be exported to ONNX ({reason(wrong)})") from wrong


def fed(graph: onnx.ModelProto, inputs: Inputs) -> dict[str, NDArray[Any]]:
    """What a runtime is given for `inputs`, by the names in the graph."""
    return {value.name: tensor.numpy() for value, tensor in zip(graph.graph.input, tensors(inputs), strict=True)}


class Cutter:
    """The graph of a dense network, to be cut to the size of networks that were pruned from it."""

    def __init__(self, dense: nn.Module, inputs: Inputs, target: str) -> None:
        self._shapes = {name: tuple(t.shape) for name, t in _tensors(dense).items()}
        with _told(target), quiet():
            self._graph = _but_for(self._shapes, as_written(dense, inputs, lambda tensor: {}))
        before = _sizes(shape_inference.infer_shapes(self._graph).graph)
        del self._graph.graph.value_info[:]  # shapes of the dense network
        _loosen(self._graph.graph, before)

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
        return simplified(cut)


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _but_for(names: Container[str], graph: onnx.ModelProto) -> onnx.ModelProto:
    """`graph` simplified as if the weights in `names` were not known: nothing is computed from them."""
    inner = graph.graph
    weights = {weight.name: weight for weight in inner.initializer if weight.name in names}
    rest = [weight for weight in inner.initializer if weight.name not in names]
    del inner.initializer[:]
    inner.initializer.extend(rest)
    known = {value.name for value in inner.input}
    inner.input.extend(
        helper.make_tensor_value_info(name, weight.data_type, weight.dims)
        for name, weight in weights.items()
        if name not in known
    )
    found = simplified(graph)
    given = [value for value in found.graph.input if value.name in known]
    found.graph.initializer.extend(weights[v.name] for v in found.graph.input if v.name in weights)
    del found.graph.input[:]
    found.graph.input.extend(given)
    return found


def _sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shape of every value whose shape is known."""
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
    return {name: shape for name, shape in found.items() if all(shape)}


def _loosen(graph: onnx.GraphProto, before: Mapping[str, tuple[int, ...]]) -> None:
    """Let each reshape to fixed sizes take them from its input, whose shape in the dense graph is in `before`."""
    constants = {constant.name: constant for constant in graph.initializer}
    reshapes: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            reshapes.setdefault(node.input[1], []).append(node)
    for name, nodes in reshapes.items():
        sizes = numpy_helper.to_array(constants[name])
        shapes = {before.get(node.input[0], ()) for node in nodes}
        if len(sizes) and (sizes > 0).all() and len(shapes) == 1:
            free = np.array(loosened(shapes.pop(), sizes.tolist()), dtype=sizes.dtype)
            constants[name].CopyFrom(numpy_helper.from_array(free, name))
            for node in nodes:
                del node.attribute[:]  # the only one says that 0 is no copy


def loosened(source: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """`sizes` of a reshape from `source`, so that they follow it: 0 for a size that stays where it is, one -1 after.

    The -1 is what a size was split into, or others were merged into. Channels are split into heads, the first of two;
    those of images, which have rows and columns behind them, into groups, most likely the smaller of two. Where nothing
    is known of the source, it is the largest but for the batch: most likely the channels.
    """
    found, same = list(sizes), 0
    if not source:
        rest = found[1:] or found
        found[len(found) - len(rest) + rest.index(max(rest))] = -1
        return found
    while same < min(len(source), len(sizes)) and source[same] == sizes[same]:
        found[same], same = 0, same + 1
    if same < len(found):
        parts = [sizes[same]]
        while same < len(source) and math.prod(parts) < source[same] and same + len(parts) < len(sizes):
            parts.append(sizes[same + len(parts)])
        image = len(source) > same + 1 and math.prod(parts) == source[same]
        found[same + (parts.index(max(parts)) if image else 0)] = -1
    return found


def _corner(weight: onnx.TensorProto, shape: Sequence[int]) -> onnx.TensorProto:
    """The first entries of `weight` along every dimension."""
    values = numpy_helper.to_array(weight)[tuple(slice(n) for n in shape)]
    return numpy_helper.from_array(values.copy(), weight.name)
