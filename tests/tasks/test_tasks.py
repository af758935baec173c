"""The built-in tasks: what they hold, and what is said where their files are missing or damaged."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from autoprune import models, plugins
from autoprune.command.describe import describe
from autoprune.errors import ConfigError, DataError, ModelError
from autoprune.models.resnet import ResNet
from autoprune.task import Images, Task
from autoprune.tasks import cifar10 as module
from autoprune.tasks.cifar10 import cifar10
from autoprune.tasks.fashion_mnist import WEIGHTS, fashion_mnist, splits

RECORDS = 100  # a file here; 10,000 in truth
NAMES = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-10: the first pixel of record i of file n is n, its label i % 10."""
    monkeypatch.setattr(module, "_RECORDS", RECORDS)
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for n, name in enumerate(NAMES):
        records = torch.zeros(RECORDS, 3073, dtype=torch.uint8)
        records[:, 0] = torch.arange(RECORDS) % 10
        records[:, 1] = n
        records[:, 1 + 1024 + 32] = 200  # green, second row, first column
        (folder / name).write_bytes(records.numpy().tobytes())
    torch.manual_seed(0)
    safetensors.torch.save_file(ResNet(20).state_dict(), tmp_path / "resnet20_cifar10.safetensors")
    return tmp_path


def small(data: Path, **settings: object) -> Task:
    return cifar10(**{"model": "resnet20", "data": str(data), "holdout": 120, **settings})  # type: ignore[arg-type]


