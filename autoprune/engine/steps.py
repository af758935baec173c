"""The steps of one pruned network: what computes each chain at once, in floating-point numbers or in eight bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.engine.chains import Chain, Fusion, hands_on, is_plain_pool
from autoprune.engine.int8 import decoded, encoded, pooled
from autoprune.engine.memory import laid_out
from autoprune.errors import TrialFailed

Values = dict[fx.Node, Any]
Step = Callable[[Values], Any]
Shape = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation and groups of a convolution
Moments = tuple[Tensor, Tensor]  # mean and variance of each channel


def moments(norm: _BatchNorm) -> Moments:
    """The statistics that `norm` has: mean and variance of each channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def put(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Give `norm` statistics."""
    for held, value in zip(moments(norm), (mean, var), strict=True):
        held.copy_(value)


@dataclass(frozen=True)
class Making:
    """One pruned network's steps."""

    fusion: Fusion
    modules: Mapping[str, nn.Module]
    precision: str
    packed: dict[fx.Node, tuple[Any, Tensor, Tensor]] = field(default_factory=dict)  # by chain, in eight bits

    def seen(self, chain: Chain, values: Sequence[Values], enough: int) -> Moments:
        """Mean and variance of each channel that the BatchNorm of `chain` gets of `values`."""
        conv = self.conv(chain)
        places, apart = math.prod(self.fusion.shapes[chain.conv][2:]), 1
        while places >= 4 * enough * apart * apart:
            apart *= 2
        stride, padding, dilation, groups = _shape(conv)
        shape = [apart * s for s in stride], padding, dilation, groups
        found = [_sums(self._plainly(chain, shape, one)) for one in values]
        mean, square = (sum(part) / len(found) for part in zip(*found, strict=True))
        var = (square - mean * mean).clamp_(min=0)
        return (mean if conv.bias is None else mean + conv.bias.detach().float()), var

    def _plainly(self, chain: Chain, shape: Shape, values: Values) -> Tensor:
        """What the convolution of `chain` computes, without its bias."""
        if self.precision == "int8":
            codes, code = self._codes_of(chain.source, values), self.fusion.codes[chain.source]
            return torch.ops.onednn.qconv2d_pointwise(  # type: ignore[no-any-return]
                codes, *code, *self._kernel(chain), None, *shape, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        weight = self.conv(chain).weight.detach()
        if self.precision != "fp32":
            weight = weight.bfloat16()
        return functional.conv2d(values[chain.source], laid_out(weight), None, *shape)

    def conv(self, chain: Chain) -> nn.Conv2d:
        """The convolution of `chain`."""
        found = self.modules[str(chain.conv.target)]
        assert isinstance(found, nn.Conv2d)
        return found

    def norm(self, node: fx.Node) -> _BatchNorm:
        """The BatchNorm that `node` calls."""
        found = self.modules[str(node.target)]
        assert isinstance(found, _BatchNorm)
        return found

    def step(self, node: fx.Node) -> Step:
        """What computes the value of `node` from those before it."""
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
            return lambda values: pooled(values[source], module)
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
        conv = self.conv(chain)
        factor, bias = self._folding(chain)
        weight = laid_out(conv.weight.detach().float() * factor.view(-1, 1, 1, 1))
        _refuse_nonfinite(chain, weight.flatten(1).sum(1) + bias)
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
        packed, size, zeros = self._kernel(chain)
        factor, bias = self._folding(chain)
        size = size * factor
        _refuse_nonfinite(chain, size + bias)
        code, out = self.fusion.codes[chain.source], self.fusion.codes.get(chain.tail)
        shape = _shape(self.conv(chain))
        kernel = packed, size, zeros
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
        found: Tensor = values[node]
        if found.dtype != torch.uint8:
            found = encoded(found, self.fusion.codes[node])
        return found.contiguous(memory_format=torch.channels_last)

    def _kernel(self, chain: Chain) -> tuple[Any, Tensor, Tensor]:
        """Codes of the convolution's weight, packed, and what a code of each output is worth; its zero, which is 0.

        A BatchNorm changes only what a code is worth, so that they are packed once.
        """
        if chain.tail not in self.packed:
            conv = self.conv(chain)
            weight = laid_out(conv.weight.detach().float())
            size = weight.abs().amax((1, 2, 3)).div_(127).clamp_(min=1e-12)
            codes = (weight / size.view(-1, 1, 1, 1)).round_().to(torch.int8)
            seen = self.fusion.shapes[chain.source]
            packed = torch.ops.onednn.qconv_prepack(
                codes, size, *self.fusion.codes[chain.source], *_shape(conv), [seen[0], conv.in_channels, *seen[2:]]
            )
            self.packed[chain.tail] = packed, size, torch.zeros(len(size), dtype=torch.int32)
        return self.packed[chain.tail]

    def _folding(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """What the BatchNorm multiplies the weight of each output with, and the bias of both together."""
        conv = self.conv(chain)
        bias = 0 if conv.bias is None else conv.bias.detach().float()
        if chain.norm is not None:
            return _through(bias, self.norm(chain.norm))
        factor = torch.ones(conv.out_channels, device=conv.weight.device)
        return factor, torch.zeros_like(factor) + bias


def _shape(conv: nn.Conv2d) -> Shape:
    return list(conv.stride), [int(p) for p in conv.padding], list(conv.dilation), conv.groups


def _refuse_nonfinite(chain: Chain, outputs: Tensor) -> None:
    """Of weights that are not, codes are finite, and so may be what a ReLU makes of them."""
    if not math.isfinite(outputs.sum()):
        raise TrialFailed(f"the weights of {chain.conv.target} are not finite")


def _through(bias: Tensor | int, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The factor of `norm`, and what it makes of a bias before it."""
    mean, var = moments(norm)
    factor = torch.rsqrt(var.float() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach()
    moved = (bias - mean) * factor
    return factor, moved + norm.bias.detach() if norm.bias is not None else moved


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each channel of `values`, (n, channels, high, wide), channels last in memory.

    Added up over images first: torch sums along rows of an odd length slowly.
    """
    rows = laid_out(values.float()).permute(0, 2, 3, 1).flatten(1)  # (n, high * wide * channels)
    count = rows.numel() / values.shape[1]
    sums = (part.sum(0).view(-1, values.shape[1]).sum(0) / count for part in (rows, rows * rows))
    return next(sums), next(sums)


def _activated(values: Tensor, chain: Chain) -> Tensor:
    name, numbers = chain.activation
    if name == "relu":
        return values.relu_()
    return values.clamp_(*numbers) if name == "hardtanh" else values
