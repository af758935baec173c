"""Runtimes that take ONNX: ONNX Runtime, OpenVINO, and any program of the user's."""

from __future__ import annotations

import importlib.metadata
import math
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import onnx
from torch import nn

from autoprune.errors import ConfigError, TargetError, first_line
from autoprune.files import disk
from autoprune.inputs import Inputs
from autoprune.protocols import Sampler
from autoprune.structure.skipped import skipped
from autoprune.targets import program
from autoprune.targets.graph import Cutter, exported, fed
from autoprune.targets.inputs import (
    Tokens,
    batch_of,
    bound_to,
    of_text,
    own_processors,
    processor,
    threads_of,
)
from autoprune.values.ranges import Batch, Range, Threads, require


class _TakesOnnx:
    """What targets share that start from an ONNX graph."""

    name: str
    batch: int
    tokens: int

    def ready(self, model: nn.Module, example: Inputs) -> Sampler:
        """As `Target.ready`."""
        inputs = batch_of(example, self.batch, self.tokens)
        return self._started(exported(model, inputs, self.name), inputs)

    def family(self, dense: nn.Module, example: Inputs) -> Callable[[nn.Module], Sampler]:
        """As `Target.ready`, for many networks pruned from `dense`: only the first is exported."""
        inputs = batch_of(example, self.batch, self.tokens)
        cutter = Cutter(dense, inputs, self.name)

        def ready(model: nn.Module) -> Sampler:
            if any(skipped(model)):
                return self.ready(model, example)  # its graph is another
            try:
                return self._started(cutter(model), inputs)
            except TargetError:  # a graph with constants that depend on widths
                return self.ready(model, example)

        return ready

    def _started(self, graph: onnx.ModelProto, inputs: Inputs) -> Sampler:
        raise NotImplementedError


@dataclass(frozen=True)
class OnnxRuntime(_TakesOnnx):
    """ONNX Runtime on this processor, with all of its graph optimisations; each thread has a processor to itself.

    Attributes:
        batch: samples that run together.
        threads: of one operator; 0 takes torch's own number.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
    """

    batch: Batch = 1
    threads: Threads = 0
    tokens: Tokens = 0
    name = "onnxruntime"

    def __post_init__(self) -> None:
        require(self)

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {
            "runtime": f"onnxruntime {importlib.metadata.version('onnxruntime')}",
            "device": processor(),
            "batch": self.batch,
            "threads": threads_of(self.threads),
            "dtype": "fp32",
            **of_text(self.tokens),
        }

    def _started(self, graph: onnx.ModelProto, inputs: Inputs) -> Sampler:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        threads = threads_of(self.threads)
        processors = own_processors(threads)
        options.intra_op_num_threads = threads
        if processors:  # the runtime counts from 1, and leaves out the thread that calls
            places = ";".join(str(place + 1) for place in processors[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", places)
        options.inter_op_num_threads = 1
        # threads that spin after a run take the processor from the network that is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        feed = fed(graph, inputs)
        try:
            session = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            session.run(None, feed)
        except Exception as wrong:  # the runtime's own errors have no common base
            raise TargetError(f"target {self.name} cannot run this network ({first_line(wrong)})") from wrong

        def once() -> float:
            with bound_to(processors[:1]):
                begun = time.perf_counter()
                session.run(None, feed)
                return 1e3 * (time.perf_counter() - begun)

        return once


@dataclass(frozen=True)
class OpenVino(_TakesOnnx):
    """OpenVINO on this processor, set up for latency.

    Attributes:
        batch: samples that run together.
        threads: of one operator; 0 takes torch's own number.
        dtype: that the runtime may compute in.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
    """

    batch: Batch = 1
    threads: Threads = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    tokens: Tokens = 0
    name = "openvino"

    def __post_init__(self) -> None:
        require(self)
        try:
            import openvino  # noqa: F401
        except ImportError:
            raise ConfigError("target openvino needs the package openvino: pip install 'autoprune[openvino]'") from None

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {
            "runtime": f"openvino {importlib.metadata.version('openvino')}",
            "device": processor(),
            "batch": self.batch,
            "threads": threads_of(self.threads),
            "dtype": self.dtype,
            **of_text(self.tokens),
        }

    def _started(self, graph: onnx.ModelProto, inputs: Inputs) -> Sampler:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads_of(self.threads),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if self.dtype == "fp32" else "bf16",
        }
        feed = fed(graph, inputs)
        try:
            core: Any = openvino.Core()
            request = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", settings)
            request = request.create_infer_request()
            request.infer(feed)
        except Exception as wrong:  # the runtime's own errors have no common base
            raise TargetError(f"target {self.name} cannot run this network ({first_line(wrong)})") from wrong

        def once() -> float:
            begun = time.perf_counter()
            request.infer(feed)
            return 1e3 * (time.perf_counter() - begun)

        return once


@dataclass(frozen=True)
class Command(_TakesOnnx):
    """A program of yours that is given an ONNX file and prints milliseconds: a phone over adb, a board over ssh.

    The last number in the last line that it prints counts. It is not run through a shell.

    Attributes:
        command: the program and its arguments; {model} stands for the path of the ONNX file.
        batch: samples that run together; the file's input has just that shape.
        timeout: seconds after which a run has failed.
        device: what the figures are of; tables of different devices are kept apart.
        tokens: of a text that is read at once; 0 takes as many as the task's example has.
    """

    command: str
    batch: Batch = 1
    timeout: Annotated[float, Range(0, 86_400, above=True)] = 120.0
    device: str = ""
    tokens: Tokens = 0
    name = "command"

    def __post_init__(self) -> None:
        require(self)
        if not any("{model}" in word for word in self._words()):
            raise ConfigError(
                f"target command: {self.command!r} does not say where the ONNX file goes; write {{model}} there"
            )

    @property
    def key(self) -> Mapping[str, str | int]:
        """As `Target.key`."""
        return {
            "runtime": self.command,
            "device": self.device or processor(),
            "batch": self.batch,
            **of_text(self.tokens),
        }

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.command)
        except ValueError as wrong:
            raise ConfigError(f"target command: {self.command!r} cannot be read ({wrong})") from None

    def _started(self, graph: onnx.ModelProto, inputs: Inputs) -> Sampler:
        content = graph.SerializeToString()

        def once() -> float:
            with disk.scratch("model.onnx", content) as path:
                return self._run([word.replace("{model}", str(path)) for word in self._words()])

        return once

    def _run(self, words: list[str]) -> float:
        try:
            done = program.run(words, self.timeout)
        except TimeoutError:
            raise TargetError(f"target command: {words[0]} ran longer than timeout={self.timeout:g} seconds") from None
        except (OSError, ValueError) as wrong:
            raise TargetError(f"target command: {words[0]} cannot be run ({first_line(wrong)})") from None
        if done.status:
            said = (done.err.strip() or done.out.strip()).splitlines()
            raise TargetError(
                f"target command: {words[0]} failed with status {done.status}{': ' + said[-1] if said else ''}"
            )
        return self._read(words[0], done.out)

    def _read(self, program: str, output: str) -> float:
        last = (output.strip().splitlines() or [""])[-1]
        numbers = re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", last)
        value = float(numbers[-1]) if numbers else math.nan
        if not (math.isfinite(value) and value > 0):
            raise TargetError(
                f"target command: {program} printed {last!r}; milliseconds above 0 should end its last line"
            )
        return value
