"""The detection task: what it holds, and what is said where its files are missing or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from autoprune import models
from autoprune.detection.precision import AveragePrecision
from autoprune.errors import DataError, ModelError
from autoprune.models.fastestdet import FastestDet
from autoprune.tasks.bccd import WEIGHTS, bccd
from autoprune.train import Recipe, train


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small BCCD: six images, two a split, with a white cell each, and an untrained network."""
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    folder = tmp_path / "BCCD"
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for n, split in enumerate(("train", "val", "test")):
        names = [f"BloodImage_{n}{k}" for k in range(2)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.new("RGB", (64, 48), (40 * n, 0, 0)).save(folder / "JPEGImages" / f"{name}.jpg")
            box = "<xmin>9</xmin><ymin>13</ymin><xmax>32</xmax><ymax>36</ymax>"
            text = f"<annotation><object><name>WBC</name><bndbox>{box}</bndbox></object></annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(text)
    torch.manual_seed(0)
    safetensors.torch.save_file(FastestDet(3).state_dict(), tmp_path / WEIGHTS)
    return tmp_path


class TestBccd:
    def test_takes_the_data_sets_own_split(self, data: Path) -> None:
        task = bccd(data=str(data))
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [2, 2, 2]
        reds = [int(split.images[0, 2, 9, 9]) for split in (task.train, task.holdout, task.test)]
        assert reds == pytest.approx([0, 40, 80], abs=3)
        assert task.train.augment
        assert [task.holdout.augment, task.test.augment, task.holdout_seen] == [False, False, False]

    def test_runs_and_can_be_rebuilt(self, data: Path) -> None:
        task = bccd(data=str(data))
        assert task.model(task.example).shape == (1, 8, 22, 22)
        assert not task.model.training
        rebuilt = models.build(task.rebuild).state_dict()
        assert {n: t.shape for n, t in rebuilt.items()} == {n: t.shape for n, t in task.model.state_dict().items()}
        assert task.metric_name == "mAP@.5"
        assert 0 <= task.metric(task.model, task.holdout) <= 1

    def test_trains_by_its_own_loss(self, data: Path) -> None:
        task, losses = bccd(data=str(data)), list[float]()
        train(
            task.model, task.train, task.loss, Recipe(2, batch=2), seed=0, watch=lambda _, value: losses.append(value)
        )
        assert len(losses) == 2

    def test_reads_the_environment(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTOPRUNE_DATA", str(data))
        assert len(bccd().test) == 2

    def test_no_directory(self, data: Path) -> None:
        with pytest.raises(DataError, match=r"AUTOPRUNE_DATA.*github\.com/Shenggan/BCCD_Dataset"):
            bccd()

    def test_missing_directory(self, data: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere does not exist.*github\.com/Shenggan/BCCD_Dataset"):
            bccd(data=str(data / "nowhere"))

    def test_missing_weights(self, data: Path) -> None:
        (data / WEIGHTS).unlink()
        with pytest.raises(ModelError, match=rf"{WEIGHTS} does not exist; .*benchmarks/detection\.py makes it"):
            bccd(data=str(data))

    def test_weights_of_other_classes(self, data: Path) -> None:
        file = data / "coco.safetensors"
        safetensors.torch.save_file(FastestDet(80).state_dict(), file)
        with pytest.raises(ModelError, match=r"has shape \(80, 96, 1, 1\), the network's is \(3, 96, 1, 1\)"):
            bccd(weights=str(file), data=str(data))


@pytest.mark.realdata
def test_the_data_set_is_whole() -> None:
    task = bccd(data=os.environ["AUTOPRUNE_DATA"])
    assert [len(split) for split in (task.train, task.holdout, task.test)] == [205, 87, 72]
    counts = [[int((split.objects[..., 0] == kind).sum()) for kind in range(3)] for split in (task.train, task.holdout)]
    assert counts == [[2381, 214, 209], [967, 87, 83]]  # without two boxes that are points
    assert isinstance(task.metric, AveragePrecision)
    assert task.metric(task.model, task.test) > 0.7