class TestCifar10:
    def test_cuts_the_last_training_images_off(self, data: Path) -> None:
        task = small(data)
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [380, 120, 100]
        files = [split.images[:, 0, 0, 0].unique().tolist() for split in (task.train, task.holdout, task.test)]
        assert files == [[0, 1, 2, 3], [3, 4], [5]]
        assert task.holdout.labels[-10:].tolist() == list(range(10))

    def test_pixels_are_where_the_format_puts_them(self, data: Path) -> None:
        task = small(data)
        assert int(task.test.images[7, 1, 1, 0]) == 200
        inputs, _ = next(task.test.batches(1))
        assert float(inputs[0, 1, 1, 0]) == pytest.approx((200 / 255 - 0.456) / 0.224)

    def test_only_training_is_augmented(self, data: Path) -> None:
        task = small(data)
        assert (task.train.pad, task.train.flip) == (4, True)
        assert (task.holdout.pad, task.holdout.flip, task.test.pad, task.test.flip) == (0, False, 0, False)

    def test_says_where_it_comes_from(self, data: Path) -> None:
        task = small(data)
        assert task.holdout_seen
        assert task.model(task.example).shape == (1, 10)
        rebuilt = models.build(task.rebuild).state_dict()
        assert {n: t.shape for n, t in rebuilt.items()} == {n: t.shape for n, t in task.model.state_dict().items()}

    def test_the_folder_itself_will_do(self, data: Path) -> None:
        assert len(small(data / "cifar-10-batches-bin").train) == 380

    def test_reads_the_environment(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTOPRUNE_DATA", str(data))
        assert len(cifar10("resnet20", holdout=120).holdout) == 120

    def test_no_directory(self, data: Path) -> None:
        with pytest.raises(DataError, match=r"AUTOPRUNE_DATA.*cs\.toronto\.edu/~kriz/cifar\.html"):
            cifar10("resnet20")

    def test_missing_directory(self, data: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere does not exist.*kriz"):
            small(data / "nowhere")

    @pytest.mark.parametrize("name", NAMES)
    def test_missing_file(self, data: Path, name: str) -> None:
        (data / "cifar-10-batches-bin" / name).unlink()
        with pytest.raises(DataError, match=rf"{name} is missing.*kriz"):
            small(data)

    def test_short_file(self, data: Path) -> None:
        file = data / "cifar-10-batches-bin" / "data_batch_3.bin"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"data_batch_3.bin holds 307,299 bytes, not 307,300.*kriz"):
            small(data)

    def test_impossible_label(self, data: Path) -> None:
        file = data / "cifar-10-batches-bin" / "test_batch.bin"
        file.write_bytes(b"\x0b" + file.read_bytes()[1:])
        with pytest.raises(DataError, match=r"test_batch.bin is damaged: it has a label 11"):
            small(data)

    def test_unknown_model(self, data: Path) -> None:
        with pytest.raises(ConfigError, match="no model 'resnet18'; there are resnet20,"):
            small(data, model="resnet18")

    @pytest.mark.parametrize("holdout", [0, -1, 500])
    def test_impossible_holdout(self, data: Path, holdout: int) -> None:
        with pytest.raises(ConfigError, match=f"holdout={holdout}; .* between 1 and 499 images"):
            small(data, holdout=holdout)

    def test_weights_of_ones_own(self, data: Path) -> None:
        file = data / "mine.safetensors"
        state = ResNet(20).state_dict()
        safetensors.torch.save_file(state, file)
        assert torch.equal(small(data, weights=str(file)).model.state_dict()["conv1.weight"], state["conv1.weight"])

    def test_missing_weights(self, data: Path) -> None:
        with pytest.raises(ModelError, match=r"resnet32_cifar10.safetensors does not exist"):
            small(data, model="resnet32")

    def test_weights_of_another_network(self, data: Path) -> None:
        with pytest.raises(ModelError, match="is not this network's"):
            small(data, model="resnet32", weights=str(data / "resnet20_cifar10.safetensors"))

    def test_weights_of_another_shape(self, data: Path) -> None:
        file = data / "grey.safetensors"
        safetensors.torch.save_file(ResNet(20, channels=1).state_dict(), file)
        with pytest.raises(ModelError, match=r"'conv1.weight' has shape \(16, 1, 3, 3\)"):
            small(data, weights=str(file))

    def test_weights_that_are_none(self, data: Path) -> None:
        (data / "text.safetensors").write_text("no weights")
        with pytest.raises(ModelError, match="is no safetensors file"):
            small(data, weights=str(data / "text.safetensors"))


@pytest.mark.realdata
@pytest.mark.parametrize(("model", "published"), [("resnet20", 0.9173), ("resnet56", 0.9339)])
def test_the_public_networks_are_as_good_as_published(model: str, published: float) -> None:
    task = cifar10(model, data=os.environ["AUTOPRUNE_DATA"])
    assert [len(split) for split in (task.train, task.holdout, task.test)] == [45_000, 5_000, 10_000]
    assert task.metric(task.model, task.test) == pytest.approx(published, abs=5e-4)


class TestFashionMnist:
    def test_is_there_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
        task = fashion_mnist()
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [13_800, 2_000, 5_000]
        assert not task.holdout_seen
        assert not task.model.training
        rebuilt = models.build(task.rebuild).state_dict()
        assert {n: t.shape for n, t in rebuilt.items()} == {n: t.shape for n, t in task.model.state_dict().items()}

    def test_its_network_knows_the_test_images(self) -> None:
        task = fashion_mnist()
        assert task.metric(task.model, task.test.head(500)) > 0.9

    def test_its_weights_are_small(self) -> None:
        assert WEIGHTS.stat().st_size <= 1.5e6

    def test_another_data_set_in_the_environment_does_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
        assert len(fashion_mnist().train) == 13_800

    def test_a_directory_without_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte is missing.*fashion-mnist"):
            splits(str(tmp_path))

    def test_unknown_model(self) -> None:
        with pytest.raises(ConfigError, match="no model 'resnet18'"):
            fashion_mnist(model="resnet18")


@pytest.mark.parametrize("name", plugins.OURS["task"])
def test_every_setting_of_every_task_is_explained(name: str) -> None:
    assert "data" in inspect.signature(plugins.load("task", name)).parameters
    assert all(setting.meaning for setting in describe("task", name).settings)


def test_crops_move_black_in() -> None:
    """As padding before scaling does, in the recipes that public networks were trained with."""
    black = Images(torch.zeros(4, 2, 8, 8, dtype=torch.uint8), torch.zeros(4), (0.3, 0.5), (0.2, 0.1), pad=3, flip=True)
    ((images, _),) = black.shuffled(4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, torch.tensor([-1.5, -5.0]).view(1, 2, 1, 1).expand(4, 2, 8, 8))
