"""Operators and layers that a user declares: what they do to channels, so that what passes through can be pruned.

A declaration is a plugin of the kind "operator". It says what it is of: an operator, "library::name", or a layer, by
the name of its class or as "module:Class". It is believed no more than our own tables: the proof judges.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from torch import nn

from autoprune import inputs
from autoprune.errors import ConfigError, first_line
from autoprune.structure import operators
from autoprune.structure.labels import Call, Flow, Nodes
from autoprune.values.ranges import Range


class Operator(Protocol):
    """What one operator or layer does to labels."""

    @property
    def of(self) -> str:
        """The operator, "library::name", or the layer's class, "Class" or "module:Class"."""
        ...

    def follow(self, call: Call) -> None:
        """Read `call.labels` of its inputs; `call.set` those of its outputs, `call.flow.join` or `call.flow.pin`."""
        ...


@dataclass(frozen=True)
class Pointwise:
    """Every output position depends on the same position of the inputs, broadcast: an activation, a sum of two.

    Attributes:
        of: an operator, "library::name", or a layer, "Class" or "module:Class".
    """

    of: str

    def follow(self, call: Call) -> None:
        """As `Operator.follow`."""
        operators.pointwise(call)


@dataclass(frozen=True)
class KeepsChannels:
    """Channel i of the outputs is made from channel i of the first input alone: a filter, a pooling, a resizing.

    Attributes:
        of: an operator, "library::name", or a layer, "Class" or "module:Class".
        dim: the dimension of the channels, in input and outputs.
    """

    of: str
    dim: Annotated[int, Range(-16, 16)] = 1

    def follow(self, call: Call) -> None:
        """As `Operator.follow`."""
        labels = call.labels(call.inputs[0])
        channel = self.dim % len(labels)
        call.flow.pin([nodes for d, nodes in enumerate(labels) if d != channel], f"is what {self.of} works over")
        for which, out in enumerate(call.outputs):
            place = self.dim % out.dim()
            call.set([labels[channel] if d == place else None for d in range(out.dim())], which)


@dataclass(frozen=True)
class Mixes:
    """Reads all that comes in, and its own width is fixed: nothing that enters may leave.

    Attributes:
        of: an operator, "library::name", or a layer, "Class" or "module:Class".
    """

    of: str

    def follow(self, call: Call) -> None:
        """As `Operator.follow`."""
        for tensor in call.inputs:
            call.flow.pin(call.labels(tensor), f"is read by {self.of}, which takes all of it")
        for which, out in enumerate(call.outputs):
            call.set([None] * out.dim(), which)


class Declared:
    """The declarations of one network, and which of them it has come by."""

    def __init__(self, declared: Sequence[Operator]) -> None:
        self._all: Mapping[str, Operator] = {one.of: one for one in declared}
        self._met: set[str] = set()
        self.layers: set[str] = set()  # what they hold in memory is not known

    def handler(self, func: Any, op: str) -> Callable[[Call], None]:
        """What `func`, of the name `op`, does to labels: as declared or, if it is not, as `operators.handler` says."""
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        one = self._all.get(name)
        if one is None:
            return operators.handler(func, op)
        self._met.add(name)
        return lambda call: _followed(one, call)

    @contextlib.contextmanager
    def watching(self, model: nn.Module, flow: Flow) -> Iterator[None]:
        """Inside, layers of `model` that are declared do to labels what is declared, whatever happens within.

        Raises ConfigError at the end for a declaration of what the network has not.
        """
        hooks = []
        for module in model.modules():
            for name in (type(module).__name__, f"{type(module).__module__}:{type(module).__qualname__}"):
                if name in self._all:
                    self._met.add(name)
                    self.layers.add(name)
                    hooks += _hooked(module, flow, self._all[name])
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for name in self._all.keys() - self._met:
            layers = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
            raise ConfigError(
                f"[[operator]] of = {name!r}: the network calls no such operator and has no such layer; "
                f'an operator is written "library::name", its layers are {layers}'
            )


def _followed(declared: Operator, call: Call) -> None:
    """What the declaration says of `call`. Raises ConfigError where it fails, whatever a user's code raises."""
    try:
        declared.follow(call)
    except Exception as wrong:
        raise ConfigError(
            f"[[operator]] of = {declared.of!r} fails on inputs of shape {inputs.shapes(call.inputs)}: "
            f"{type(wrong).__name__}: {first_line(wrong)}"
        ) from wrong


def _hooked(module: nn.Module, flow: Flow, declared: Operator) -> list[Any]:
    """Around each call of `module`: what was pinned within is not, what was joined is, and its outputs are labelled."""
    before: list[tuple[int, int]] = []

    def enter(module: nn.Module, args: Any) -> None:
        before.append((len(flow.pins), len(flow.work)))

    def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        pins, work = before.pop()
        del flow.pins[pins:]
        call = _Layer(flow, declared.of, args, kwargs, out)
        _followed(declared, call)
        if len(flow.work) > work and any(nodes is not None for t in call.outputs for nodes in call.labels(t)):
            for tensor in (*call.inputs, *call.outputs):
                flow.pin(call.labels(tensor), f"passes through {declared.of}, which multiplies; declare its operators")

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, with_kwargs=True)]


class _Layer(Call):
    """A whole layer at work, as if it were one operator."""

    def __init__(self, flow: Flow, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.flow, self.args, self.kwargs, self.out, self.op = flow, args, kwargs, out, name
        self.inputs, self.outputs = inputs.tensors((args, kwargs)), inputs.tensors(out)

    def set(self, labels: Any, which: int = 0) -> None:
        """Label the output number `which`; with what the operators within have found, where they have."""
        found = self.flow.labels(self.outputs[which])
        self.flow.put(self.outputs[which], [self._both(*pair) for pair in zip(labels, found, strict=True)])

    def _both(self, declared: Nodes | None, found: Nodes | None) -> Nodes | None:
        return declared if declared is None or found is None else self.flow.join(declared, found, "")
