"""How channels flow through a network: one forward pass under a dispatch mode that gives every channel a label.

Every position of every dimension of every parameter and buffer is a node. A tensor carries, for each dimension, the
nodes that its positions stand for (None where they stand for nothing that can be removed: pixels, tokens, the batch).
Operators pass labels on, join nodes that must go together (a convolution's input channels and the columns of its
kernel; two sides of an addition), or pin nodes that cannot go, with a reason. What each operator does is said in
`structure.operators`; one that is not known there pins everything that enters it: unknown is never guessed.

The labels say what is coupled. Whether cutting it is right is proven afterwards, by `structure.trace`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from autoprune import inputs

Nodes = NDArray[np.int64]
Labels = tuple[Nodes | None, ...]  # one entry a dimension
Geometry = tuple[int, int, int, int, int]  # input channels, height, width, stride, kernel

PAD = 0  # the node that stands for zeros put there by padding


@dataclass(frozen=True, slots=True)
class Leaf:
    """One dimension of one parameter or buffer: nodes `first` to `first + size`."""

    tensor: str
    dim: int
    first: int
    size: int
    parameter: bool


@dataclass(frozen=True, slots=True)
class Work:
    """One operator's MACs for the dense network, and the labels of the dimensions they are proportional to.

    `geometry` is what a learning controller sees of it: input channels, input height and width, stride and kernel.
    `moved` are the sizes and labels of the tensors that it reads, and then of those that it writes.
    """

    name: str
    macs: int
    sizes: tuple[int, ...]
    labels: Labels
    geometry: Geometry
    kind: str
    moved: tuple[tuple[tuple[int, ...], Labels], ...]


Choose = Callable[[Any, str], Callable[["Call"], None]]  # operator and its name -> what it does to labels
Scales = Callable[["Call"], list[tuple[Tensor, int]]]  # the dimensions that an operator's MACs are proportional to
Measure = Callable[["Call"], tuple[Geometry, str]]  # and what kind of operator it is, in words


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records joins, pins, roles and work while a network runs. Use as a context around one forward pass."""

    def __init__(self, model: nn.Module, handler: Choose, scales: Scales, geometry: Measure) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._handler, self._scales, self._geometry = handler, scales, geometry
        self.leaves: list[Leaf] = []
        self.joins: list[tuple[Nodes, Nodes]] = []
        self.pins: list[tuple[Nodes, str]] = []
        self.produced: list[Nodes] = []  # in order of execution
        self.consumed: list[Nodes] = []
        self.renormalised: list[Nodes] = []
        self.work: list[Work] = []
        self.made: list[list[tuple[tuple[int, ...], Labels, int]]] = []  # shape, labels, bytes of an element
        self.nodes = 1  # PAD is the first
        self.scalars = 0  # parameters without a dimension
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        self._weights: set[int] = set()  # tensors that come from parameters alone
        self._names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._add_leaf(name, tensor)

    def pin_outputs(self, outputs: object) -> None:
        """Pin what leaves the network."""
        for tensor in inputs.tensors(outputs):
            self.pin(self.labels(tensor), "is the network's output")

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of `tensor`; of a tensor never seen, None everywhere."""
        known = self._known.get(id(tensor))
        return known[1] if known else (None,) * tensor.dim()

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether `tensor` was computed from parameters alone."""
        return id(tensor) in self._weights

    def name(self, tensor: Tensor) -> str:
        """The name of the parameter or buffer that `tensor` is; "" if it is none."""
        return self._names.get(id(tensor), "")

    def put(self, tensor: Tensor, labels: Iterable[Nodes | None], *, weight: bool = False) -> None:
        """Say what the positions of `tensor` stand for."""
        self._known[id(tensor)] = (tensor, tuple(labels))  # the reference keeps the id from being used again
        if weight:
            self._weights.add(id(tensor))

    def join(self, left: Nodes | None, right: Nodes | None, why: str) -> Nodes | None:
        """`left` and `right` go together, position by position; None on one side pins the other."""
        if left is None or right is None:
            self.pin((left, right), why)
            return None
        for padded, other in ((left, right), (right, left)):
            self.pin((other[padded == PAD],), "is added to channels that a shortcut pads with zeros")
        real = (left != PAD) & (right != PAD)
        self.joins.append((left[real], right[real]))
        return np.where(left == PAD, right, left)

    def pin(self, labels: Iterable[Nodes | None], why: str) -> None:
        """None of these may be removed."""
        for nodes in labels:
            if nodes is not None and len(nodes):
                self.pins.append((nodes[nodes != PAD], why))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        call = Call(self, func, args, kwargs, out)
        self._handler(func, call.op)(call)
        self.made.append([(tuple(t.shape), self.labels(t), t.element_size()) for t in call.outputs])
        if func.overloadpacket in flop_registry:
            call.count_macs(self._scales(call), *self._geometry(call))
        return out

    def _add_leaf(self, name: str, tensor: Tensor) -> None:
        labels: list[Nodes] = []
        parameter = isinstance(tensor, nn.Parameter)
        self.scalars += parameter and not tensor.dim()
        for dim, size in enumerate(tensor.shape):
            self.leaves.append(Leaf(name, dim, self.nodes, size, parameter))
            labels.append(np.arange(self.nodes, self.nodes + size))
            self.nodes += size
        self._names[id(tensor)] = name
        self.put(tensor, labels, weight=True)


class Call:
    """One operator at work: its tensors, and short ways to read and write their labels."""

    def __init__(self, flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.flow, self.func, self.args, self.kwargs, self.out = flow, func, args, kwargs, out
        self.op: str = func.overloadpacket.__name__
        if self.op.endswith("_") and not self.op.endswith("__"):
            self.op = self.op[:-1]  # in place or not, the channels flow alike
        self.inputs = inputs.tensors((args, kwargs))
        self.outputs = inputs.tensors(out)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at `position` or called `name`."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def labels(self, tensor: Tensor | None) -> Labels:
        """As `Flow.labels`; none for no tensor."""
        return self.flow.labels(tensor) if tensor is not None else ()

    def set(self, labels: Iterable[Nodes | None], which: int = 0) -> None:
        """Label the output number `which`."""
        weight = all(self.flow.is_weight(t) for t in self.inputs) and bool(self.inputs)
        self.flow.put(self.outputs[which], labels, weight=weight)

    def weight_name(self) -> str:
        """The first parameter among the inputs, or the operator."""
        return next((n for t in self.inputs if (n := self.flow.name(t))), self.op)

    def count_macs(self, dims: Sequence[tuple[Tensor, int]], geometry: Geometry, kind: str) -> None:
        """Note this operator's MACs, which are proportional to the sizes of `dims`."""
        flops = flop_registry[self.func.overloadpacket](*self.args, **self.kwargs, out_val=self.out)
        found = [(t.shape[d], self.labels(t)[d]) for t, d in dims]
        sizes, labels = tuple(s for s, _ in found), tuple(nodes for _, nodes in found)
        moved = tuple((tuple(t.shape), self.labels(t)) for t in (*self.inputs, *self.outputs) if t.dim())
        self.flow.work.append(Work(self.weight_name(), int(flops) // 2, sizes, labels, geometry, kind, moved))


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, attention runs as the matrix products that it is: fused, it hides them from everyone who counts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
