"""Whether a network runs faster in bfloat16 on this machine: measured, never assumed.

Some processors run bf16 several times faster than fp32, others twenty times slower; their names do not tell.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]
SPEEDUP = 1.2  # bf16 must be this many times faster to be worth its rounding
AGREEMENT = 0.02  # largest mean difference of the outputs, against their spread
_ROUNDS = 3


def choose(model: nn.Module, batch: Tensor) -> Precision:
    """The precision to evaluate `model` in, from a few forward passes of `batch` in each; `model` is only read."""
    twin = copy.deepcopy(model).eval()
    batch = laid_out(batch)
    with torch.inference_mode():
        exact = _forward(twin, batch, "fp32")
        limit = min(_timed(twin, batch, "fp32") for _ in range(_ROUNDS)) / SPEEDUP
        try:
            rounded = _forward(twin, batch[:1], "bf16")  # one sample: a machine that crawls is found out cheaply
            if not _agree(exact[:1], rounded) or _timed(twin, batch[:1], "bf16") > limit:
                return "fp32"
            if not _agree(exact, _forward(twin, batch, "bf16")):
                return "fp32"
            best = min(_timed(twin, batch, "bf16") for _ in range(_ROUNDS))
        except RuntimeError:  # an operator without a bf16 version
            return "fp32"
    return "bf16" if best <= limit else "fp32"


@contextlib.contextmanager
def running(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, networks run in `precision`."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def laid_out(tensor: Tensor) -> Tensor:
    """Images with their channels last in memory, which convolutions run faster on; anything else as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _forward(model: nn.Module, batch: Tensor, precision: Precision) -> Tensor:
    with running(precision, batch.device):
        outputs: Tensor = model(batch)
    return outputs.float()


def _timed(model: nn.Module, batch: Tensor, precision: Precision) -> float:
    start = time.perf_counter()
    _forward(model, batch, precision).cpu()  # waits for an accelerator
    return time.perf_counter() - start


def _agree(exact: Tensor, rounded: Tensor) -> bool:
    spread = exact.std() if exact.numel() > 1 else exact.abs().mean()
    difference = (exact - rounded).abs().mean()
    return bool(difference.isfinite() and difference <= AGREEMENT * spread + 1e-6)
