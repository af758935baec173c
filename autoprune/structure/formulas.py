"""How many MACs an operator has: torch's own formulas, and those of products that its counter leaves out.

Halve what they give: they count FLOPs, and one MAC is two. `EXTRA` is for torch's `FlopCounterMode`, as its
`custom_mapping`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

Shape = Sequence[int]
Formula = Callable[..., int]


def _matrix_vector(matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * math.prod(matrix)


def _added_matrix_vector(added: Shape, matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * math.prod(matrix)


def _vectors(left: Shape, right: Shape, **_: Any) -> int:
    return 2 * math.prod(left)


def _of_tensors(formula: Formula) -> Formula:
    found: Formula = shape_wrapper(formula)  # type: ignore[no-untyped-call]
    return found


EXTRA: Mapping[Any, Formula] = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _added_matrix_vector,
    torch.ops.aten.dot: _vectors,
    torch.ops.aten.vdot: _vectors,
}
_OURS: Mapping[Any, Formula] = {packet: _of_tensors(formula) for packet, formula in EXTRA.items()}


def formula_of(packet: Any) -> Formula | None:
    """FLOPs from the arguments of the operator `packet`, and its output as `out_val`; None where they are not known."""
    found: Formula | None = _OURS.get(packet) or flop_registry.get(packet)
    return found
