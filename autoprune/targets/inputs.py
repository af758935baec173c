"""What every target needs: the input that is timed, and what the processor is called."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from autoprune.inputs import Inputs, mapped, moved, repeated
from autoprune.values.ranges import Range

Tokens = Annotated[int, Range(0, 2**20)]  # of a text that is read at once; 0 takes as many as the task's example has


def batch_of(example: Inputs, batch: int, tokens: int) -> Inputs:
    """The first sample of `example`, `batch` times, on the CPU, its texts as `of_length` makes them."""
    return repeated(moved(of_length(example, tokens), "cpu"), batch)


def of_length(example: Inputs, tokens: int) -> Inputs:
    """`example` with that many tokens in each text (n, length) of whole numbers, repeated or cut; 0 leaves it."""

    def cut(tensor: Tensor) -> Tensor:
        if not tokens or tensor.dim() != 2 or tensor.is_floating_point():
            return tensor
        return tensor.repeat(1, -(-tokens // tensor.shape[1]))[:, :tokens]

    return mapped(example, cut)


def of_text(tokens: int, generate: int = 0) -> dict[str, int]:
    """What a target's key says of texts: how many tokens are read, and written, at once."""
    return {name: count for name, count in (("tokens", tokens), ("generate", generate)) if count}


def threads_of(threads: int) -> int:
    """`threads`, or as many as torch uses where that is 0."""
    return threads or torch.get_num_threads()


def own_processors(threads: int) -> list[int]:
    """One processor for each of several threads; none where there are not enough, or the system does not tell."""
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return found[:threads] if 1 < threads <= len(found) else []


@contextlib.contextmanager
def bound_to(processors: Sequence[int]) -> Iterator[None]:
    """Inside, the calling thread runs on `processors`; anywhere where there are none.

    The threads of one operator wait for one another: two on one processor take a half longer than on two.
    """
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor() -> str:
    """The processor as it calls itself, and how many of it this process may use."""
    return (
        f"{processor_name()} x {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    )


def processor_name() -> str:
    """The processor as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
