"""A pruned network as it is scored: chains computed at once, and in eight bits where that was chosen.

`Fuser` reads the dense network once; every pruned copy is then made ready in milliseconds. What it gives computes what
the copy computes in eval mode, up to rounding: BatchNorm folded into the convolution before it (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, section 3.2), sums and activations done where the convolution's result is still at
hand. In eight bits, weights are on a scale for each output channel and activations on the scale that the dense network
had when it was watched; sums inside a convolution are exact. The operators are those that torch's own compiler calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.copies import copied
from autoprune.engine.chains import Fusion, Unfusable, read
from autoprune.engine.int8 import encoded
from autoprune.engine.memory import laid_out
from autoprune.engine.steps import Making, Moments, Step, Values, moments, put
from autoprune.inputs import Inputs

SAME = 1e-3  # largest mean difference between fused and plain outputs in full precision, against their spread
_CHECKED = 8  # images on which that is seen
PLACES = 64  # of a channel in an image are enough for statistics over many images

Statistics = Mapping[str, Moments]  # by BatchNorm
Settle = Callable[[Statistics], Statistics]


@dataclass(frozen=True)
class Fuser:
    """Makes networks ready that have the graph of the one which was read."""

    fusion: Fusion

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs) -> Fuser:
        """Read `model`, which stays as it is, and watch it on `inputs`.

        Raises Unfusable where it cannot be read or does not compute the same when it is fused.
        """
        made = cls(read(model, inputs))
        twin = copied(model).eval()
        with torch.no_grad():
            wanted, found = twin(inputs[:_CHECKED]), made(twin, "fp32")(inputs[:_CHECKED])
        if not (wanted - found).abs().mean() <= SAME * wanted.std():
            raise Unfusable("fused, it computes something else")
        return made

    def __call__(self, model: nn.Module, precision: str) -> Fused:
        """`model` made ready; its weights are taken as they are now. Raises TrialFailed if one is not finite."""
        making = Making(self.fusion, dict(model.named_modules()), precision)
        return self._fused(making)

    def settled(
        self, model: nn.Module, precision: str, inputs: Sequence[Tensor], settle: Settle, places: int = PLACES
    ) -> Fused:
        """The same, after the BatchNorms of `model` were given statistics from all `inputs`, from the first on.

        What a BatchNorm is about to see is measured when everything before it has its statistics: in at least `places`
        of each image, at equal distances, where there are more. When all are known, `settle` is given those of every
        layer, and says which the network shall have.
        """
        making = Making(self.fusion, dict(model.named_modules()), precision)
        values: list[Values] = [{} for _ in inputs]
        for node, spent in self._order:
            chain = self.fusion.chains.get(node)
            if chain is not None and chain.norm is not None:
                put(making.norm(chain.norm), *making.seen(chain, values, places))
            step = making.step(node)
            for one, images in zip(values, inputs, strict=True):
                one[node] = images if node.op == "placeholder" else step(one)
                for dead in spent:
                    del one[dead]
        norms = {str(node.target): making.norm(node) for node in self._norms}
        for layer, found in settle({layer: moments(norm) for layer, norm in norms.items()}).items():
            put(norms[layer], *found)
        return self._fused(making)

    def settles(self, model: nn.Module) -> bool:
        """Whether `settled` gives statistics to every BatchNorm of `model` that has any."""
        norms = [str(node.target) for node in self._norms]
        have = [n for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        return sorted(norms) == sorted(have)

    def coded(self, inputs: Tensor) -> Tensor:
        """`inputs` as a network that is made ready in eight bits takes them, in less time where they come again."""
        (images,) = (node for node in self.fusion.graph.nodes if node.op == "placeholder")
        only_read = all(any(user is chain.conv for chain in self.fusion.chains.values()) for user in images.users)
        return laid_out(encoded(inputs, self.fusion.codes[images]) if only_read else inputs)

    def _fused(self, making: Making) -> Fused:
        steps = [(node, making.step(node), spent) for node, spent in self._order]
        return Fused(steps, making.precision, self.fusion.shapes[steps[0][0]][1:])

    @cached_property
    def _norms(self) -> list[fx.Node]:
        """The BatchNorms of chains."""
        return [chain.norm for chain in self.fusion.chains.values() if chain.norm is not None]

    @cached_property
    def _order(self) -> list[tuple[fx.Node, tuple[fx.Node, ...]]]:
        """What is computed, in order, and after each which values nobody reads any more."""
        inner = {node for chain in self.fusion.chains.values() for node in chain.inner}
        order = [node for node in self.fusion.graph.nodes if node not in inner]
        last = {source: node for node in order for source in _inputs(node, self.fusion)}
        spent: dict[fx.Node, list[fx.Node]] = {}
        for source, reader in last.items():
            spent.setdefault(reader, []).append(source)
        return [(node, tuple(spent.get(node, ()))) for node in order]


class Fused(nn.Module):
    """A network made ready. It can be called, and that is all: `engine.presented` makes more of it.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        takes: the shape of a sample.
        called: whether it was.
        finite: whether every output so far was.
    """

    def __init__(
        self, steps: list[tuple[fx.Node, Step, tuple[fx.Node, ...]]], precision: str, takes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._steps = steps
        self.precision = precision
        self.takes = takes
        self.called = False
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
        self.called = True
        self.finite = self.finite and bool(outputs.isfinite().all())
        return outputs


def _inputs(node: fx.Node, fusion: Fusion) -> list[fx.Node]:
    chain = fusion.chains.get(node)
    if chain is None:
        return node.all_input_nodes
    return list(dict.fromkeys([chain.source, *([chain.other] if chain.other is not None else [])]))
