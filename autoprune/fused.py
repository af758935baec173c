"""A pruned network as it is scored: chains computed at once, and in eight bits where that was chosen.

`Fuser` reads the dense network once; every pruned copy is then made ready in milliseconds. What it gives computes what
the copy computes in eval mode, up to rounding: BatchNorm folded into the convolution before it (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, section 3.2), sums and activations done where the convolution's result is still at
hand. In eight bits, weights are on a scale for each output channel and activations on the scale that the dense network
had when it was watched; sums inside a convolution are exact. The operators are those that torch's own compiler calls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from autoprune.errors import TrialFailed
from autoprune.fusion import Chain, Code, Fusion, Unfusable, hands_on, is_plain_pool, read

SAME = 1e-3  # largest mean difference between fused and plain outputs in full precision, against their spread
_CHECKED = 8  # images on which that is seen

Values = dict[fx.Node, Any]
Step = Callable[[Values], Any]


@dataclass(frozen=True)
class Fuser:
    """Makes networks ready that have the graph of the one which was read."""

    fusion: Fusion

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor) -> Fuser:
        """Read `model`, which stays as it is, and watch it on `inputs`.

        Raises Unfusable where it cannot be read or does not compute the same when it is fused.
        """
        made = cls(read(model, inputs))
        twin = copy.deepcopy(model).eval()
        with torch.no_grad():
            wanted, found = twin(inputs[:_CHECKED]), made(twin, "fp32")(inputs[:_CHECKED])
        if not (wanted - found).abs().mean() <= SAME * wanted.std():
            raise Unfusable("fused, it computes something else")
        return made

    def __call__(self, model: nn.Module, precision: str) -> Fused:
        """`model` made ready; its weights are taken as they are now. Raises TrialFailed if one is not finite."""
        return Fused(_steps(self.fusion, dict(model.named_modules()), precision))


class Fused(nn.Module):
    """A network made ready. It can be called, and that is all.

    Attributes:
        finite: whether every output so far was.
    """

    def __init__(self, steps: list[tuple[fx.Node, Step, tuple[fx.Node, ...]]]) -> None:
        super().__init__()
        self._steps = steps
        self.finite = True

    def forward(self, inputs: Tensor) -> Tensor:
        """As the network itself in eval mode."""
        first, *rest = self._steps
        values: Values = {first[0]: inputs}
        for node, step, spent in rest:
            values[node] = step(values)
            for dead in spent:
                del values[dead]
        outputs: Tensor = values[rest[-1][0]]
        self.finite = self.finite and bool(outputs.isfinite().all())
        return outputs


def _steps(
    fusion: Fusion, modules: Mapping[str, nn.Module], precision: str
) -> list[tuple[fx.Node, Step, tuple[fx.Node, ...]]]:
    """What is computed, in order, and after each step which values nobody reads any more."""
    making = _Making(fusion, modules, precision)
    inner = {node for chain in fusion.chains.values() for node in chain.inner}
    steps = [(node, making.step(node)) for node in fusion.graph.nodes if node not in inner]
    last: dict[fx.Node, fx.Node] = {}
    for node, _ in steps:
        for source in _inputs(node, fusion):
            last[source] = node
    spent: dict[fx.Node, list[fx.Node]] = {}
    for source, reader in last.items():
        spent.setdefault(reader, []).append(source)
    return [(node, step, tuple(spent.get(node, ()))) for node, step in steps]


def _inputs(node: fx.Node, fusion: Fusion) -> list[fx.Node]:
    chain = fusion.chains.get(node)
    if chain is None:
        return node.all_input_nodes
    return list(dict.fromkeys([chain.source, *([chain.other] if chain.other is not None else [])]))


@dataclass(frozen=True)
class _Making:
    """One pruned network's steps."""

    fusion: Fusion
    modules: Mapping[str, nn.Module]
    precision: str

    def step(self, node: fx.Node) -> Step:
        if node.op == "output":
            return self._plain(node, lambda outputs: outputs)
        if node in self.fusion.chains:
            chain = self.fusion.chains[node]
            return self._in_eight_bits(chain) if self.precision == "int8" else self._in_floats(chain)
        if node.op == "call_module":
            return self._module(node)
        if node.op == "call_method":
            return self._plain(node, lambda it, *args, **kwargs: getattr(it, str(node.target))(*args, **kwargs))
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            found = getattr(self.modules[owner], name)
            return lambda values: found
        assert callable(node.target) or node.op == "placeholder"
        return self._plain(node, node.target)

    def _coded(self, node: fx.Node) -> bool:
        """Whether the value of `node` is held as codes."""
        if self.precision != "int8" or node not in self.fusion.codes:
            return False
        return node in self.fusion.chains or (hands_on(node, self.modules) and self._coded(node.all_input_nodes[0]))

    def _module(self, node: fx.Node) -> Step:
        module = self.modules[str(node.target)]
        if self._coded(node) and is_plain_pool(module):
            assert isinstance(module, nn.MaxPool2d)
            source = node.all_input_nodes[0]
            return lambda values: _pooled(values[source], module)
        return self._plain(node, module)

    def _plain(self, node: fx.Node, call: Any) -> Step:
        """`call` with numbers, or with codes where it does the same to them."""
        coded = {source for source in node.all_input_nodes if self._coded(source)} if not self._coded(node) else set()

        def step(values: Values) -> Any:
            def value(source: fx.Node) -> Any:
                found = values[source]
                return decoded(found, self.fusion.codes[source]) if source in coded else found

            return call(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))

        return step

    def _in_floats(self, chain: Chain) -> Step:
        conv, weight, bias = self._folded(chain)
        if self.precision != "fp32":
            weight, bias = weight.bfloat16(), bias.bfloat16()
        shape = _shape(conv)

        def step(values: Values) -> Tensor:
            found = functional.conv2d(values[chain.source], weight, bias, *shape)
            if chain.other is not None:
                found = found.add_(values[chain.other])
            return _activated(found, chain)

        return step

    def _in_eight_bits(self, chain: Chain) -> Step:
        conv, weight, bias = self._folded(chain)
        size = weight.abs().amax((1, 2, 3)).div_(127).clamp_(min=1e-12)  # (outputs,)
        code, out = self.fusion.codes[chain.source], self.fusion.codes.get(chain.tail)
        shape = _shape(conv)
        codes = (weight / size.view(-1, 1, 1, 1)).round_().to(torch.int8)
        seen = self.fusion.shapes[chain.source]
        packed = torch.ops.onednn.qconv_prepack(codes, size, *code, *shape, [seen[0], conv.in_channels, *seen[2:]])
        kernel = (packed, size, torch.zeros(len(size), dtype=torch.int32))
        scale, zero, dtype = (*out, torch.uint8) if out else (1.0, 0, torch.bfloat16)
        name, numbers = chain.activation

        def alone(values: Values) -> Any:
            return torch.ops.onednn.qconv2d_pointwise(
                self._codes_of(chain.source, values), *code, *kernel, bias, *shape,
                scale, zero, dtype, name, numbers, "",
            )  # fmt: skip

        def added(values: Values) -> Any:
            assert chain.other is not None
            other = self._codes_of(chain.other, values)
            if not chain.spoils and self._coded(chain.other):
                other = other.clone()
            return torch.ops.onednn.qconv2d_pointwise.binary(
                self._codes_of(chain.source, values), *code, *kernel, other, bias, *shape,
                scale, zero, dtype, *self.fusion.codes[chain.other], "sum", 1.0, name, numbers, "",
            )  # fmt: skip

        return alone if chain.other is None else added

    def _codes_of(self, node: fx.Node, values: Values) -> Tensor:
        found = values[node] if self._coded(node) else encoded(values[node], self.fusion.codes[node])
        return found.contiguous(memory_format=torch.channels_last)

    def _folded(self, chain: Chain) -> tuple[nn.Conv2d, Tensor, Tensor]:
        """The convolution, and its weight and bias with the BatchNorm in them."""
        conv = self.modules[str(chain.conv.target)]
        assert isinstance(conv, nn.Conv2d)
        weight = conv.weight.detach().float()
        bias = conv.bias.detach().float() if conv.bias is not None else weight.new_zeros(len(weight))
        if chain.norm is not None:
            norm = self.modules[str(chain.norm.target)]
            assert isinstance(norm, nn.BatchNorm2d)
            weight, bias = _with_norm(weight, bias, norm)
        if not bool((weight.flatten(1).sum(1) + bias).isfinite().all()):
            raise TrialFailed(f"the weights of {chain.conv.target} are not finite")
        return conv, weight.contiguous(memory_format=torch.channels_last), bias


