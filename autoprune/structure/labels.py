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
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune import inputs
from autoprune.structure import counts
from autoprune.structure.edits import layer_of
from autoprune.structure.formulas import formula_of
from autoprune.structure.places import Functions, Places
from autoprune.structure.routed import Routed

Nodes = NDArray[np.int64]
Labels = tuple[Nodes | None, ...]  # one entry a dimension
Geometry = tuple[int, int, int, int, int]  # input channels, height, width, stride, kernel

PAD = 0  # the node that stands for zeros put there by padding
UNCOUNTED = torch.ops.aten.detach.default  # torch calls it behind zeros(...) where someone else holds the tensor


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
    number: int = 0  # of operators before it


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator that reads weights or is known to multiply, and whose MACs no formula gives.

    Attributes:
        op: its name; `func` is the operator itself.
        what: it and where it runs, for people.
    """

    op: str
    func: Any
    what: str


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
        self.heads: list[Nodes] = []  # side by side in a product of two tensors that are computed
        self.counted: dict[tuple[str, str], Nodes] = {}  # what a number counts, by its module and attribute
        self.split: list[tuple[str, Nodes, int]] = []  # by which module, into which heads, of how many channels
        self.work: list[Work] = []
        self.uncounted: list[Uncounted] = []
        self.used: set[str] = set()  # parameters and buffers that an operator has read
        self.made: list[list[tuple[tuple[int, ...], Labels, int]]] = []  # shape, labels, bytes of an element
        self.nodes = 1  # PAD is the first
        self.scalars: list[str] = []  # parameters without a dimension
        self.owners = _owners(model)
        self.places, self.routed, self.functions = Places(), Routed(), Functions()
        self._statistics: dict[int, tuple[Nodes, str, Tensor]] = {}
        self._read: set[int] = set()
        self._met: set[int] = set()
        self._carried: dict[int, tuple[Tensor, tuple[Nodes, ...]]] = {}
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        # The parameter or buffer that a tensor comes from; "" where the network's inputs have a part in it.
        self._origin: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()
        self._size: dict[str, int] = {}  # elements of each parameter, 0 of a buffer
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._add_leaf(name, tensor)
        sizes = [(self._size[leaf.tensor], leaf.size) for leaf in self.leaves]
        self._largest: Nodes = np.concatenate([[-1], *(np.full(n, size) for size, n in sizes)]).astype(np.int64)

    @contextlib.contextmanager
    def watching(self, model: nn.Module, example: inputs.Inputs) -> Iterator[None]:
        """Inside, `model` runs on `example`: what is computed from that is told from what comes from weights alone."""
        for tensor in inputs.tensors(example):
            self._origin[tensor] = ""
        with self, self.places.watching(model), counts.named(model), Functions() as self.functions:
            yield

    def pin_outputs(self, outputs: object) -> None:
        """Pin what leaves the network, and what is reduced to a number that does not normalise it."""
        self._read.update(map(id, inputs.tensors(outputs)))
        for one, (nodes, why, result) in self._statistics.items():
            if one not in self._met and id(result) in self._read:
                self.pin([nodes], why)
        for tensor in inputs.tensors(outputs):
            self.pin(self.labels(tensor), "is the network's output")

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of `tensor`; of a tensor never seen, or that was resized since, None everywhere."""
        known = self._known.get(id(tensor))
        return known[1] if known and _fit(known[1], tensor) else (None,) * tensor.dim()

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether `tensor` was computed from parameters or buffers, and from nothing that depends on the inputs."""
        return bool(self.name(tensor))

    def name(self, tensor: Tensor) -> str:
        """The parameter or buffer that `tensor` is, or the largest that it was computed from; "" if it is no weight."""
        return self._origin.get(tensor, "")

    def size(self, name: str) -> int:
        """The elements of a parameter; 0 of a buffer."""
        return self._size[name]

    def put(self, tensor: Tensor, labels: Iterable[Nodes | None]) -> None:
        """Say what the positions of `tensor` stand for."""
        self._known[id(tensor)] = (tensor, tuple(labels))  # the reference keeps the id from being used again

    def fresh(self, size: int) -> Nodes:
        """Nodes of positions that no parameter has, such as of zeros that the network makes."""
        self.nodes += size
        return np.arange(self.nodes - size, self.nodes)

    def statistic(self, nodes: Nodes, why: str, result: Tensor) -> Nodes:
        """The node of a number that is computed over `nodes`: where it meets them again it normalises them.

        Where it does not, they cannot be removed, because they are `why`; unless nobody reads the `result`.
        """
        one = self.fresh(1)
        self._statistics[int(one[0])] = (nodes, why, result)
        return one

    def is_statistic(self, nodes: Nodes) -> bool:
        """Whether every position stands for one statistic."""
        return len(nodes) > 0 and int(nodes[0]) in self._statistics and bool((nodes == nodes[0]).all())

    def meets(self, statistic: Nodes, nodes: Nodes) -> bool:
        """Whether `nodes` are those that the `statistic` is of; then it normalises them."""
        own, *_ = self._statistics[int(statistic[0])]
        if not np.array_equal(np.unique(own), np.unique(nodes)):
            return False
        self.renormalised.append(nodes)
        self._met.add(int(statistic[0]))
        return True

    def carried(self, tensor: Tensor) -> tuple[Nodes, ...]:
        """The statistics that `tensor` is made of, where the dimension that they were taken over is gone."""
        return self._carried[id(tensor)][1] if id(tensor) in self._carried else ()

    def carry(self, tensors: Iterable[Tensor], statistics: tuple[Nodes, ...]) -> None:
        """Say that `tensors` are made of these `statistics`, see `carried`."""
        for tensor in tensors if statistics else ():
            self._carried[id(tensor)] = (tensor, statistics)

    def join(self, left: Nodes | None, right: Nodes | None, why: str) -> Nodes | None:
        """`left` and `right` go together, position by position; None on one side pins the other.

        What comes out stands for both, by the nodes of the larger parameter: a kernel's rather than its mask's.
        """
        if left is None or right is None:
            self.pin((left, right), why)
            return None
        if left is right:
            return left
        for padded, other in ((left, right), (right, left)):
            self.pin((other[padded == PAD],), "is added to channels that a shortcut pads with zeros")
        real = (left != PAD) & (right != PAD)
        self.joins.append((left[real], right[real]))
        return np.where(self._elements(right) > self._elements(left), right, left)

    def pin(self, labels: Iterable[Nodes | None], why: str) -> None:
        """None of these may be removed: it `why`. Where in the network that is, is added."""
        where = self.places.words()
        why = f"{why} in {where}" if where and where not in why else why
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
        self._read.update(map(id, call.inputs))
        if func is not UNCOUNTED:
            self.made.append([(tuple(t.shape), self.labels(t), t.element_size()) for t in call.outputs])
        self.routed.note(call, self.places.words())
        flops, scales = formula_of(func.overloadpacket), self._scales(call)
        if flops and scales:
            macs = flops(*args, **kwargs, out_val=out) // 2
            self.work.append(call.work(macs, scales, *self._geometry(call)))
            self.routed.multiplied(call)
        elif (
            flops
            or "attention" in call.op
            or any(tensor.is_floating_point() and self.is_weight(tensor) for tensor in call.inputs)
        ):
            self.uncounted.append(Uncounted(call.op, func, self.places.operator(call.op)))
        self._note_origins(call)
        return out

    def _note_origins(self, call: Call) -> None:
        """Note which weights were read, and whether what came out is a weight or depends on the network's inputs."""
        origins = [name for tensor in call.inputs if (name := self.name(tensor))]
        self.used.update(origins)
        moving = any(self._origin.get(tensor) == "" for tensor in call.inputs)
        for tensor in call.outputs if moving or origins else ():
            self._origin[tensor] = "" if moving else max(origins, key=self.size)

    def _elements(self, nodes: Nodes) -> Nodes:
        """Of the parameter that each node belongs to; -1 for padding."""
        found: Nodes = self._largest[np.where(nodes < len(self._largest), nodes, PAD)]
        return found

    def _add_leaf(self, name: str, tensor: Tensor) -> None:
        labels: list[Nodes] = []
        parameter = isinstance(tensor, nn.Parameter)
        self._size[name] = tensor.numel() if parameter else 0
        if parameter and not tensor.dim():
            self.scalars.append(name)
        for dim, size in enumerate(tensor.shape):
            self.leaves.append(Leaf(name, dim, self.nodes, size, parameter))
            labels.append(np.arange(self.nodes, self.nodes + size))
            self.nodes += size
        self._origin[tensor] = name
        self.put(tensor, labels)


