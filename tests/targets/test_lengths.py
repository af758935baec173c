"""How long a text is that targets time, and how much is written behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError, TargetError
from autoprune.structure.prune import prune
from autoprune.structure.trace import trace
from autoprune.targets.generation import Generation
from autoprune.targets.inputs import of_length
from autoprune.targets.pytorch import Torch, TorchCompile
from autoprune.targets.runtimes import OnnxRuntime


@pytest.fixture(scope="module")
def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads)).eval()
    made.config.use_cache = False
    return made


PROMPT = {"input_ids": torch.arange(8)[None] + 3}


def test_texts_are_repeated_or_cut_and_nothing_else() -> None:
    example = {"input_ids": torch.arange(6).view(2, 3), "pixels": torch.zeros(2, 3)}
    longer, shorter = of_length(example, 5), of_length(example, 2)
    assert longer["input_ids"].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]
    assert shorter["input_ids"].tolist() == [[0, 1], [3, 4]]
    assert longer["pixels"].shape == (2, 3)
    assert of_length(example, 0)["input_ids"].shape == (2, 3)


def test_the_length_is_part_of_what_timings_are_kept_under() -> None:
    assert "tokens" not in Torch().key
    assert Torch(tokens=512).key["tokens"] == 512


def test_it_is_what_runs() -> None:
    seen = []
    table = torch.nn.Embedding(10, 2)
    table.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    Torch(tokens=7).ready(table, torch.ones(1, 3, dtype=torch.int64))()
    assert set(seen) == {7}


def test_an_onnx_runtime_reads_as_many_tokens_as_it_is_asked(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OnnxRuntime(tokens=24).key["tokens"] == 24
    assert "tokens" not in OnnxRuntime().key
    assert OnnxRuntime(tokens=24).ready(llama, PROMPT)() > 0
    started = []
    monkeypatch.setattr(OnnxRuntime, "_started", lambda target, graph, inputs: started.append((graph, inputs)))
    OnnxRuntime(tokens=24).ready(llama, PROMPT)
    OnnxRuntime(tokens=24, batch=2).family(llama, PROMPT)(llama)
    read = [tuple(dim.dim_value for dim in g.graph.input[0].type.tensor_type.shape.dim) for g, _ in started]
    assert read == [tuple(inputs["input_ids"].shape) for _, inputs in started] == [(1, 24), (2, 24)]


class TestGeneration:
    def test_what_is_written_is_what_transformers_writes_each_time(self, llama: Any) -> None:
        told = llama.generate(**PROMPT, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=True)
        with torch.inference_mode():
            writes = Generation(llama, PROMPT, 5)
            for _ in range(3):
                assert torch.equal(writes(), told[:, 9:])  # reading the prompt says the first

    def test_pruned_networks_write_with_what_they_kept_what_they_do_without(self, llama: Any) -> None:
        found = trace(llama, PROMPT, kinds=("channel", "head", "block"))
        units = [np.arange(0 if c.kind == "block" and "1" in c.name else (c.dense + 1) // 2) for c in found.choices]
        pruned: Any = prune(llama, found, units).eval()
        told = pruned.generate(**PROMPT, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=False)
        with torch.inference_mode():
            assert torch.equal(Generation(pruned, PROMPT, 5)(), told[:, 9:])
        assert Torch(generate=4, tokens=16, batch=2, dtype="bf16").ready(pruned, PROMPT)() > 0

    def test_it_is_part_of_what_timings_are_kept_under(self) -> None:
        assert "generate" not in Torch().key
        assert Torch(generate=4).key["generate"] == 4

    @pytest.mark.parametrize(
        ("model", "example", "said"),
        [
            (nn.Embedding(10, 2), torch.ones(1, 3, dtype=torch.int64), "Embedding keeps no keys and values"),
            (nn.Linear(3, 2), torch.ones(1, 3), "the task's example is no text"),
        ],
    )
    def test_who_keeps_nothing_writes_nothing(self, model: nn.Module, example: torch.Tensor, said: str) -> None:
        with pytest.raises(TargetError, match=f"generate = 4: .*{said}"):
            Torch(generate=4).ready(model, example)

    def test_a_prompt_that_is_too_long_is_one_line(self) -> None:
        transformers = pytest.importorskip("transformers")
        made = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8))
        with pytest.raises(
            TargetError, match=r"generate = 4: the network cannot read the prompt \(.*index out of range"
        ):
            Torch(generate=4, tokens=9).ready(made, PROMPT)

    def test_compiled_programs_are_not_timed_writing(self) -> None:
        with pytest.raises(ConfigError, match="torch-compile: generate = 4: only targets torch and torch-cuda"):
            TorchCompile(generate=4)
