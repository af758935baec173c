"""A pruned network as a metric is handed it: itself, with a forward pass that is fused where nobody can tell.

A metric may be anybody's code, and do with a network whatever people do with networks: read its parameters, device,
config and layers, take a part of it, hook a layer, exchange the head, ask for gradients. All that it finds is the
pruned network's own. Only when the network is called as a whole, with one batch of what it was watched on, and nothing
of it has changed, does the fused one compute in its place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from autoprune.engine.fused import Fused
from autoprune.inputs import device_of

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


@dataclass
class Plainly:
    """What was not computed by the fused network.

    Attributes:
        why: of the first pass.
        passes: how many.
        samples: in them.
        seconds: that they took.
        seen: the shape of the first one's batch; empty where it was none that the fused network takes.
        saved: seconds that the fused network takes for a sample; 0 where that is not known.
    """

    why: str = ""
    passes: int = 0
    samples: int = 0
    seconds: float = 0.0
    seen: tuple[int, ...] = ()
    saved: float = 0.0

    def add(self, why: str, seconds: float, inputs: object = None) -> None:
        """One more pass."""
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else ()
        self.why, self.seen = self.why or why, self.seen or shape
        self.passes, self.samples, self.seconds = self.passes + 1, self.samples + sum(shape[:1]), self.seconds + seconds

    def measure(self, network: Fused, model: nn.Module) -> None:
        """Time `network`, which was made of `model`, on a batch like the first, once, if nobody notices."""
        if self.saved or self.seen[1:] != network.takes or not self.seen or _hooked(model):
            return
        images = torch.zeros(self.seen, device=device_of(model))
        with torch.inference_mode():
            for _ in range(2):  # the first makes programs of its operators
                begun = time.perf_counter()
                network(images)
                self.saved = (time.perf_counter() - begun) / max(1, self.seen[0])

    def sentence(self, metric: str) -> str:
        """What a reader of the report must know; "" where there is nothing."""
        if not self.passes:
            return ""
        more = max(0.0, self.seconds - self.saved * self.samples)
        cost = f", {more:.3g} s more than fused" if self.saved else ""
        slow = f"trials ran networks layer by layer for {self.seconds:.3g} s{cost}"
        return f"The metric {metric!r} {self.why}, so that {slow}."


@contextlib.contextmanager
def presented(model: nn.Module, network: Fused, plainly: Plainly) -> Iterator[nn.Module]:
    """Inside, `model` computes as `network`, which was made of it, where nobody can tell; else it adds to `plainly`."""
    if "forward" in vars(model):
        begun = time.perf_counter()
        yield model
        plainly.add("is handed a network whose forward was replaced", time.perf_counter() - begun)
        return
    vars(model)["forward"] = _Forward(model, network, plainly)
    try:
        yield model
    finally:
        vars(model).pop("forward", None)


class _Forward:
    """Stands in for the forward of one network. A copy of the network has its own again."""

    def __init__(self, model: nn.Module, network: Fused, plainly: Plainly) -> None:
        self.model = model
        self.network = network
        self.plainly = plainly
        self.made = _marks(model)

    def __call__(self, *placed: Any, **named: Any) -> Any:
        """What the network says."""
        if not (why := self._told_apart(placed, named)):
            return self.network(*placed)
        begun = time.perf_counter()
        try:
            return type(self.model).forward(self.model, *placed, **named)
        finally:
            self.plainly.add(why, time.perf_counter() - begun, next(iter((*placed, *named.values())), None))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.model, "forward")  # of a copy that has no attributes yet: its class's

    def _told_apart(self, placed: tuple[Any, ...], named: dict[str, Any]) -> str:
        """Why somebody could tell, in words; "" where nobody can."""
        model, (inputs, *rest) = self.model, placed or (None,)
        if rest or named or not isinstance(inputs, Tensor):
            return "calls the network with other arguments than the task's example"
        if tuple(inputs.shape[1:]) != self.network.takes or inputs.dtype != torch.float32:
            return "gives the network inputs unlike those of the task's example"
        if torch.is_autocast_enabled(inputs.device.type) != (self.network.precision != "fp32"):
            return "runs the network in a precision of its own"
        if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
            return "traces or compiles the network"
        if _hooked(model):
            return "hooks layers of the network"
        if _marks(model) != self.made:
            return "changes the network"
        if any(module.training for module in model.modules()):
            return "runs the network in training mode"
        if torch.is_grad_enabled() and (inputs.requires_grad or any(p.requires_grad for p in model.parameters())):
            return "runs the network outside of torch.inference_mode()"
        return ""


def _hooked(model: nn.Module) -> bool:
    """Whether something else runs when a layer inside of `model` does."""
    layers = (module for module in model.modules() if module is not model)
    inside = any(getattr(layer, hooks) for layer in layers for hooks in _HOOKS)
    return inside or any(getattr(everywhere, hooks) for hooks in _GLOBAL)


def _marks(model: nn.Module) -> list[object]:
    """What differs as soon as a layer or a number of `model` is another."""
    found: list[object] = []
    for module in model.modules():
        found += [id(module), module is not model and "forward" in vars(module)]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found += [id(tensor), tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version]
    return found
