"""BCCD: red cells, white cells and platelets in 364 photographs of blood, and a small detector, FastestDet.

https://github.com/Shenggan/BCCD_Dataset (MIT), in its own split of 205 training, 87 validation and 72 test images. The
validation images are the holdout: no network of ours is trained on them. The public weights of FastestDet know the 80
classes of COCO; `benchmarks/detection.py` finetunes them on the training images.
"""

from __future__ import annotations

from pathlib import Path

from autoprune.data import place
from autoprune.detection import voc
from autoprune.detection.cells import loss
from autoprune.detection.images import BoxedImages
from autoprune.detection.precision import AveragePrecision
from autoprune.errors import DataError
from autoprune.models.fastestdet import SIDE, FastestDet
from autoprune.models.weights import load_trained
from autoprune.task import Task

CLASSES = ("RBC", "WBC", "Platelets")
WEIGHTS = "fastestdet_bccd.safetensors"
_WHERE = "the data set is at https://github.com/Shenggan/BCCD_Dataset"
_MADE = "benchmarks/detection.py makes it from FastestDet's public weights"


def bccd(weights: str = "", data: str = "") -> Task:
    """BCCD, boxes of 3 classes in photographs of blood shown at 352 x 352, and FastestDet. The metric is mAP@.5.

    Args:
        weights: a safetensors file of a FastestDet of 3 classes; "" is fastestdet_bccd.safetensors in the data
            directory.
        data: the directory that holds the data set's folder BCCD, or bccd.zip, or either of them itself; "" is
            $AUTOPRUNE_DATA.

    Raises DataError or ModelError where one of these is missing or does not fit.
    """
    given = directory(data)
    train, holdout, test = splits(given)
    net = FastestDet(len(CLASSES))
    load_trained(net, Path(weights) if weights else (given if given.is_dir() else given.parent) / WEIGHTS, _MADE)
    return Task(
        model=net.eval(),
        example=next(holdout.batches(1))[0],
        train=train,
        holdout=holdout,
        test=test,
        metric=AveragePrecision(CLASSES),
        metric_name="mAP@.5",
        loss=loss,
        name="bccd-fastestdet",
        rebuild="bccd:fastestdet",
    )


def splits(given: Path) -> tuple[BoxedImages, BoxedImages, BoxedImages]:
    """Training images, augmented, holdout and test images. Raises DataError where they are missing or damaged."""
    try:
        folder = voc.find(given, "BCCD")
        train, holdout, test = (
            voc.load(voc.read(folder, split), CLASSES, SIDE, augment=split == "train")
            for split in ("train", "val", "test")
        )
    except DataError as wrong:
        raise DataError(f"{wrong}; {_WHERE}") from None
    return train, holdout, test


def directory(data: str = "") -> Path:
    """Where the data lie: what is given, or $AUTOPRUNE_DATA. Raises DataError where neither is."""
    return place.directory(data, "BCCD needs a data directory", _WHERE)
