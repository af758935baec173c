"""What a forward pass holds in memory: every block of memory, when it comes and when it goes.

One pass under a dispatch mode that sees each operator's outputs and looks, after each, which blocks are gone. A view
shares the block of what it views. What is held is what PyTorch holds layer by layer; runtimes that plan memory hold
less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.inputs import Inputs, call, first, mapped, tensors
from autoprune.structure.labels import UNCOUNTED, plain


@dataclass
class Held:
    """One block of memory.

    Attributes:
        call, output: which operator made it, and which of its outputs it is; -1 and the argument for the inputs.
        bytes: how large it is.
        gone: the last operator while it was there.
    """

    call: int
    output: int
    bytes: int
    gone: int = -1
    _block: StorageWeakRef | None = field(default=None, repr=False)


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every block while a network runs. Use as a context around one forward pass."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks: list[Held] = []
        self.calls = 0
        self._own = {_address(t) for t in (*model.parameters(), *model.buffers())}
        self._alive: dict[int, Held] = {}
        for place, tensor in enumerate(tensors(inputs)):
            self._note(-1, place, tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._forget()
        out = func(*args, **dict(kwargs or {}))
        for place, tensor in enumerate(tensors(out)):
            self._note(self.calls, place, tensor)
        self.calls += func is not UNCOUNTED
        return out

    def finish(self) -> list[Held]:
        """Every block that was made."""
        for held in self._alive.values():
            held.gone = self.calls - 1
        return self.blocks

    def _note(self, call: int, output: int, tensor: Tensor) -> None:
        address = _address(tensor)
        known = self._alive.get(address)
        if address in self._own or not tensor.numel() or known is not None:
            return
        held = Held(call, output, tensor.numel() * tensor.element_size(), _block=_weak(tensor))
        self.blocks.append(held)
        self._alive[address] = held

    def _forget(self) -> None:
        for address, held in list(self._alive.items()):
            if _gone(held):
                held.gone = self.calls - 1
                del self._alive[address]


def footprint(model: nn.Module, example: Inputs) -> list[Held]:
    """The blocks of one forward pass of the first sample of `example`."""
    mode = Footprint(model, inputs := mapped(first(example, 1), Tensor.clone))
    with plain(), mode:
        outputs = call(model, inputs)
    del outputs
    return mode.finish()


def peak(blocks: list[Held]) -> int:
    """The most bytes that are held at once: an operator's outputs beside all that is not gone yet."""
    calls = max((held.gone for held in blocks), default=0)
    return max((sum(h.bytes for h in blocks if h.call <= at <= h.gone) for at in range(calls + 1)), default=0)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _weak(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _gone(held: Held) -> bool:
    assert held._block is not None
    return bool(held._block.expired())  # type: ignore[no-untyped-call]