def _shape(conv: nn.Conv2d) -> tuple[list[int], list[int], list[int], int]:
    """Stride, padding, dilation and groups."""
    return list(conv.stride), [int(p) for p in conv.padding], list(conv.dilation), conv.groups


def _with_norm(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.float() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach()
    moved = (bias - norm.running_mean) * factor
    return weight * factor.view(-1, 1, 1, 1), moved + norm.bias.detach() if norm.bias is not None else moved


def _activated(values: Tensor, chain: Chain) -> Tensor:
    name, numbers = chain.activation
    if name == "relu":
        return values.relu_()
    return values.clamp_(*numbers) if name == "hardtanh" else values


def encoded(values: Tensor, code: Code) -> Tensor:
    """The nearest codes of `values`, uint8."""
    return values.float().mul(1 / code.scale).add_(code.zero).round_().clamp_(0, 255).to(torch.uint8)


def decoded(codes: Tensor, code: Code) -> Tensor:
    """What `codes` mean, in full precision."""
    return codes.float().sub_(code.zero).mul_(code.scale)


def _pooled(codes: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """The largest of each window, of codes; torch pools floating-point numbers only."""
    (high, wide), (down, along), (top, left) = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    padded = functional.pad(codes, (left, left, top, top)) if top or left else codes  # 0 is the least code
    rows, columns = padded.shape[2] - high + 1, padded.shape[3] - wide + 1
    windows = [padded[:, :, i : i + rows : down, j : j + columns : along] for i in range(high) for j in range(wide)]
    largest = windows[0]
    for window in windows[1:]:
        largest = torch.maximum(largest, window)
    return largest


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
