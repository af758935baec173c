"""Targets: the graphs that are cut to size, and programs of the user's that time them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from autoprune import plugins
from autoprune.errors import ConfigError, TargetError
from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from autoprune.targets.graph import Cutter, exported, loosened
from autoprune.targets.pytorch import Torch
from autoprune.targets.runtimes import Command, OnnxRuntime
from autoprune.testing.evaluators import toy_setting
from autoprune.values.space import SearchSpace
from tests.making import Recommender, Siamese, small_bert


class Depthwise(nn.Module):
    """A depthwise convolution between two others, and a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.first(x).relu())).relu()
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


def shapes(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {weight.name: tuple(weight.dims) for weight in graph.graph.initializer}


class TestCutter:
    def test_gives_the_shapes_of_a_real_export(self) -> None:
        model, example = Depthwise().eval(), torch.randn(1, 3, 4, 4)
        traced = trace(model, example)
        space = SearchSpace("x", traced.choices, traced.ops, traced.parameters)
        cutter = Cutter(model, example, "test")
        for sparsity in (0.0, 0.3, 0.7):
            units = [np.arange(level) for level in space.snap([sparsity] * len(space)).levels]
            thin = prune(model, traced, units)
            cut, real = shapes(cutter(thin)), shapes(exported(thin, example, "test"))
            assert {name: cut[name] for name in real if name in cut} == {n: s for n, s in real.items() if n in cut}
            assert sorted(cut.values()) == sorted(real.values())

    @pytest.mark.parametrize("kind", ["hugging face", "siamese", "recommender"])
    def test_cuts_networks_of_several_inputs_as_an_export_of_each_would_be(self, kind: str) -> None:
        """Transposed weights and rows of embeddings used to be computed before they were cut, and stayed dense."""
        example: Any = {"left": torch.randn(1, 1, 8, 8), "right": torch.randn(1, 1, 8, 8)}
        model: nn.Module = Siamese()
        if kind == "hugging face":
            model, example = small_bert()
            example = {name: tensor[:1] for name, tensor in example.items()}
            assert any("attention" in choice.name for choice in trace(model, example).choices)
        elif kind == "recommender":
            model, example = Recommender(), (torch.randint(0, 10, (1, 3)), torch.randn(1, 4))
        traced = trace(model.eval(), example)
        thin = prune(model, traced, [np.arange(max(1, choice.dense // 2)) for choice in traced.choices])
        cut, real = Cutter(model, example, "test")(thin), exported(thin, example, "test")
        assert sorted(shapes(cut).values()) == sorted(shapes(real).values())
        assert [node.op_type for node in cut.graph.node] == [node.op_type for node in real.graph.node]
        assert OnnxRuntime()._started(cut, example)() > 0

    def test_a_cut_graph_runs(self) -> None:
        model, example = Depthwise().eval(), torch.randn(1, 3, 4, 4)
        traced = trace(model, example)
        ready = OnnxRuntime().family(model, example)
        thin = prune(model, traced, [np.arange(3) for _ in traced.choices])
        assert ready(thin)() > 0

    def test_what_cannot_be_exported_is_told(self) -> None:
        class Impossible(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * float(np.random.default_rng().random() if x.sum().item() > 0 else 1)

        with pytest.raises(TargetError, match="cannot be exported"):
            exported(Impossible(), torch.randn(1, 3), "test")


@pytest.mark.parametrize(
    ("source", "sizes", "wanted"),
    [
        ((1, 12, 32), (1, 12, 4, 8), [0, 0, -1, 8]),  # heads
        ((1, 12, 4, 8), (1, 12, 32), [0, 0, -1]),
        ((12, 1, 32), (12, 4, 8), [0, -1, 8]),
        ((1, 16, 4, 4), (1, 256), [0, -1]),
        ((1, 16, 4, 4), (1, 16, 16), [0, 0, -1]),  # patches
        ((1, 58, 28, 28), (1, 2, 29, 28, 28), [0, 2, -1, 28, 28]),  # shuffled groups
        ((1, 2, 29, 28, 28), (1, 58, 28, 28), [0, -1, 28, 28]),
        ((3, 5), (3, 5), [0, 0]),
        ((), (1, 6, 8), [1, 6, -1]),
        ((), (8,), [-1]),
    ],
)
def test_a_reshape_follows_its_source(source: tuple[int, ...], sizes: tuple[int, ...], wanted: list[int]) -> None:
    assert loosened(source, sizes) == wanted


class TestOnnxRuntime:
    def test_runs_the_batch_that_was_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task, _, _ = toy_setting()
        seen: list[Any] = []
        monkeypatch.setattr(OnnxRuntime, "_started", lambda self, graph, inputs: seen.append(graph) or (lambda: 1.0))
        OnnxRuntime(batch=3).ready(task.model, task.example)
        assert [d.dim_value for d in seen[0].graph.input[0].type.tensor_type.shape.dim] == [3, 1, 8, 8]


class TestTorch:
    def test_threads_are_given_back(self) -> None:
        task, _, _ = toy_setting()
        before = torch.get_num_threads()
        Torch(threads=before + 1).ready(task.model, task.example)()
        assert torch.get_num_threads() == before

    def test_what_fails_is_told(self) -> None:
        with pytest.raises(TargetError, match="target torch cannot run this network"):
            Torch().ready(nn.Linear(3, 2), torch.randn(1, 4))

    def test_bf16_leaves_the_network_alone(self) -> None:
        task, _, _ = toy_setting()
        assert Torch(dtype="bf16", channels_last=True).ready(task.model, task.example)() > 0
        assert {p.dtype for p in task.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
@pytest.mark.parametrize(
    ("wrong", "told"), [({"batch": 0}, "'batch' is 0: a whole number from 1 to"), ({"threads": -1}, "'threads' is -1")]
)
def test_settings_that_cannot_be(name: str, wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plugins.build("target", {"use": name, **wrong})


def test_a_missing_device_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="no CUDA device"):
        plugins.build("target", {"use": "torch-cuda"})


def test_a_missing_runtime_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'autoprune\[openvino\]'"):
        plugins.build("target", {"use": "openvino"})


class TestCommand:
    def program(self, tmp_path: Path, text: str) -> str:
        (tmp_path / "time it.py").write_text("import sys, time\nmodel = sys.argv[1]\n" + text)
        return f'{sys.executable} "{tmp_path}/time it.py" {{model}}'

    def timed(self, command: str, **settings: Any) -> float:
        task, _, _ = toy_setting()
        return Command(command, **settings).ready(task.model, task.example)()

    def test_takes_the_last_number_of_the_last_line(self, tmp_path: Path) -> None:
        text = "print('warm-up 99')\nprint('mean of 50 runs: 2.5e0 ms')\n"
        assert self.timed(self.program(tmp_path, text)) == 2.5

    def test_gives_it_the_network(self, tmp_path: Path) -> None:
        text = "import onnx\nprint(len(onnx.load(model).graph.initializer))\n"
        assert self.timed(self.program(tmp_path, text)) > 3

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("sys.exit('no device attached')", "failed with status 1: no device attached"),
            ("print('ready')", "printed 'ready'"),
            ("print('nan')", "printed 'nan'"),
            ("print(-3)", "printed '-3'"),
            ("", "printed ''"),
            ("time.sleep(60)", "timeout=0.5 seconds"),
        ],
    )
    def test_what_goes_wrong_is_one_line(self, tmp_path: Path, text: str, told: str) -> None:
        with pytest.raises(TargetError) as caught:
            self.timed(self.program(tmp_path, text), timeout=0.5 if "sleep" in text else 30.0)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_program_that_is_not_there(self) -> None:
        with pytest.raises(TargetError, match="cannot be run"):
            self.timed("/no/such/program {model}")

    @pytest.mark.parametrize("wrong", ["program", "program 'open {model}", ""])
    def test_a_command_without_a_place_for_the_network(self, wrong: str) -> None:
        with pytest.raises(ConfigError, match="target command"):
            Command(wrong)

    def test_a_timeout_that_cannot_be(self) -> None:
        with pytest.raises(ConfigError, match="timeout = 0; a number above 0"):
            Command("x {model}", timeout=0)
