"""Residual blocks that can be left out: found, proven, priced, left out, written and read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import autoprune
from autoprune import plugins
from autoprune.costs.arithmetic import Macs, Params
from autoprune.costs.memory import Memory, Size
from autoprune.criteria import l2
from autoprune.errors import ModelError
from autoprune.evaluators.bench import Bench
from autoprune.files import export
from autoprune.protocols import PredictiveCost
from autoprune.runs.apply import apply_policy
from autoprune.structure import absence, residual
from autoprune.structure.dataflow import recorded
from autoprune.structure.prune import prune
from autoprune.structure.skipped import Skipped, answers_of, leave_out
from autoprune.structure.trace import Trace, trace
from autoprune.targets.runtimes import OnnxRuntime
from autoprune.task import Task
from autoprune.testing.evaluators import toy_images
from autoprune.values.space import Policy, SearchSpace

ROWS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Answers a tuple, and takes a mask by name, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)), None


class Layer(nn.Module):
    """A transformer layer of two sums; with `post`, they are normalised."""

    def __init__(self, post: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.post = nn.LayerNorm(8), nn.LayerNorm(8), post
        self.attention, self.up, self.down = Attention(), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attention(x, mask=mask)[0])
            return self.norm2(x + self.down(functional.gelu(self.up(x))))
        x = x + self.attention(self.norm1(x), mask=mask)[0]
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, layers: int = 3, post: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.layers = nn.ModuleList(Layer(post) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x, mask = self.first(x), torch.ones(x.shape[1], x.shape[1]).tril().bool()
        for layer in self.layers:
            x = layer(x, mask)
        return self.last(x)


class Basic(nn.Module):
    """A block of a ResNet, added in place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return functional.relu(out)


