"""WikiText-2 with a tiny language model: what is read, what is refused, and a search over its layers."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autoprune
from autoprune import config
from autoprune.errors import ConfigError, DataError, ModelError
from autoprune.files.pretrained import save_pretrained
from autoprune.perplexity import next_word, perplexity
from autoprune.runs import study
from autoprune.structure.prune import prune
from autoprune.structure.skipped import Skipped
from autoprune.structure.trace import trace
from autoprune.tasks.wikitext2 import TEST, VALID, Windows, wikitext2
from autoprune.values.space import Policy
from tests.tasks.test_sentences import tokenizer

transformers = pytest.importorskip("transformers")

SMALL = {"length": 8, "train": 64, "holdout": 32, "test": 32, "example": 8}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama of three layers with weights of chance, a tokenizer of forty words, and two texts."""
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    config = transformers.LlamaConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=16, tie_word_embeddings=True, initializer_range=0.3,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "smollm2")
    tokenizer(tmp_path / "smollm2")
    for name, step in ((VALID, 7), (TEST, 11)):
        (tmp_path / name).write_text(" ".join(f"w{n * step % 40}" for n in range(200)))
    return tmp_path


class TestTask:
    def test_every_token_but_the_last_is_followed(self) -> None:
        found = Windows.of(torch.arange(6), 3)
        assert found.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found.following.tolist() == [[1, 2, 3], [4, 5, -100]]

    def test_splits_are_stretches_of_the_texts(self, data: Path) -> None:
        task = wikitext2(data=str(data), **SMALL)
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [8, 4, 4]
        behind = task.holdout.tokens.flatten()[-1] + 7
        assert int(task.train.tokens[0, 0]) == (int(behind) - 4) % 40 + 4

    def test_the_perplexity_is_that_of_the_loss(self, data: Path) -> None:
        task = wikitext2(data=str(data), **SMALL)
        (inputs, targets), *rest = task.test.batches(100)
        assert not rest
        with torch.no_grad():
            loss = float(next_word(task.model(**inputs), targets))
        assert task.metric(task.model, task.test) == pytest.approx(math.exp(loss), rel=1e-5)
        assert task.quality(task.model, task.test) == -task.metric(task.model, task.test)

    @pytest.mark.parametrize(("metric", "dense"), [("kl", 0.0), ("agreement", 1.0)])
    def test_without_labels_dense_is_what_it_is_compared_with(self, data: Path, metric: str, dense: float) -> None:
        task = wikitext2(data=str(data), metric=metric, **SMALL)
        assert task.quality(task.model, task.holdout) == pytest.approx(dense, abs=1e-6)

    def test_a_trial_leaves_a_layer_out(self, data: Path) -> None:
        task = wikitext2(data=str(data), metric="kl", **SMALL)
        tables = {
            "space": {"kinds": ["block"]},
            "evaluator": {"use": "recalibrate", "images": 0, "batch": 2, "panel": 1, "probes": 0},
            "budget": {"macs": "75%"},
            "search": {"precision": "fp32"},
            "task": {"use": "given"},
        }
        built = study.build(config.parse(tables, "a test"), task=task)
        trial = built.attempt(0, built.budget.fit(built.space.dense()))
        assert sum(trial.policy.levels) == 2
        assert trial.metric is not None
        assert trial.metric < 0
        assert built.attempt(1, built.space.dense()).metric == pytest.approx(0, abs=1e-6)

    @pytest.mark.slow
    def test_a_search_leaves_layers_out_within_its_budget(self, data: Path) -> None:
        task = wikitext2(data=str(data), metric="kl", **SMALL)
        tables = {
            "space": {"kinds": ["block"]},
            "evaluator": {"use": "recalibrate", "images": 0, "batch": 2, "panel": 1, "probes": 0},
            "finetune": {"epochs": 0},
            "report": {"random_trials": 1, "fidelity": 0},
        }
        found = autoprune.search(task, {"macs": "75%"}, "switch", 3, 0, data / "runs", **tables)
        assert sum(found.policy.levels) == 2
        assert sum(isinstance(module, Skipped) for module in found.model.modules()) == 1
        assert found.report.dense.test == pytest.approx(0, abs=1e-6)


