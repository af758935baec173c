"""PyTorch as a target: layer by layer, compiled, and on a CUDA device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from autoprune import stops
from autoprune.copies import copied
from autoprune.engine.memory import laid_out, lay_out
from autoprune.errors import ConfigError, TargetError, first_line
from autoprune.inputs import Inputs, arguments, call, moved
from autoprune.protocols import Sampler
from autoprune.targets.generation import Generation
from autoprune.targets.inputs import Tokens, batch_of, of_text, processor, threads_of
from autoprune.values.ranges import Batch, Range, Threads, require

Dtype = Literal["fp32", "bf16"]
Generated = Annotated[int, Range(0, 2**16)]


@dataclass(frozen=True)
class Torch:
    """PyTorch on this processor, layer by layer (eager).

    Attributes:
        batch: samples that run together.
        threads: of one operator; 0 takes torch's own number.
        dtype: of weights and activations.
        channels_last: memory layout of images and kernels.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
        generate: tokens that are written behind the text, one after the other; these are timed, and reading is not. 0
            times reading.
    """

    batch: Batch = 1
    threads: Threads = 0
    dtype: Dtype = "fp32"
    channels_last: bool = False
    tokens: Tokens = 0
    generate: Generated = 0

    def __post_init__(self) -> None:
        require(self)

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {
            "runtime": f"torch {torch.__version__}",
            "device": processor(),
            "batch": self.batch,
            "threads": threads_of(self.threads),
            "dtype": self.dtype,
            "layout": "channels last" if self.channels_last else "plain",
            **of_text(self.tokens, self.generate),
        }

    def ready(self, model: nn.Module, example: Inputs) -> Sampler:
        """As `Target.ready`."""
        twin, inputs = self._prepared(model, example)
        return self._sampler(_run(twin, inputs, self.generate))

    def _prepared(self, model: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
        twin, inputs = copied(model).cpu().eval(), batch_of(example, self.batch, self.tokens)
        if self.dtype == "bf16":
            twin = twin.bfloat16()
            inputs = moved(inputs, torch.bfloat16)
        if self.channels_last:
            lay_out(twin)
            inputs = laid_out(inputs)
        return twin, inputs

    def _sampler(self, run: Callable[[], object]) -> Sampler:
        threads = threads_of(self.threads)

        def once() -> float:
            with torch.inference_mode(), _with(threads):
                begun = time.perf_counter()
                run()
                return 1e3 * (time.perf_counter() - begun)

        return _first(once, "torch")


@dataclass(frozen=True)
class TorchCompile(Torch):
    """PyTorch on this processor, compiled by torch.compile, which takes seconds for every network.

    Attributes:
        batch: samples that run together.
        threads: of one operator; 0 takes torch's own number.
        dtype: of weights and activations.
        channels_last: memory layout of images and kernels.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
        generate: 0; what is written token by token is another program each time.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generate:
            raise ConfigError(
                f"target torch-compile: generate = {self.generate}: only targets torch and torch-cuda time that"
            )

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {**super().key, "runtime": f"torch {torch.__version__}, compiled"}

    def ready(self, model: nn.Module, example: Inputs) -> Sampler:
        """As `Target.ready`."""
        twin, inputs = self._prepared(model, example)
        try:
            with stops.later(), torch.inference_mode(), _with(threads_of(self.threads)):
                program = torch.export.export(
                    twin, *arguments(inputs)
                ).module()  # its own code: compiled networks live together
                compiled = torch.compile(program)
                call(compiled, inputs)
        except Exception as wrong:  # compilers raise whatever they like
            raise TargetError(f"target torch-compile cannot compile this network ({first_line(wrong)})") from wrong
        return self._sampler(lambda: call(compiled, inputs))


@dataclass(frozen=True)
class TorchCuda:
    """PyTorch on a CUDA device, timed by its own clock.

    Attributes:
        batch: samples that run together.
        dtype: of weights and activations.
        channels_last: memory layout of images and kernels.
        graph: replay one CUDA graph instead of launching every operator.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
        generate: tokens that are written behind the text, one after the other; these are timed, and reading is not. 0
            times reading.
    """

    batch: Batch = 1
    dtype: Dtype = "fp32"
    channels_last: bool = False
    graph: bool = False
    tokens: Tokens = 0
    generate: Generated = 0

    def __post_init__(self) -> None:
        require(self)
        if self.graph and self.generate:
            raise ConfigError(
                f"target torch-cuda: graph = true, generate = {self.generate}: a graph has one shape; graph = false"
            )
        if not torch.cuda.is_available():
            raise ConfigError(
                "target torch-cuda: this machine has no CUDA device; targets torch and onnxruntime need none"
            )

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {
            "runtime": f"torch {torch.__version__}{', CUDA graph' if self.graph else ''}",
            "device": torch.cuda.get_device_name(),
            "batch": self.batch,
            "dtype": self.dtype,
            "layout": "channels last" if self.channels_last else "plain",
            **of_text(self.tokens, self.generate),
        }

    def ready(self, model: nn.Module, example: Inputs) -> Sampler:
        """As `Target.ready`."""
        twin, inputs = Torch._prepared(self, model, example)  # type: ignore[arg-type]
        twin, inputs = twin.cuda(), moved(inputs, "cuda")
        run = _captured(twin, inputs) if self.graph else _run(twin, inputs, self.generate)

        def once() -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            with torch.inference_mode():
                start.record()
                run()
                end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return _first(once, "torch-cuda")


def _run(model: nn.Module, inputs: Inputs, generate: int) -> Callable[[], object]:
    """What is timed: a forward pass, or so many tokens written. Raises TargetError where the prompt cannot be read."""
    if not generate:
        return lambda: call(model, inputs)
    try:
        return Generation(model, inputs, generate)
    except TargetError:
        raise
    except Exception as wrong:  # whatever a network raises
        raise TargetError(f"generate = {generate}: the network cannot read the prompt ({first_line(wrong)})") from wrong


def _captured(model: nn.Module, inputs: Inputs):  # type: ignore[no-untyped-def]
    """One CUDA graph of a forward pass."""
    with torch.inference_mode():
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            for _ in range(3):
                call(model, inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call(model, inputs)
    return graph.replay


def _first(once: Sampler, target: str) -> Sampler:
    """`once`, if it runs at all."""
    try:
        once()
    except Exception as wrong:  # whatever a network raises
        raise TargetError(f"target {target} cannot run this network ({first_line(wrong)})") from wrong
    return once


@contextlib.contextmanager
def _with(threads: int) -> Iterator[None]:
    """Inside, torch uses so many threads for one operator."""
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