class Residual(nn.Module):
    """One channel of images to four classes, with two blocks that can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b, self.c, self.fc = Basic(8, 8), Basic(8, 12), Basic(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.a(functional.relu(self.norm(self.stem(x))))))
        return self.fc(x.mean((2, 3)))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def space_of(found: Trace) -> SearchSpace:
    return SearchSpace("x", found.choices, found.ops, found.parameters)


def names(found: Trace) -> list[str]:
    return [choice.name for choice in found.choices if choice.kind != "channel"]


def units(space: SearchSpace, policy: Policy) -> list[np.ndarray]:
    return [np.arange(level) for level in policy.levels]


def without(model: nn.Module, found: Trace, *gone: str) -> nn.Module:
    space = space_of(found)
    levels = [0 if choice.name in gone else choice.dense for choice in space]
    return prune(model, found, units(space, Policy.of(levels)))


class TestFound:
    def test_layers_whole_or_each_sum_apart(self) -> None:
        model = made(Transformer)
        assert names(trace(model, ROWS, kinds=("block",))) == ["layers.0", "layers.1", "layers.2"]
        apart = trace(model, ROWS, kinds=("branch",))
        assert names(apart) == [f"layers.{at}.{part}" for at in range(3) for part in ("attention", "up")]
        assert set(apart.choices[1].layers) == {"layers.0.norm2", "layers.0.up", "layers.0.down"}
        assert {choice.kind for choice in apart.choices} == {"branch"}

    def test_behind_a_sum_that_is_normalised_a_layer_does_more_than_hand_on(self) -> None:
        model = made(lambda: Transformer(post=True))
        with pytest.raises(ModelError, match=r"no residual block that could be left out \(kinds = block\)"):
            trace(model, ROWS, kinds=("block",))
        assert len(trace(model, ROWS, kinds=("branch",)).choices) == 6

    @pytest.mark.parametrize("kind", ["block", "branch"])
    def test_blocks_of_resnets_whose_shapes_allow(self, kind: str) -> None:
        assert names(trace(made(Residual), torch.randn(2, 1, 8, 8), kinds=(kind,))) == ["a", "c"]

    def test_what_somebody_else_reads_stays(self) -> None:
        class Peeks(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.f, self.g, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 4)

            def forward(self, x: Tensor) -> Tensor:
                seen = self.f(x)
                x = x + seen
                x = x + self.g(x)
                return self.last(torch.cat([x, seen], -1))

        assert names(trace(made(Peeks), ROWS, kinds=("branch",))) == ["g"]

    def test_weights_that_others_have_stay(self) -> None:
        model = made(Transformer)
        model.layers[1].up.weight = model.layers[0].up.weight
        assert names(trace(model, ROWS, kinds=("block",))) == ["layers.2"]

    def test_channels_within_a_block_are_moot_without_it(self) -> None:
        found = trace(made(Residual), torch.randn(2, 1, 8, 8), kinds=("channel", "block"))
        inside = {choice.name: choice.within for choice in found.choices}
        assert (inside["a.conv1"], inside["c.conv1"]) == ("a", "c")
        assert inside["b.conv1"] == inside["stem"] == inside["a"] == ""


class TestProof:
    """`absent` refutes what is wrong, however it came to be believed."""

    @staticmethod
    def refuted(
        model: nn.Module, example: Tensor, change: Callable[[residual.Block], residual.Block]
    ) -> dict[int, str]:
        record = recorded(model, example)
        blocks = residual.blocks(model, record, parts=False, working=frozenset())
        kept = recorded(model, example, keep={block.home for block in blocks})
        assert not absence.absent(model, example, kept, blocks)
        return absence.absent(model, example, kept, [change(blocks[0]), *blocks[1:]])

    def test_a_wrong_answer(self) -> None:
        def zero(block: residual.Block) -> residual.Block:
            return dataclasses.replace(block, skips=(dataclasses.replace(block.skips[0], answer=("zero", 0)),))

        assert "the network fails" in self.refuted(made(Transformer), ROWS, zero)[0]

    def test_a_sum_forgotten(self) -> None:
        def other(block: residual.Block) -> residual.Block:
            return dataclasses.replace(block, cut=dict(list(block.cut.items())[1:]))

        assert "something else" in self.refuted(made(Transformer), ROWS, other)[0]

    def test_a_block_that_tells_others_something(self) -> None:
        class Tells(Layer):
            def forward(self, x: Tensor, mask: Tensor) -> Tensor:
                Tells.told = 1.0
                return super().forward(x, mask)

        class Listens(Transformer):
            def forward(self, x: Tensor) -> Tensor:
                Tells.told = 0.0
                return super().forward(x) + Tells.told

        model = made(Listens)
        torch.manual_seed(1)
        model.layers[1] = Tells().eval()
        assert names(trace(model, ROWS, kinds=("block",))) == ["layers.0", "layers.2"]


@pytest.mark.parametrize("kinds", [("block",), ("branch",), ("channel", "block"), ("channel", "branch")])
@pytest.mark.parametrize(("make", "example"), [(Transformer, ROWS), (Residual, IMAGES[:, :1])])
class TestLeftOut:
    def test_costs_are_those_of_the_network(
        self, make: Callable[[], nn.Module], example: Tensor, kinds: tuple[str, ...]
    ) -> None:
        model = made(make)
        found = trace(model, example, kinds=kinds)
        space = space_of(found)
        costs: list[PredictiveCost] = [Macs(space), Params(space), Size(space, found)]
        costs += [Memory(space, found)] if "branch" not in kinds or make is Residual else []
        rng = np.random.default_rng(0)
        drawn = [space.canonical(Policy.of(rng.choice(c.levels) for c in space)) for _ in range(6)]
        for policy in (space.dense(), space.thinnest(), *drawn):
            net = prune(model, found, units(space, policy))
            assert [cost.predict(policy) for cost in costs] == [cost.measure(net, example) for cost in costs]

    def test_is_written_and_read(
        self, make: Callable[[], nn.Module], example: Tensor, kinds: tuple[str, ...], tmp_path: Path
    ) -> None:
        model = made(make)
        found = trace(model, example, kinds=kinds)
        space = space_of(found)
        net = prune(model, found, units(space, space.thinnest())).eval()
        assert any(isinstance(module, Skipped) for module in net.modules())
        export.save(net, tmp_path / "model.safetensors")
        read = export.load(tmp_path, model)
        with torch.no_grad():
            assert torch.equal(read(example), net(example))
        assert len(read.state_dict()) == len(net.state_dict()) < len(model.state_dict())


def test_left_out_the_layer_is_as_if_it_were_not_there() -> None:
    model = made(Transformer)
    net = without(model, trace(model, ROWS, kinds=("block",)), "layers.1")
    del model.layers[1]
    with torch.no_grad():
        assert torch.equal(net(ROWS), model(ROWS))


def test_a_family_of_graphs_is_not_cut_where_blocks_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is cut to size would have the block in it, and take its time."""
    pytest.importorskip("onnxruntime")
    started = list[int]()
    monkeypatch.setattr(OnnxRuntime, "_started", lambda _, graph, inputs: started.append(len(graph.graph.node)))
    model = made(Residual)
    example = torch.randn(1, 1, 8, 8)
    found = trace(model, example, kinds=("block",))
    ready = OnnxRuntime().family(model, example)
    for net in (without(model, found), without(model, found, "a", "c")):
        ready(net)
    assert started[1] < started[0]