class TestPretrained:
    """What `transformers` opens without us."""

    @staticmethod
    def pruned(data: Path, level: int, **space: object) -> tuple[torch.nn.Module, object]:
        task = wikitext2(data=str(data), **SMALL)
        tables = {"space": space, "task": {"use": "given"}, "search": {"precision": "fp32"}}
        built = study.build(config.parse(tables, "a test"), task=task)
        levels = [level if c.kind == "block" else c.dense // 2 if "mlp" in c.name else c.dense for c in built.space]
        levels[-1] = 0 if built.space.choices[-1].kind == "block" else levels[-1]
        return built.evaluator.realise(built.space.canonical(Policy.of(levels))).model.eval(), task.example

    def test_fewer_layers_that_are_all_alike(self, data: Path) -> None:
        net, example = self.pruned(data, 1, kinds=["channel", "block"], uniform=True)
        save_pretrained(net, data / "out", example)
        opened = transformers.AutoModelForCausalLM.from_pretrained(data / "out").eval()
        assert (opened.config.num_hidden_layers, opened.config.intermediate_size) == (2, 16)
        with torch.no_grad():
            torch.testing.assert_close(opened(**example).logits, net(**example).logits)
            opened.generate(**example, max_new_tokens=4, do_sample=False, use_cache=True)

    def test_a_cache_has_no_gaps(self, data: Path) -> None:
        task = wikitext2(data=str(data), **SMALL)
        found = trace(task.model, task.example, kinds=("block",))
        net: Any = prune(task.model, found, [np.arange(level) for level in (0, 1, 1)]).eval()
        said = [net.generate(**task.example, max_new_tokens=6, do_sample=False, use_cache=on) for on in (True, False)]
        assert torch.equal(*said)

    def test_layers_that_are_not_alike(self, data: Path) -> None:
        task = wikitext2(data=str(data), **SMALL)
        found = trace(task.model, task.example)
        net = prune(
            task.model, found, [np.arange(c.dense - (c.name == "model.layers.0.mlp.gate_proj")) for c in found.choices]
        )
        with pytest.raises(ModelError, match="MLPs have 31, 32 of 32 units; a config says one width"):
            save_pretrained(net, data / "out", task.example)

    def test_part_of_a_layer(self, data: Path) -> None:
        net, example = self.pruned(data, 0, kinds=["branch"])
        with pytest.raises(ModelError, match=r"'model\.layers\.0\..*' is gone, but not its layer"):
            save_pretrained(net, data / "out", example)

    def test_another_network(self, data: Path) -> None:
        with pytest.raises(ConfigError, match="the network is a Linear; one of transformers is right"):
            save_pretrained(torch.nn.Linear(2, 2), data / "out", torch.ones(1, 2))


class TestRefusals:
    def test_a_window_longer_than_the_network_reads(self, data: Path) -> None:
        with pytest.raises(ConfigError, match=r"length = 17 tokens, but .* reads at most 16"):
            wikitext2(data=str(data), **{**SMALL, "length": 17})

    def test_a_split_without_a_window(self, data: Path) -> None:
        with pytest.raises(ConfigError, match=r"length = 16, but .*test = 8 tokens; a window of each is the least"):
            wikitext2(data=str(data), **{**SMALL, "length": 16, "test": 8})

    def test_no_tokenizer(self, data: Path) -> None:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (data / "smollm2" / file).unlink()
        with pytest.raises(ModelError, match=r"smollm2 holds no tokenizer; tokenizer\.json is needed there"):
            wikitext2(data=str(data), **SMALL)

    def test_a_text_too_short(self, data: Path) -> None:
        with pytest.raises(DataError, match=f"{TEST} has 202 tokens, but 208 are asked for"):
            wikitext2(data=str(data), **{**SMALL, "test": 208})

    def test_an_unknown_metric(self, data: Path) -> None:
        with pytest.raises(ConfigError, match="metric = 'bleu'; 'perplexity', 'kl', 'agreement' are right"):
            wikitext2(data=str(data), metric="bleu", **SMALL)

    def test_no_network(self, data: Path) -> None:
        with pytest.raises(ModelError, match=r"nowhere holds no config\.json"):
            wikitext2(str(data / "nowhere"), data=str(data), **SMALL)

    def test_weights_of_another_network(self, data: Path) -> None:
        file = data / "smollm2" / "config.json"
        file.write_text(file.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
        with pytest.raises(ModelError, match=r"lacks 'model\.layers\.3"):
            wikitext2(data=str(data), **SMALL)

    def test_without_transformers(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ConfigError, match=r"pip install 'autoprune\[transformers\]'"):
            wikitext2(data=str(data), **SMALL)

    def test_perplexity_of_what_is_no_text(self) -> None:
        with pytest.raises(ConfigError, match=r"here are outputs float32 \(2, 3\) and no targets"):
            next_word(torch.zeros(2, 3), None)


@pytest.mark.realdata
def test_the_real_model_has_its_perplexity() -> None:
    task = wikitext2(data=os.environ["AUTOPRUNE_DATA"], test=4096)
    assert perplexity(task.model, task.test) == pytest.approx(21.17, abs=0.005)
