"""Whole numbers on modules that remember where a network's code has read them: `num_heads`, `split_size`, `embed_dim`.

While a network is traced, each number on a module of its own is a `Counted`. Where the code gives it to a view, a split
or an expansion, it counts what lies along that dimension (`structure.heads`). A number that is written down in the code
remembers nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


class Counted(int):
    """A whole number that remembers the module and the attribute that it was read from."""

    module: str
    attribute: str

    @classmethod
    def of(cls, value: int, module: str, attribute: str) -> Counted:
        """`value`, which the module of that name keeps as `attribute`."""
        made = cls(value)
        made.module, made.attribute = module, attribute
        return made

    def __mul__(self, other: Any) -> Any:
        return self if type(other) is int and other == 1 else super().__mul__(other)  # by one sample

    __rmul__ = __mul__

    def __deepcopy__(self, memo: object) -> Counted:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


@contextlib.contextmanager
def named(model: nn.Module) -> Iterator[None]:
    """Inside, whole numbers above 1 on modules of `model` that are not torch's own remember where they come from."""
    kept: list[tuple[nn.Module, str, int]] = []
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("torch.nn."):
            own = {word: value for word, value in vars(module).items() if type(value) is int and value > 1}
            kept += [(module, word, value) for word, value in own.items()]
            vars(module).update({word: Counted.of(value, name, word) for word, value in own.items()})
    try:
        yield
    finally:
        for module, word, value in kept:
            vars(module)[word] = value
