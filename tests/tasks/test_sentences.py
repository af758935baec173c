"""Sentences without labels: what is read, what the metric counts, and a search of a tiny BERT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import autoprune
from autoprune.errors import ConfigError, DataError, ModelError
from autoprune.tasks.sentences import Sentences, cosine, distance, nearest, neighbours_kept, sentences

transformers = pytest.importorskip("transformers")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(40)))
SENTENCES = 90
SMALL = {"length": 8, "holdout": 25, "test": 25}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BERT of two layers with weights of chance, a tokenizer of forty words, and sentences of three to eleven."""
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    folder = tmp_path / "minilm"
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer(folder)
    lines = [" ".join(f"w{(n * k) % 40}" for k in range(1, 3 + n % 9)) for n in range(1, SENTENCES + 1)]
    (tmp_path / "sentences.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks).save_pretrained(folder)


def of(vectors: torch.Tensor) -> Sentences:
    """Sentences whose one token is their place, with the given dense vectors."""
    places = torch.arange(len(vectors)).unsqueeze(1)
    return Sentences(places, torch.ones_like(places), vectors)


class Says(nn.Module):
    """Says a vector of a table for every sentence."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table[input_ids[:, 0]]


def unit(count: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn, dim=1)


class TestTask:
    def test_the_dense_network_keeps_all_neighbours(self, data: Path) -> None:
        task = sentences(data=str(data), **SMALL)
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [40, 25, 25]
        assert {name: tuple(t.shape) for name, t in task.example.items()} == {
            "input_ids": (1, 8), "attention_mask": (1, 8),
        }  # fmt: skip
        assert task.metric(task.model, task.test) == 1.0

    def test_splits_are_stretches_of_the_text(self, data: Path) -> None:
        task = sentences(data=str(data), **SMALL)
        rows = [{tuple(row.tolist()) for row in split.tokens} for split in (task.train, task.holdout, task.test)]
        lines = (data / "sentences.txt").read_text().split("\n")
        last = [int(word[1:]) + 4 for word in lines[SENTENCES - 1].split()][:6]
        assert any(list(row[1 : 1 + len(last)]) == last for row in rows[2])

    def test_padding_changes_no_vector(self, data: Path) -> None:
        long, short = (sentences(data=str(data), **{**SMALL, "length": n}) for n in (16, 13))
        torch.testing.assert_close(long.test.vectors, short.test.vectors, atol=1e-5, rtol=1e-5)

    def test_weights_are_those_in_the_file(self, data: Path) -> None:
        task = sentences(data=str(data), **SMALL)
        held = safetensors.torch.load_file(data / "minilm" / "model.safetensors")
        found = dict(task.model.encoder.state_dict())
        assert found.keys() == {name for name in held if not name.startswith("pooler.")}
        assert all(torch.equal(tensor, held[name]) for name, tensor in found.items())

    def test_global_randomness_is_left_alone(self, data: Path) -> None:
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        sentences(data=str(data), **SMALL)
        assert torch.equal(torch.rand(1), expected)

    def test_a_search_of_a_bert_meets_its_budget(self, data: Path) -> None:
        task = sentences(data=str(data), **SMALL)
        tables = {
            "space": {"step": 4},
            "finetune": {"epochs": 1, "batch": 8},
            "report": {"random_trials": 1, "fidelity": 0},
        }
        found = autoprune.search(task, {"macs": "80%"}, "random", 3, 0, data / "runs", **tables)
        ours, dense = found.report.ours, found.report.dense
        assert ours.costs["macs"] <= 0.8 * dense.costs["macs"]
        assert dense.test == 1.0
        assert 0 < ours.test < 1
        assert found.model(**task.example).shape == (1, 16)


class TestCosine:
    def test_it_is_the_mean_over_sentences(self) -> None:
        vectors, others = unit(40, 0), unit(40, 1)
        expected = (vectors * others).sum(1)
        assert cosine(Says(others), of(vectors)) == pytest.approx(float(expected.mean()))
        torch.testing.assert_close(cosine.each(Says(others), of(vectors)).float(), expected)  # type: ignore[attr-defined]

    def test_a_task_may_ask_for_it(self, data: Path) -> None:
        task = sentences(data=str(data), metric="cosine", **SMALL)
        assert (task.judge.name, task.judge.percent) == ("cosine to dense", False)
        assert task.judge(task.model, task.test) == pytest.approx(1.0)
        assert sentences(data=str(data), **SMALL).judge.name == "top-10 neighbours kept"

    def test_no_other_is_known(self, data: Path) -> None:
        with pytest.raises(ConfigError, match="metric = 'cos'; 'neighbours', 'cosine' are right"):
            sentences(data=str(data), metric="cos", **SMALL)


class TestMetric:
    def test_turned_vectors_keep_their_neighbours(self) -> None:
        vectors = unit(40, 0)
        turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
        assert neighbours_kept(Says(vectors @ turn), of(vectors)) == pytest.approx(1.0, abs=0.01)

    def test_vectors_of_chance_keep_as_many_as_chance(self) -> None:
        kept = neighbours_kept(Says(unit(400, 1)), of(unit(400, 2)))
        assert kept == pytest.approx(10 / 399, abs=0.015)

    def test_no_sentence_is_its_own_neighbour(self) -> None:
        vectors = unit(30, 0)
        assert not (nearest(vectors) == torch.arange(30).unsqueeze(1)).any()

    def test_the_loss_is_what_the_cosine_lacks(self) -> None:
        one, other = unit(5, 0), unit(5, 1)
        cosine = nn.functional.cosine_similarity(one, other).mean()
        assert float(distance(one, other)) == pytest.approx(float(2 - 2 * cosine), abs=1e-6)
        assert float(distance(one, one)) == 0.0


class TestRefusals:
    def test_no_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
        with pytest.raises(DataError, match=r"sentences\.txt: give --data DIR or set AUTOPRUNE_DATA"):
            sentences()

    def test_missing_text(self, data: Path) -> None:
        (data / "sentences.txt").unlink()
        with pytest.raises(DataError, match=r"sentences\.txt is missing"):
            sentences(data=str(data))

    def test_text_that_is_none(self, data: Path) -> None:
        (data / "sentences.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="plain sentences in UTF-8"):
            sentences(data=str(data))

    @pytest.mark.parametrize("wrong", [{"holdout": 0}, {"test": 21}, {"holdout": 50, "test": 30}, {"test": -5}])
    def test_splits_too_small_to_have_neighbours(self, data: Path, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="of 90 sentences; 22 are the least of each split"):
            sentences(data=str(data), **{**SMALL, **wrong})

    def test_no_room_for_a_word(self, data: Path) -> None:
        with pytest.raises(ConfigError, match="length=2; 3 tokens are the least"):
            sentences(data=str(data), **{**SMALL, "length": 2})

    def test_missing_network(self, data: Path) -> None:
        with pytest.raises(ModelError, match=r"nowhere holds no config\.json"):
            sentences(str(data / "nowhere"), data=str(data), **SMALL)

    def test_a_network_that_encodes_no_text(self, data: Path) -> None:
        (data / "minilm" / "config.json").write_text(json.dumps({"model_type": "no such"}))
        with pytest.raises(ModelError, match="no text encoder that transformers can open"):
            sentences(data=str(data), **SMALL)

    def test_weights_of_another_network(self, data: Path) -> None:
        file = data / "minilm" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 3}))
        with pytest.raises(ModelError, match=r"lacks 'encoder\.layer\.2"):
            sentences(data=str(data), **SMALL)

    def test_without_transformers(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ConfigError, match=r"pip install 'autoprune\[transformers\]'"):
            sentences(data=str(data), **SMALL)


@pytest.mark.realdata
def test_the_real_encoder_finds_what_is_alike() -> None:
    task = sentences(data=os.environ["AUTOPRUNE_DATA"], holdout=100, test=100)
    assert task.metric(task.model, task.test) == 1.0
    assert float((task.test.vectors @ task.test.vectors.T).mean()) < 0.3
