"""Whether a file computes what the network does: it is loaded back, run on real inputs, and every output compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.inputs import Inputs, by_name, call, device_of, first, moved, size

TOLERANCE = 1e-3  # of the largest output; what is seen is 1e-6, another network differs by about 1

Run = Callable[..., Any]  # called as the network is


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, run and compared.

    Attributes:
        file: its name in the run's directory.
        bytes: its size.
        difference: largest absolute difference of any output to the network's, as a share of the largest output.
        images: how many inputs were compared.
    """

    file: str
    bytes: int
    difference: float
    images: int


def compare(model: nn.Module, other: Run, path: Path, images: Inputs, nbytes: int) -> Exported:
    """Run both on `images`, whole and one by itself, and measure how far they differ.

    `nbytes` are the size of what `path` holds, or will hold. Raises ModelError where outputs are not alike.
    """
    model.eval()
    worst = max(_apart_on(model, other, inputs) for inputs in (images, first(images, 1)))
    if not worst <= TOLERANCE:
        found = f"its outputs differ by {worst:.2g} of the largest, on {size(images)} inputs; {TOLERANCE:g} is allowed"
        raise ModelError(f"{path.name} does not compute what the pruned network does: {found}")
    return Exported(path.name, nbytes, worst, size(images))


def _apart_on(model: nn.Module, other: Run, inputs: Inputs) -> float:
    """How far the outputs on `inputs` differ at most."""
    with torch.no_grad():
        wanted, got = (
            by_name(moved(call(run, moved(inputs, where)), "cpu"), "output").values()
            for run, where in ((model, device_of(model)), (other, "cpu"))
        )
    if len(wanted) != len(got):
        return float("inf")
    return max((_apart(one, its) for one, its in zip(wanted, got, strict=True)), default=0.0)


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two outputs differ, as a share of the largest number; whole numbers differ by nothing or by all.

    What is infinite (a class that is masked) must be so in both.
    """
    finite = torch.isfinite(one)
    if one.shape != other.shape or not torch.equal(one[~finite], other[~finite]):
        return float("inf")
    one, other = one[finite], other[finite]
    if not bool(torch.isfinite(other).all()):
        return float("inf")
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else float("inf")
    largest = float(one.abs().max().clamp(min=1e-12)) if one.numel() else 1.0
    return float((one - other).abs().max()) / largest if one.numel() else 0.0
