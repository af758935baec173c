"""Fashion-MNIST with a ResNet-20 of ours, both in the package: the task that runs anywhere, at once.

Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747. Embedded are 13,800 training, 2,000 holdout and 5,000 test
images; a data directory that holds the full idx files gives 58,000, the same 2,000, and 10,000.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from autoprune.data import idx
from autoprune.errors import ConfigError, DataError
from autoprune.models.resnet import ResNet
from autoprune.models.weights import load_weights
from autoprune.task import Images, Task

HOLDOUT = 2_000  # the last images of the training file, in the subset and in the full set alike
WEIGHTS = idx.EMBEDDED / "resnet20_fashion_mnist.safetensors"
MEAN, STD = (0.286,), (0.353,)
_FULL = {"train-images-idx3-ubyte": 60_000, "train-labels-idx1-ubyte": 60_000,
         "t10k-images-idx3-ubyte": 10_000, "t10k-labels-idx1-ubyte": 10_000}  # fmt: skip
_MOST = 60_000 * 28 * 28  # numbers in one of them


def fashion_mnist(model: str = "resnet20", data: str = "") -> Task:
    """Fashion-MNIST, 10 classes of 28 x 28 grey images, and a ResNet-20 with option-A shortcuts trained on it.

    Args:
        model: resnet20.
        data: a directory with the full data set's idx files; "" is $AUTOPRUNE_DATA where that holds them, and
            otherwise the subset in the package.

    Raises ConfigError, DataError or ModelError where one of these does not fit.
    """
    if model != "resnet20":
        raise ConfigError(f"task fashion_mnist has no model {model!r}; there is resnet20")
    train, holdout, test = splits(data or _from_environment())
    net = ResNet(20, channels=1)
    load_weights(net, WEIGHTS)
    return Task(
        model=net.eval(),
        example=next(holdout.batches(1))[0],
        train=train,
        holdout=holdout,
        test=test,
        name="fashion_mnist-resnet20",
        rebuild="fashion_mnist:resnet20",
    )


def splits(data: str = "") -> tuple[Images, Images, Images]:
    """Train, holdout and test. `data` is a directory with the full set ("" is the embedded subset).

    Raises DataError where a file is missing, short or damaged.
    """
    directory = _directory(data)
    arrays = [_checked(directory, name, full=bool(data)) for name in _FULL]
    images, labels, test_images, test_labels = arrays
    cut = len(images) - HOLDOUT
    return (
        _images(images[:cut], labels[:cut], pad=2, flip=True),
        _images(images[cut:], labels[cut:]),
        _images(test_images, test_labels),
    )


def _from_environment() -> str:
    """$AUTOPRUNE_DATA, which may be there for the sake of another data set; "" unless it holds this one."""
    data = os.environ.get("AUTOPRUNE_DATA", "")
    return data if data and idx.find(_directory(data), "train-images-idx3-ubyte") else ""


def _directory(data: str) -> Path:
    """`data` itself or the folder `fashion-mnist` in it, whichever holds the files."""
    if not data:
        return idx.EMBEDDED
    candidates = (Path(data), Path(data) / "fashion-mnist", Path(data) / "FashionMNIST" / "raw")
    return next((d for d in candidates if idx.find(d, "train-images-idx3-ubyte")), Path(data))


def _checked(directory: Path, name: str, *, full: bool) -> np.ndarray:
    where = (
        "the full set is in the Debian package dataset-fashion-mnist and at github.com/zalandoresearch/fashion-mnist"
    )
    try:
        array = idx.read(directory, name, _MOST)
    except DataError as wrong:
        raise DataError(f"{wrong}; {where}") from None
    if full and len(array) != _FULL[name]:
        raise DataError(f"{directory / name} holds {len(array):,} entries, not {_FULL[name]:,}; {where}")
    return array


def _images(images: np.ndarray, labels: np.ndarray, *, pad: int = 0, flip: bool = False) -> Images:
    if images.shape != (len(labels), 28, 28) or labels.ndim != 1 or not len(labels) or labels.max() > 9:
        raise DataError(f"Fashion-MNIST has 28 x 28 images with labels 0-9; here {images.shape} and {labels.shape}")
    pixels = torch.from_numpy(images[:, None].copy())
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)), MEAN, STD, pad=pad, flip=flip)
