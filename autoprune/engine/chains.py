"""What of a network can be computed at once: a convolution, the BatchNorm behind it, an addition and an activation.

A network is read once, with torch.fx, and watched once on some inputs. What was found is true of every pruned copy,
whose graph is the same: only widths differ. `autoprune.engine.fused` then computes a pruned network in that way.

Where the activations lie is watched, too: between convolutions they can be held in eight bits, on the scale that the
dense network's activations have.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from autoprune.copies import copied
from autoprune.errors import first_line
from autoprune.inputs import Inputs

Span = tuple[float, float]  # the least and the largest value seen

_ADD = (operator.add, operator.iadd, torch.add)
_RELU = (functional.relu, functional.relu_, torch.relu, torch.relu_)
_PAD = (functional.pad, torch.constant_pad_nd)


class Unfusable(Exception):
    """A network that cannot be read, with the reason. It is then computed as it is."""


class Code(NamedTuple):
    """What eight bits mean: value = (code - zero) x scale, codes from 0 to 255."""

    scale: float
    zero: int

    @classmethod
    def of(cls, span: Span) -> Code:
        """The finest that holds `span` and 0."""
        low, high = min(span[0], 0.0), max(span[1], 0.0)
        scale = max((high - low) / 255, 1e-8)
        return cls(scale, round(-low / scale))


class Activation(NamedTuple):
    """What follows a convolution, by its name in oneDNN, with its numbers."""

    name: str = "none"
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A convolution and what is computed together with it.

    Attributes:
        conv: its node, a call of a module.
        norm: the BatchNorm behind it, if any.
        other: what is added, if anything.
        spoils: whether `other` may be overwritten by the sum, since nobody reads it later.
        activation: of the sum.
        tail: the last node of the chain, whose value the chain computes.
        inner: the nodes that vanish in the chain.
    """

    conv: fx.Node
    norm: fx.Node | None
    other: fx.Node | None
    spoils: bool
    activation: Activation
    tail: fx.Node
    inner: tuple[fx.Node, ...]

    @property
    def source(self) -> fx.Node:
        """What the convolution reads."""
        node = self.conv.args[0]
        assert isinstance(node, fx.Node)
        return node


@dataclass(frozen=True)
class Fusion:
    """A network's graph and the chains in it.

    Attributes:
        graph: of the dense network.
        chains: by the node that they compute.
        codes: of the values that may be held in eight bits, the chains' inputs and all that they are handed on to.
        shapes: of each node's value on the inputs that were watched.
    """

    graph: fx.Graph
    chains: Mapping[fx.Node, Chain]
    codes: Mapping[fx.Node, Code]
    shapes: Mapping[fx.Node, tuple[int, ...]]


def read(model: nn.Module, inputs: Inputs) -> Fusion:
    """The chains of `model`, which is only read, from one forward pass of `inputs` in full precision.

    Raises Unfusable for a network whose graph depends on values, that takes or gives anything but one tensor, or in
    which no convolution can be fused with anything.
    """
    if not isinstance(inputs, Tensor):
        raise Unfusable("it takes more than one tensor")
    twin = copied(model).eval()
    try:
        traced = fx.symbolic_trace(twin)
        with torch.no_grad():
            seen = _Watching(traced)
            output = seen.run(inputs)
    except Exception as wrong:  # whatever the user's forward raises when it is given a stand-in for a tensor
        raise Unfusable(f"its graph cannot be read ({first_line(wrong)})") from wrong
    if not isinstance(output, Tensor) or sum(node.op == "placeholder" for node in traced.graph.nodes) != 1:
        raise Unfusable("it takes or gives more than one tensor")
    chains = _chains(traced, seen.shapes)
    if not chains:
        raise Unfusable("it has no convolution that could be computed together with what follows")
    return Fusion(traced.graph, chains, _codes(traced, chains, seen.spans), seen.shapes)