def _fit(labels: Labels, tensor: Tensor) -> bool:
    pairs = zip(labels, tensor.shape, strict=False)
    return len(labels) == tensor.dim() and all(nodes is None or len(nodes) == size for nodes, size in pairs)


def _owners(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Of every parameter and buffer the layers that have it; several, where layers share it."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for tensors in (model.named_parameters, model.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            found.setdefault(first.setdefault(id(tensor), name), []).append(layer_of(name))
    return {name: tuple(dict.fromkeys(layers)) for name, layers in found.items()}


class Call:
    """One operator at work: its tensors, and short ways to read and write their labels."""

    def __init__(self, flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.flow, self.func, self.args, self.kwargs, self.out = flow, func, args, kwargs, out
        self.op: str = func.overloadpacket.__name__
        if func.namespace != "aten":
            self.op = f"{func.namespace}::{self.op}"
        if self.op.endswith("_") and not self.op.endswith("__"):
            self.op = self.op[:-1]  # in place or not, the channels flow alike
        self.inputs = inputs.tensors((args, kwargs))
        self.outputs = inputs.tensors(out)

    @property
    def what(self) -> str:
        """The operator and where it runs, for people."""
        return self.flow.places.operator(self.op)

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
        self.flow.put(self.outputs[which], labels)

    def weight_name(self) -> str:
        """The largest parameter that it reads, or the operator."""
        return max((name for t in self.inputs if (name := self.flow.name(t))), key=self.flow.size, default=self.op)

    def work(self, macs: int, dims: Sequence[tuple[Tensor, int]], geometry: Geometry, kind: str) -> Work:
        """This operator's `macs`, which are proportional to the sizes of `dims`."""
        found = [(t.shape[d], self.labels(t)[d]) for t, d in dims]
        sizes, labels = tuple(s for s, _ in found), tuple(nodes for _, nodes in found)
        moved = tuple((tuple(t.shape), self.labels(t)) for t in (*self.inputs, *self.outputs) if t.dim())
        return Work(self.weight_name(), macs, sizes, labels, geometry, kind, moved, len(self.flow.made) - 1)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, attention and recurrent layers run as the matrix products that they are.

    Fused, they hide them from everyone who counts.
    """
    fast, fused = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(fused)
