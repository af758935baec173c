"""Where in a network an operator runs, in the words of whoever wrote it: "the GRU `rnn`", "`Net.forward`"."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from autoprune.structure.attention import PrunableAttention


class Places:
    """The modules that are running, the innermost last. Hooks keep it up to date inside `watching`."""

    def __init__(self) -> None:
        self._running: list[tuple[str, nn.Module]] = []

    def holding(self, attribute: str, value: int) -> str | None:
        """The name of the innermost module that runs and keeps `value` as `attribute`; None where none does."""
        for name, module in reversed(self._running):
            if vars(module).get(attribute) == value:
                return name
        return None

    def names(self) -> list[str]:
        """The names of the modules that run, the innermost last; "" is the network."""
        return [name for name, _ in self._running]

    def words(self) -> str:
        """The innermost module that runs, for people; "" outside of the network."""
        return described(*self._running[-1]) if self._running else ""

    def operator(self, op: str) -> str:
        """The operator `op` and where it runs; in a layer of torch's own, the layer stands for it."""
        if self._running and is_layer(self._running[-1][1]):
            return f"{self.words()} ({op})"
        return f"{op} in {self.words()}" if self._running else op

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Inside, calls of `model` and of what it holds are followed. Its hooks are afterwards as before."""
        handles = []
        for name, module in model.named_modules():
            if ".parametrizations." in f".{name}.":
                continue  # it computes a weight of the module above, which is running

            def enter(module: nn.Module, _: object, name: str = name) -> None:
                self._running.append((name, module))

            def leave(*_: object) -> None:
                self._running.pop()

            handles += [
                module.register_forward_pre_hook(enter, prepend=True),
                module.register_forward_hook(leave, always_call=True),
            ]
        try:
            yield
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()


class Functions(TorchFunctionMode):
    """Which function of torch is running, as the network calls it: a `chunk` has become a `split` as an operator.

    Attributes:
        running: its name; "" for none, or for one that a function of torch's own calls.
        written: the whole numbers that the network calls it with, in order, as its code says them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = ""
        self.written: tuple[int, ...] = ()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.running = getattr(func, "__name__", "")
        self.written = tuple(_whole_numbers((args, *(kwargs or {}).values())))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.running, self.written = "", ()


def _whole_numbers(value: object) -> Iterator[int]:
    """Those in a nesting of tuples, lists and slices."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, slice):
        yield from _whole_numbers((value.start, value.stop))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _whole_numbers(one)


def described(name: str, module: nn.Module) -> str:
    """A module for people: its type and its name; of the network itself, its forward."""
    plain = nn.MultiheadAttention if isinstance(module, PrunableAttention) else type(module)
    kind = plain.__name__.removeprefix("Parametrized")
    return f"the {kind} `{name}`" if name else f"`{kind}.forward`"


def is_layer(module: nn.Module) -> bool:
    """Whether `module` is a layer of torch's own that holds no other."""
    return type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is None
