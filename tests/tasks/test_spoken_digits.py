"""Spoken digits: which recordings are in which split, what features are, and what is said where a file is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from autoprune import models
from autoprune.errors import ConfigError, DataError, ModelError
from autoprune.task import Split, Task
from autoprune.tasks.spoken_digits import FILE, MODELS, SILENCE, TESTS, log_mel, splits, spoken_digits, weights_name

TAKES, SPEAKERS = 20, 6


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two digits by six speakers, twenty takes: a tone whose height says which take it is."""
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    digit, speaker, take = np.indices((2, SPEAKERS, TAKES)).reshape(3, -1).astype(np.int8)
    lengths = 1000 + 10 * np.arange(len(take))
    waves = [8000 * np.sin(np.arange(n) * (0.1 + 0.05 * t)) for n, t in zip(lengths, take, strict=True)]
    write(tmp_path / FILE, np.concatenate(waves), np.cumsum([0, *lengths]), digit, speaker, take)
    for name in MODELS:
        torch.manual_seed(0)
        weights = models.build(f"spoken_digits:{name}").state_dict()
        safetensors.torch.save_file(weights, tmp_path / weights_name(name, "takes"))
    return tmp_path


def write(file: Path, samples: np.ndarray, offset: np.ndarray, *labels: np.ndarray) -> None:
    named = dict(zip(("digit", "speaker", "take"), labels, strict=True))
    np.savez(file, samples=samples.astype(np.int16), offset=offset, **named)


def features(data: Path, wanted: np.ndarray) -> set[bytes]:
    """Fingerprints of the recordings for which `wanted` holds."""
    with np.load(data / FILE) as held:
        bounds, samples = held["offset"], held["samples"].astype(np.float32)
    chosen = np.flatnonzero(wanted)
    return {log_mel(torch.from_numpy(samples[bounds[i] : bounds[i + 1]])).numpy().tobytes() for i in chosen}


def fingerprints(split: Split) -> set[bytes]:
    return {one.numpy().tobytes() for batch, _ in split.batches(50) for one in batch}


@pytest.mark.parametrize("test", TESTS)
def test_every_recording_is_in_the_split_that_the_data_set_names(data: Path, test: str) -> None:
    _, speaker, take = np.indices((2, SPEAKERS, TAKES)).reshape(3, -1)
    tested = take < 5 if test == "takes" else speaker == int(test[-1])
    scored = ~tested & (take >= 5) & (take < 15)
    found = splits(data, test)
    for split, wanted in zip(found, (~tested & ~scored, scored, tested), strict=True):
        assert fingerprints(split) == features(data, wanted)
    assert sum(len(split) for split in found) == len(take)


def test_labels_follow_their_recordings(data: Path) -> None:
    _, _, test = splits(data, "takes")
    zeros = features(data, np.indices((2, SPEAKERS, TAKES)).reshape(3, -1)[0] == 0)
    said = {bool(one.numpy().tobytes() in zeros) == (int(digit) == 0) for one, digit in zip(test.features, test.digits)}
    assert said == {True}


@pytest.mark.parametrize("model", MODELS)
def test_networks_hear_any_number_of_recordings_and_frames(data: Path, model: str) -> None:
    task = spoken_digits(model, data=str(data))
    assert isinstance(task, Task)
    assert task.example.shape == (1, 51, 40)
    assert task.model(task.test.head(7).features).shape == (7, 10)
    assert task.model(torch.zeros(2, 30, 40)).shape == (2, 10)
    rebuilt = models.build(task.rebuild).state_dict()
    assert {n: t.shape for n, t in rebuilt.items()} == {n: t.shape for n, t in task.model.state_dict().items()}


def test_loudness_makes_no_difference() -> None:
    wave = torch.sin(torch.arange(4000) * 0.3)
    torch.testing.assert_close(log_mel(wave), log_mel(wave * 1234.5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("hertz", "lowest"), [(300.0, True), (3000.0, False)])
def test_a_tone_is_loudest_in_its_own_band(hertz: float, lowest: bool) -> None:
    band = int(log_mel(torch.sin(torch.arange(8000) * hertz * 2 * np.pi / 8000))[25].argmax())
    assert (band < 20) == lowest


@pytest.mark.parametrize("samples", [1144, 8000, 18262])
def test_every_recording_becomes_one_second(samples: int) -> None:
    found = log_mel(torch.ones(samples).cumsum(0).sin())
    assert found.shape == (51, 40)
    assert bool(found.isfinite().all())
    assert float(found.min()) >= SILENCE - 1e-5


def test_only_training_is_augmented_and_the_seed_says_how(data: Path) -> None:
    train, holdout, test = splits(data, "takes")
    assert (holdout.shift, holdout.gain, holdout.mask, test.shift, test.gain, test.mask) == (0, 0.0, 0, 0, 0.0, 0)
    once, again = (next(train.shuffled(20, torch.Generator().manual_seed(1)))[0] for _ in range(2))
    assert torch.equal(once, again)
    plain = {one.numpy().tobytes() for one in train.features}
    assert not any(one.numpy().tobytes() in plain for one in once)


def test_what_is_moved_in_is_silence(data: Path) -> None:
    train, _, _ = splits(data, "takes")
    loud = type(train)(torch.ones(30, 51, 40), torch.zeros(30, dtype=torch.int64), shift=5)
    ((moved, _),) = loud.shuffled(30, torch.Generator().manual_seed(0))
    assert moved.unique().tolist() == pytest.approx([SILENCE, 1.0])
    assert float((moved == 1).sum(1).min()) >= 46


def test_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    with pytest.raises(DataError, match=r"spoken_digits\.npz: give --data DIR or set AUTOPRUNE_DATA"):
        spoken_digits()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spoken_digits\.npz is missing"):
        spoken_digits(data=str(tmp_path))


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 torn"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=r"spoken_digits\.npz is damaged"):
        spoken_digits(data=str(tmp_path))


def test_labels_that_are_too_few(tmp_path: Path) -> None:
    one = np.zeros(1, np.int8)
    write(tmp_path / FILE, np.ones(2000), np.array([0, 1000, 2000]), one, one, one)
    with pytest.raises(DataError, match=r"damaged: offset names 2 recordings"):
        spoken_digits(data=str(tmp_path))


def test_an_unknown_model_or_test_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'cnn'; there are ds-cnn, gru, lstm"):
        spoken_digits("cnn", data=str(data))
    with pytest.raises(ConfigError, match="test='speaker-6'; there are takes, speaker-0"):
        spoken_digits(data=str(data), test="speaker-6")


def test_missing_weights_name_the_recipe(data: Path) -> None:
    with pytest.raises(ModelError, match=r"ds-cnn-speaker-2\.safetensors does not exist.*train_spoken_digits\.py"):
        spoken_digits(data=str(data), test="speaker-2")


@pytest.mark.realdata
def test_the_real_recordings_are_split_as_published() -> None:
    found = splits(Path(os.environ["AUTOPRUNE_DATA"]), "takes")
    assert [len(split) for split in found] == [2100, 600, 300]
    assert [split.digits.bincount().tolist() for split in found] == [[210] * 10, [60] * 10, [30] * 10]
