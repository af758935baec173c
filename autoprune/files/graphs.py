"""A network as an ONNX graph: tensors in, tensors out, each under a name that whoever runs the file would look for.

One tensor is called `input` or `output`. Inputs by name have the names of their mapping, inputs by place those of the
forward's arguments; outputs have the names of their mapping or dataclass, or are `output_0`, `output_1`. What lies
deeper has dots in its name. What is no tensor is fixed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from autoprune import stops
from autoprune.copies import copied
from autoprune.inputs import Inputs, arguments, by_name, call, mapped, tensors
from autoprune.wrappers import bare

Free = Mapping[int, Any]  # the dimensions of a tensor that are free
Frees = Callable[[Tensor], Free]


def portable(model: nn.Module) -> nn.Module:
    """A copy to take apart, on the CPU, in the plain memory layout and in eval mode."""
    portable = copied(bare(model)).cpu().eval()
    with torch.no_grad():
        for tensor in (*portable.parameters(), *portable.buffers()):
            tensor.data = tensor.contiguous()
    return portable


def graph_of(model: nn.Module, inputs: Inputs, frees: Frees) -> onnx.ModelProto:
    """`model`, which is only read, for inputs like these; of each tensor the dimensions that `frees` says are free.

    Raises whatever exporters do.
    """
    return _graph(model, inputs, frees, optimize=True)


def simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same with what is known before it runs computed."""
    found: onnx.ModelProto = onnxscript.optimizer.optimize(graph)
    return found


def as_written(model: nn.Module, inputs: Inputs, frees: Frees) -> onnx.ModelProto:
    """The same graph with every step of the network's, in which all parameters and buffers are found by their names."""
    return _graph(model, inputs, frees, optimize=False)


def _graph(model: nn.Module, inputs: Inputs, frees: Frees, *, optimize: bool) -> onnx.ModelProto:
    network, given = portable(model), inputs_by_name(model, inputs)
    with torch.no_grad():
        names = list(outputs_by_name(call(network, inputs), given))
    _flatten(network, inputs)
    frozen = tuple(dict(frees(tensor)) for tensor in given.values())
    with stops.later():
        program = torch.export.export(network, tuple(given.values()), dynamic_shapes=(frozen,))
        found = torch.onnx.export(
            program, (), dynamo=True, optimize=optimize, input_names=list(given), output_names=names,
            external_data=False, verbose=False,
        )  # fmt: skip
    assert found is not None
    graph: onnx.ModelProto = found.model_proto
    _name_sizes(graph.graph)
    return graph


def inputs_by_name(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Every tensor that `model` takes."""
    placed, named = arguments(inputs)
    if isinstance(inputs, Tensor):
        return {"input": inputs}
    return by_name(named or dict(inspect.signature(model.forward).bind(*placed).arguments))


def outputs_by_name(outputs: object, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor among `outputs`; one that has the name of an input is called `output_` and that."""
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields"):
        return {f"output_{name}": tensor for name, tensor in by_name(outputs).items()}
    found = {"output": outputs} if isinstance(outputs, Tensor) else by_name(outputs)
    return {f"output_{name}" if name in given else name: tensor for name, tensor in found.items()}


def _flatten(network: nn.Module, inputs: Inputs) -> None:
    """Let `network` take the tensors of inputs like these one after the other, and give a tuple of tensors.

    Its parameters keep their names, as they would not inside of another module.
    """
    nested = network.forward

    def forward(*given: Tensor) -> tuple[Tensor, ...]:
        rest = iter(given)
        return tuple(outputs_by_name(call(nested, mapped(inputs, lambda _: next(rest))), {}).values())

    assert len(inputs_by_name(network, inputs)) == len(tensors(inputs))
    network.forward = forward


def _name_sizes(graph: onnx.GraphProto) -> None:
    """Call the free sizes of inputs `batch`, where they come first, and `length`; others are computed from these."""
    names: dict[str, str] = {}
    for place, dim in ((i, d) for value in graph.input for i, d in enumerate(value.type.tensor_type.shape.dim)):
        if dim.dim_param and dim.dim_param not in names:
            free = "batch" if place == 0 else "length"
            same = sum(name.startswith(free) for name in names.values())
            names[dim.dim_param] = f"{free}_{same}" if same else free
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)
