"""CIFAR-10 with the classic ResNets of 20 to 110 layers: the field's common yardstick.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, in its canonical binary version. The data set may not be
passed on, so it is read from a directory of the user's. The public weights were trained on all 50,000 training images,
the holdout among them: it flatters them, and reports say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.data import place
from autoprune.errors import ConfigError, DataError
from autoprune.models.resnet import DEPTHS, ResNet
from autoprune.models.weights import load_trained
from autoprune.task import Images, Task
from autoprune.values.ranges import Range

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODELS = tuple(f"resnet{depth}" for depth in DEPTHS)
Holdout = Annotated[int, Range(1, 49_999)]
_TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
_TEST = ("test_batch.bin",)
_RECORDS, _RECORD = 10_000, 3_073  # one label byte, then 3 x 32 x 32 pixels
_WHERE = "the binary version of CIFAR-10 is to be had at https://www.cs.toronto.edu/~kriz/cifar.html"
_WEIGHTS = "trained weights with the names of github.com/akamaster/pytorch_resnet_cifar10 fit"


def cifar10(model: str = "resnet56", weights: str = "", data: str = "", holdout: Holdout = 5000) -> Task:
    """CIFAR-10, 10 classes of 32 x 32 colour images, and a ResNet with option-A shortcuts.

    Args:
        model: resnet20, resnet32, resnet44, resnet56 or resnet110.
        weights: a safetensors file; "" is MODEL_cifar10.safetensors in the data directory.
        data: the directory that holds the .bin files, or cifar-10-batches-bin with them; "" is $AUTOPRUNE_DATA.
        holdout: how many of the training images, the last ones, score the search; the others train.

    Raises ConfigError, DataError or ModelError where one of these does not fit.
    """
    if model not in MODELS:
        raise ConfigError(f"task cifar10 has no model {model!r}; there are {', '.join(MODELS)}")
    directory = _directory(data)
    most = len(_TRAIN) * _RECORDS - 1
    if not 0 < holdout <= most:
        raise ConfigError(f"task cifar10: holdout={holdout}; it should be between 1 and {most:,} images")
    images, labels = _read(directory, _TRAIN)
    net = ResNet(int(model.removeprefix("resnet")))
    load_trained(net, Path(weights) if weights else _beside(directory, f"{model}_cifar10.safetensors"), _WEIGHTS)
    cut = len(images) - holdout
    test = Images(*_read(directory, _TEST), MEAN, STD)
    scored = Images(images[cut:], labels[cut:], MEAN, STD)
    return Task(
        model=net.eval(),
        example=next(scored.batches(1))[0],
        train=Images(images[:cut], labels[:cut], MEAN, STD, pad=4, flip=True),
        holdout=scored,
        test=test,
        name=f"cifar10-{model}",
        rebuild=f"cifar10:{model}",
        holdout_seen=True,
    )


def _directory(data: str) -> Path:
    """Where the files lie: the data directory itself or the data set's own folder in it."""
    given = place.directory(data, "CIFAR-10 needs a data directory", _WHERE)
    if not given.is_dir():
        raise DataError(f"the data directory {given} does not exist; {_WHERE}")
    inner = given / "cifar-10-batches-bin"
    return inner if inner.is_dir() else given


def _read(directory: Path, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, uint8 (n, 3, 32, 32), and labels, int64 (n,)."""
    records = np.concatenate([_records(directory / name) for name in names])
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return pixels, torch.from_numpy(records[:, 0].astype(np.int64))


def _records(file: Path) -> NDArray[np.uint8]:
    try:
        size = file.stat().st_size
        if size != _RECORDS * _RECORD:
            raise DataError(f"{file} holds {size:,} bytes, not {_RECORDS * _RECORD:,}; {_WHERE}")
        records = np.fromfile(file, np.uint8).reshape(_RECORDS, _RECORD)
    except FileNotFoundError:
        raise DataError(f"{file} is missing; {_WHERE}") from None
    except PermissionError as wrong:
        raise DataError(f"{file} cannot be read ({wrong.strerror}); {_WHERE}") from None
    if records[:, 0].max() > 9:
        raise DataError(f"{file} is damaged: it has a label {records[:, 0].max()}, labels are 0 to 9; {_WHERE}")
    return records


def _beside(directory: Path, name: str) -> Path:
    """The weights in the data directory, whether or not the images lie in a folder of their own there."""
    inside = directory / name
    return inside if inside.is_file() or directory.name != "cifar-10-batches-bin" else directory.parent / name
