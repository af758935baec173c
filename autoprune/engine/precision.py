"""In which precision networks are scored and trained: by rules, of which none looks at a clock.

A lower precision needs a processor with instructions for it and outputs of the dense network that stay what they are;
eight-bit integers need its metric to stay, too. Training takes bf16 wherever that holds. Scores take what is faster as
well, and by how much is told by `Gain`: what was timed on this machine once, and is kept (`runs.calibration`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from autoprune.copies import copied
from autoprune.engine.chains import Unfusable
from autoprune.engine.fused import Fuser
from autoprune.engine.memory import laid_out
from autoprune.engine.presented import Plainly, presented
from autoprune.errors import ConfigError, TrialFailed, first_line
from autoprune.inputs import Inputs, at_once, call, first, nbytes, size, tensors

Precision = Literal["fp32", "bf16", "int8"]
Trained = Literal["fp32", "bf16"]
Judge = Callable[[nn.Module], float]

SPEEDUP = 1.2  # a precision must be this many times faster to be worth its rounding
AGREEMENT = 0.02  # largest mean difference of the outputs in bf16, against their spread
INT8_AGREEMENT = 0.1  # of those in int8
INT8_METRIC = 0.002  # largest difference of the dense network's metric in int8, against its size
AT_ONCE = 2**24  # bytes of inputs that are looked at together: photographs are large, and a few tell as much as many
_IN_HARDWARE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86 and ARM; emulated, bf16 is many times slower


class Way(NamedTuple):
    """A network and the precision that it runs in."""

    model: nn.Module
    precision: Precision


Gain = Callable[[Way, Way, Inputs], float]  # how many times as fast the second takes a batch as the first


@dataclass(frozen=True, slots=True)
class Chosen:
    """How numbers are held.

    Attributes:
        score: in scores.
        training: in every training, the final finetune among them.
        because: why scores take that, for people.
    """

    score: Precision
    training: Trained
    because: str


def choose(model: nn.Module, batch: Inputs, gain: Gain, judge: Judge | None = None) -> Chosen:
    """What to score and to train `model` in, which is only read, by what it makes of a `batch`.

    `judge` says the metric of a network; without it, int8 is not considered.
    """
    twin, batch = copied(model).eval(), _few(batch)
    if fault := _not_bf16(twin, batch):
        return Chosen("fp32", "fp32", fault)
    with torch.inference_mode():
        faster = gain(Way(twin, "fp32"), Way(twin, "bf16"), batch)
    said = f"bf16 is {faster:.2f} times as fast as fp32"
    plain: Trained = "bf16" if faster >= SPEEDUP else "fp32"
    if plain == "fp32":
        said += f", and {SPEEDUP:g} times would pay"
    if judge is None:
        return Chosen(plain, "bf16", said)
    shorter, wrong = _int8(twin, batch, plain, gain, judge)
    return Chosen(plain if wrong else "int8", "bf16", f"{said}; int8 {wrong or shorter}")


def pinned(asked: Precision, model: nn.Module, batch: Inputs) -> Chosen:
    """What somebody `asked` for. Raises ConfigError where `model` does not run so."""
    twin, batch = copied(model).eval(), _few(batch)
    fault, gap = "", 0.0
    if asked == "int8":
        fuser = _fuser(twin, batch)
        fault = fuser if isinstance(fuser, str) else ""
    elif asked == "bf16" and math.isinf(gap := _gap(twin, batch)):
        fault = "this network does not run in it"
    if fault:
        raise ConfigError(f"search.precision = {asked!r}: {fault}; 'auto' or 'fp32' is right")
    said = f"; {_parted('bf16', gap)}" if gap > AGREEMENT else ""
    return Chosen(asked, trained(asked), f"it was asked for{said}")


def trained(score: str) -> Trained:
    """The precision of training where that of scores was asked for, or was all that was chosen."""
    return "fp32" if score == "fp32" else "bf16"


def trains(model: nn.Module, batch: Inputs) -> Trained:
    """What `choose` would have `model` trained in."""
    return "fp32" if _not_bf16(copied(model).eval(), _few(batch)) else "bf16"


def in_hardware(device: torch.device) -> bool:
    """Whether the processor, or the accelerator, has instructions for bf16, as far as torch tells."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.10 on
    return any(told.get(name) for name in _IN_HARDWARE)