class _Watching(fx.Interpreter):
    """Runs a graph and notes the span and the shape of every tensor."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.spans: dict[fx.Node, Span] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does, with notes."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value)
            self.spans[n] = (float(low), float(high))
            self.shapes[n] = tuple(value.shape)
        return value


def _chains(traced: fx.GraphModule, shapes: Mapping[fx.Node, tuple[int, ...]]) -> dict[fx.Node, Chain]:
    modules = dict(traced.named_modules())
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    found: dict[fx.Node, Chain] = {}
    taken: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "call_module" and calls[str(node.target)] == 1 and _is_plain(modules[str(node.target)], node):
            chain = _chain(node, modules, shapes, taken)
            found[chain.tail] = chain
            taken |= {*chain.inner, chain.tail}
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    return {tail: _spoiling(chain, found, order) for tail, chain in found.items()}


def _is_plain(module: nn.Module, node: fx.Node) -> bool:
    """Whether it is a convolution of two dimensions that pads with zeros and does nothing else."""
    conv = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return conv and len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)


def _chain(
    conv: fx.Node, modules: Mapping[str, nn.Module], shapes: Mapping[fx.Node, tuple[int, ...]], taken: set[fx.Node]
) -> Chain:
    """As much as can be computed together with `conv`, without the nodes that other chains have `taken`."""
    nodes, norm, other, activation = [conv], None, None, Activation()
    after = _only_reader(conv, taken)
    if after is not None and after.op == "call_module" and _is_norm(modules[str(after.target)]):
        norm = after
        nodes.append(after)
        after = _only_reader(after, taken)
    if after is not None and (added := _added(after, nodes[-1], shapes)) is not None:
        other = added
        nodes.append(after)
        after = _only_reader(after, taken)
    if after is not None and (acts := _activation(after, modules)) is not None:
        activation = acts
        nodes.append(after)
    return Chain(conv, norm, other, False, activation, nodes[-1], tuple(nodes[:-1]))


def _only_reader(node: fx.Node, taken: set[fx.Node]) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0] not in taken else None


def _is_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.track_running_stats


def _added(node: fx.Node, to: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]) -> fx.Node | None:
    """What `node` adds to `to`, if it is a plain sum of two tensors of one shape."""
    if not (_calls(node, _ADD, ("add", "add_")) and len(node.args) == 2 and not node.kwargs):
        return None
    others = [argument for argument in node.args if argument is not to]
    if len(others) == 1 and isinstance(others[0], fx.Node) and shapes.get(others[0]) == shapes.get(to, ()):
        return others[0]
    return None


def _activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> Activation | None:
    """The activation that `node` is, if it can be fused."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if type(module) is nn.ReLU:
            return Activation("relu")
        if type(module) in (nn.ReLU6, nn.Hardtanh):
            assert isinstance(module, nn.Hardtanh)
            return Activation("hardtanh", (float(module.min_val), float(module.max_val)))
        return None
    if _calls(node, _RELU, ("relu", "relu_")):
        return Activation("relu")
    if node.op == "call_function" and node.target is functional.relu6:
        return Activation("hardtanh", (0.0, 6.0))
    return None


def _calls(node: fx.Node, functions: Collection[Any], methods: Collection[str]) -> bool:
    if node.op == "call_function":
        return node.target in functions
    return node.op == "call_method" and str(node.target) in methods


def _spoiling(chain: Chain, chains: Mapping[fx.Node, Chain], order: Mapping[fx.Node, int]) -> Chain:
    """`chain`, which may overwrite what it adds if that is another chain's own and whoever else reads it is done.

    Only convolutions are trusted to be done: another reader might hand on a view.
    """
    if chain.other is None or chain.other not in chains or chain.other is chain.source:
        return chain
    done = {c.conv: order[tail] for tail, c in chains.items()}
    others = [user for user in chain.other.users if user not in (*chain.inner, chain.tail)]
    spoils = all(user in done and done[user] < order[chain.tail] for user in others)
    return dataclasses.replace(chain, spoils=spoils)


def _codes(
    traced: fx.GraphModule, chains: Mapping[fx.Node, Chain], spans: Mapping[fx.Node, Span]
) -> dict[fx.Node, Code]:
    """Of everything that a chain reads, and of what chains compute for chains; values handed on keep their code."""
    modules = dict(traced.named_modules())
    wanted = {chain.source for chain in chains.values()} | {c.other for c in chains.values() if c.other is not None}
    summed = {chain.tail for chain in chains.values() if chain.other is not None}
    for node in reversed(list(traced.graph.nodes)):
        if hands_on(node, modules) and node in wanted:
            wanted.add(node.all_input_nodes[0])
    found: dict[fx.Node, Code] = {}
    for node in traced.graph.nodes:
        source = node.all_input_nodes[0] if hands_on(node, modules) else None
        if source is not None and source in found and not (_calls(node, _PAD, ()) and found[source].zero):
            found[node] = found[source]
        elif node in spans and (node in wanted or node in summed):
            found[node] = Code.of(spans[node])
    return found


def hands_on(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether `node` only moves or picks values, and therefore does to codes what it does to numbers."""
    if node.op == "call_function" and node.target is operator.getitem:
        return len(node.all_input_nodes) == 1
    if _calls(node, _PAD, ()):
        plain = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value")
        return plain and len(node.all_input_nodes) == 1 and len(node.args) <= 2
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    return isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d) or is_plain_pool(module)


def is_plain_pool(module: nn.Module) -> bool:
    """Whether it takes the largest of each window and does nothing else."""
    return type(module) is nn.MaxPool2d and module.dilation == 1 and not (module.ceil_mode or module.return_indices)
