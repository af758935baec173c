"""In which precision a network is evaluated on this machine: measured, never assumed.

Some processors run bf16 several times faster than fp32, others twenty times slower; their names do not tell. Eight-bit
integers are tried where bf16 has paid, and taken where they pay once more and the dense network's metric stays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from autoprune.copies import copied
from autoprune.engine.chains import Unfusable
from autoprune.engine.fused import Fuser
from autoprune.engine.memory import laid_out
from autoprune.inputs import Inputs, call, first, nbytes, size, tensors

Precision = Literal["fp32", "bf16", "int8"]
SPEEDUP = 1.2  # a precision must be this many times faster to be worth its rounding
AGREEMENT = 0.02  # largest mean difference of the outputs in bf16, against their spread
INT8_AGREEMENT = 0.1  # of those in int8
INT8_METRIC = 0.002  # largest difference of the dense network's metric in int8, against its size
AT_ONCE = 2**24  # bytes of inputs that are timed together: photographs are large, and a few tell as much as many
_ROUNDS = 5


def choose(model: nn.Module, batch: Inputs, judge: Callable[[nn.Module], float] | None = None) -> Precision:
    """The precision to evaluate `model` in, from a few forward passes of `batch` in each; `model` is only read.

    `judge` says the metric of a network; without it, int8 is not considered.
    """
    twin = copied(model).eval()
    batch = laid_out(first(batch, max(1, AT_ONCE // max(1, nbytes(first(batch, 1))))))
    with torch.inference_mode():
        if not _bf16_pays(twin, batch):
            return "fp32"
    return "int8" if judge is not None and _int8_pays(twin, batch, judge) else "bf16"


def training(precision: str) -> str:
    """The precision to train in, where networks are scored in `precision`."""
    return "fp32" if precision == "fp32" else "bf16"


def _bf16_pays(twin: nn.Module, batch: Inputs) -> bool:
    try:
        exact = _forward(twin, batch, "fp32")
        sample = first(batch, 1)  # a machine that crawls is found out cheaply
        rounded = _forward(twin, sample, "bf16")
        one, all_exact = _timed(twin, sample, "bf16"), _timed(twin, batch, "fp32")
        if not _agree(exact[:1], rounded, AGREEMENT) or one > all_exact:
            return False
        if not _agree(exact, _forward(twin, batch, "bf16"), AGREEMENT):
            return False
        return _pays((twin, "fp32"), (twin, "bf16"), batch)
    except Exception:  # whatever a user's forward raises in bf16 or on one sample: then it is not evaluated so
        return False


def _int8_pays(twin: nn.Module, batch: Inputs, judge: Callable[[nn.Module], float]) -> bool:
    if not isinstance(batch, Tensor) or batch.device.type != "cpu":
        return False
    try:
        fuser = Fuser.of(twin, batch)
        short, rounded = fuser(twin, "int8"), fuser(twin, "bf16")
        with torch.inference_mode():
            if not _agree(_forward(twin, batch, "fp32"), _forward(short, batch, "int8"), INT8_AGREEMENT):
                return False
            if not _pays((rounded, "bf16"), (short, "int8"), batch):
                return False
    except (Unfusable, RuntimeError):  # a graph that cannot be read, or an operator that this processor has not
        return False
    with running("int8", batch.device):
        found = judge(short)
    exact = judge(twin)
    return abs(found - exact) <= INT8_METRIC * abs(exact)


@contextlib.contextmanager
def running(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, networks run in `precision`; of int8, what is not made ready for it runs in bf16."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"):
        yield


def _forward(model: nn.Module, batch: Inputs, precision: Precision) -> Tensor:
    """All that comes out and has a row a sample, (n, numbers). Raises RuntimeError where nothing has."""
    with running(precision, tensors(batch)[0].device):
        outputs = [tensor.float() for tensor in tensors(call(model, batch))]
    count = size(batch)
    rows = [out.reshape(count, -1) for out in outputs if out.shape[:1] == (count,)]
    if not rows:
        raise RuntimeError("no output has a row a sample")
    return torch.cat(rows, 1)


def _timed(model: nn.Module, batch: Inputs, precision: Precision) -> float:
    start = time.perf_counter()
    _forward(model, batch, precision).cpu()  # waits for an accelerator
    return time.perf_counter() - start


def _pays(old: tuple[nn.Module, Precision], new: tuple[nn.Module, Precision], batch: Inputs) -> bool:
    """Whether the second is faster by `SPEEDUP`. They take turns, so that other work on the machine disturbs both."""
    times = [(_timed(old[0], batch, old[1]), _timed(new[0], batch, new[1])) for _ in range(_ROUNDS)]
    return min(after for _, after in times) * SPEEDUP <= min(before for before, _ in times)


def _agree(exact: Tensor, rounded: Tensor, limit: float) -> bool:
    spread = exact.std() if exact.numel() > 1 else exact.abs().mean()
    difference = (exact - rounded).abs().mean()
    return bool(difference.isfinite() and difference <= limit * spread + 1e-6)