@contextlib.contextmanager
def running(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, networks run in `precision`; of int8, what is not made ready for it runs in bf16."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32"):
        yield


def forward(way: Way, batch: Inputs) -> Tensor:
    """All that comes out and has a row a sample, (n, numbers). Raises RuntimeError where nothing has."""
    with running(way.precision, tensors(batch)[0].device):
        outputs = [tensor.float() for tensor in tensors(call(way.model, batch))]
    count = size(batch)
    rows = [out.reshape(count, -1) for out in outputs if out.shape[:1] == (count,)]
    if not rows:
        raise RuntimeError("no output has a row a sample")
    return torch.cat(rows, 1)


def _not_bf16(twin: nn.Module, batch: Inputs) -> str:
    """What speaks against bf16, however fast it is; "" if nothing does."""
    if not in_hardware(tensors(batch)[0].device):
        return "torch tells of no instructions for bf16 here"
    gap = _gap(twin, batch)
    return "" if gap <= AGREEMENT else _parted("bf16", gap)


def _few(batch: Inputs) -> Inputs:
    return laid_out(first(batch, at_once(batch, max(1, AT_ONCE // max(1, nbytes(first(batch, 1)))))))


def _gap(twin: nn.Module, batch: Inputs) -> float:
    """How far the outputs in bf16 are from those in fp32; infinite where the network does not run in bf16."""
    try:
        with torch.inference_mode():
            return _difference(forward(Way(twin, "fp32"), batch), forward(Way(twin, "bf16"), batch))
    except Exception:  # whatever a user's forward raises in bf16
        return math.inf


def _int8(twin: nn.Module, batch: Inputs, plain: Trained, gain: Gain, judge: Judge) -> tuple[str, str]:
    """What is to be said for eight bits in place of `plain`, and what against them; one of the two is empty."""
    fuser = _fuser(twin, batch)
    if isinstance(fuser, str):
        return "", f"is not for it: {fuser}"
    fused = fuser(twin, "int8")
    short, longer = Way(fused, "int8"), Way(fuser(twin, plain), plain)
    with torch.inference_mode():
        gap = _difference(forward(Way(twin, "fp32"), batch), forward(short, batch))
        if not gap <= INT8_AGREEMENT:
            return "", f"is not taken, since {_parted('int8', gap)}"
        faster = gain(longer, short, batch)
    said = f"is {faster:.2f} times as fast as {plain}"
    if faster < SPEEDUP:
        return "", f"{said}, and {SPEEDUP:g} times would pay"
    with running("int8", tensors(batch)[0].device), presented(twin, fused, Plainly()) as shown:
        found = judge(shown)
    exact = judge(twin)
    if not abs(found - exact) <= INT8_METRIC * abs(exact):
        return "", f"is not taken, since the dense network's metric moves from {exact:.4g} to {found:.4g}"
    return said, ""


def _fuser(twin: nn.Module, batch: Inputs) -> Fuser | str:
    """What makes `twin` ready in eight bits; or why that cannot be."""
    if not isinstance(batch, Tensor) or batch.device.type != "cpu":
        return "only networks that take one tensor, on the CPU, are computed in eight bits"
    try:
        fuser = Fuser.of(twin, batch)
        with torch.inference_mode():
            forward(Way(fuser(twin, "int8"), "int8"), batch)
    except (Unfusable, TrialFailed, RuntimeError) as wrong:  # a graph, or an operator that this processor has not
        return f"the network cannot be computed in eight bits ({first_line(wrong)})"
    return fuser


def _difference(exact: Tensor, rounded: Tensor) -> float:
    """The mean difference of two outputs against the spread of the exact ones; infinite where it is not finite."""
    spread = float(exact.std() if exact.numel() > 1 else exact.abs().mean())
    difference = float((exact - rounded).abs().mean())
    if not math.isfinite(difference):
        return math.inf
    return max(0.0, difference - 1e-6) / spread if spread else (math.inf if difference > 1e-6 else 0.0)


def _parted(precision: Precision, gap: float) -> str:
    if math.isinf(gap):
        return f"the network does not run in {precision}, or its outputs cannot be compared"
    return f"its outputs in {precision} differ by {gap:.1%} of their spread"
