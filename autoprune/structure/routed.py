"""Rows that a network picks by what it computes, such as those of an expert: MACs over them are up to the data."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_PUT = ("index_put", "_index_put_impl", "index_add", "index_copy", "scatter", "scatter_add", "scatter_reduce")
_BACK = frozenset((*_PUT, "masked_scatter", "masked_fill", "copy"))  # rows of the second go into the first


class Ran(Protocol):
    """What is asked of an operator that has run."""

    func: object
    op: str
    args: tuple[object, ...]
    inputs: list[Tensor]
    outputs: list[Tensor]


class Routed:
    """Follows dimensions that count what was picked, through one forward pass.

    Attributes:
        words: where products run over them, for people.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self._picked: MutableMapping[Tensor, tuple[frozenset[int], str]] = WeakTensorKeyDictionary()

    def note(self, call: Ran, where: str) -> None:
        """Note what an operator that ran in `where` does to them."""
        if call.op == "index":
            where = next((self._picked[t][1] for t in call.inputs if t in self._picked), where)
            if (place := self._indexed(call)) >= 0:
                self._picked[call.outputs[0]] = (frozenset([place]), where)
                return
        elif torch.Tag.dynamic_output_shape in getattr(call.func, "tags", ()):
            self._picked.update({tensor: (frozenset([0]), where) for tensor in call.outputs if tensor.dim()})
            return
        sources = call.args[:1] if call.op in _BACK else call.inputs
        for tensor in (t for t in sources if isinstance(t, Tensor) and t in self._picked):
            dims, origin = self._picked[tensor]
            for out in call.outputs:
                if found := _followed(tensor, dims, out):
                    self._picked[out] = (found, origin)

    def multiplied(self, call: Ran) -> None:
        """Note that this operator multiplies."""
        self.words += [self._picked[tensor][1] for tensor in call.inputs if tensor in self._picked]

    def _indexed(self, call: Ran) -> int:
        """The dimension that `x[mask]`, or `x[rows]` of rows that were picked, puts in the place of what it indexes."""
        indices = call.args[1]
        assert isinstance(indices, list | tuple)
        picking = [t for t in indices if t is not None and (t.dtype in (torch.bool, torch.uint8) or t in self._picked)]
        return next((place for place, t in enumerate(indices) if t is not None), 0) if picking else -1


def _followed(tensor: Tensor, dims: frozenset[int], out: Tensor) -> frozenset[int]:
    """Which dimensions of `out` are `dims` of `tensor`: those in the same place, or else those of the same size."""
    if out.dim() == tensor.dim() and (same := {d for d in dims if out.shape[d] == tensor.shape[d]}):
        return frozenset(same)
    sizes = {tensor.shape[d] for d in dims}
    return frozenset(d for d, size in enumerate(out.shape) if size in sizes)