def test_answers_in_files_are_checked() -> None:
    assert answers_of({"a": ["tuple", [["pass", 0], None]]}) == {"a": ("tuple", (("pass", 0), None))}
    for wrong in (["eval", "x"], ["pass", 1.5], 7):
        with pytest.raises((ValueError, TypeError)):
            answers_of({"a": wrong})
    with pytest.raises(ModelError, match="leaves out the module 'nobody', which the network has not"):
        leave_out(made(Transformer), {"nobody": None})


def toy_task() -> Task:
    splits = [toy_images(64, seed) for seed in (1, 2, 3)]
    return Task(made(Residual), next(splits[1].batches(2))[0], *splits)


@pytest.mark.parametrize("evaluator", ["recalibrate", "reconstruct", "reconstruct-sequential", "finetune"])
def test_networks_without_blocks_recover_and_are_scored(evaluator: str) -> None:
    task = toy_task()
    found = trace(task.model, task.example, kinds=("channel", "block"))
    space = space_of(found)
    small = {"images": 32} if evaluator == "reconstruct-sequential" else {"images": 32, "batch": 32}
    small |= {"steps": 2} if evaluator == "finetune" else {}
    it = plugins.build("evaluator", {"use": evaluator, **small}, bench=Bench(task, found, space, l2))
    thin = space.canonical(Policy.of(0 if c.kind == "block" else c.dense // 2 for c in space))
    for policy in (thin, space.dense(), thin):
        ready = it.recover(it.realise(policy))
        assert ready.gone == ({"a", "c"} if policy == thin else set())
        assert 0 <= it.score(ready).metric <= 1


@pytest.mark.slow
def test_a_search_over_blocks_is_delivered_and_applied(tmp_path: Path) -> None:
    task = toy_task()
    model = task.model
    run = autoprune.search(
        task,
        budget={"macs": "60%"},
        space={"kinds": ["channel", "block"]},
        evaluator={"use": "recalibrate", "images": 32, "batch": 32},
        trials=4,
        out=tmp_path,
        finetune={"epochs": 0},
        report={"random_trials": 1, "fidelity": 0},
    ).directory
    entries = json.loads((run / "policy.json").read_text())["choices"]
    assert {entry["name"] for entry in entries if entry["kind"] == "block"} == {"a", "c"}
    net = apply_policy(run, task, finetune=False)
    kept = sum(p.numel() for p in net.parameters())
    assert kept == sum(p.numel() for p in autoprune.load(run, model).parameters())
