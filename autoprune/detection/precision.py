"""Mean average precision of a detector, counted by faster-coco-eval as COCO does.

Lin et al. 2014, https://arxiv.org/abs/1405.0312; https://github.com/MiXaiLL76/faster_coco_eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.detection import boxes, cells
from autoprune.engine.memory import laid_out
from autoprune.errors import ConfigError, DataError
from autoprune.inputs import call, device_of, moved
from autoprune.task import Split
from autoprune.values.terms import Floats

_LEAST, _MOST = 0.001, 100  # confidence of a detection, and detections of an image, that count
_SAME = 0.45  # overlap from which two boxes are one object's
_BATCH = 32
_LOOKED_AT = 256  # cells of an image, the surest: more than twice as many as COCO counts detections


def detections(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a detector sees, surest first: boxes (n, k, 4), classes and confidence (n, k), 0 where there is nothing."""
    found = cells.read(outputs)
    probability, kind = found.classes.flatten(2).max(1)
    sure = found.confidence.flatten(1) ** 0.6 * probability**0.4
    sure, order = (one[:, :_LOOKED_AT] for one in torch.sort(sure, dim=1, descending=True, stable=True))
    kind = kind.gather(1, order)
    placed = found.boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
    return placed, kind, torch.where(boxes.best_of_each(placed, kind, _SAME), sure, 0.0)


@dataclass(frozen=True)
class Seen:
    """What a detector sees in some images, and what is there. Of both a row a box: image, left, top, width, height,
    confidence, class."""

    images: int
    there: Floats
    seen: Floats

    def drawn(self, rng: np.random.Generator) -> Seen:
        """The same of as many of the images, drawn at random, some of them several times."""
        places = rng.integers(0, self.images, self.images)
        return Seen(self.images, *(_placed(rows, places) for rows in (self.there, self.seen)))


@dataclass(frozen=True)
class AveragePrecision:
    """The mean of the average precisions of all classes, in [0, 1].

    Attributes:
        classes: their names.
        overlap: from which on a box is right, in (0, 1].
    """

    classes: tuple[str, ...]
    overlap: float = 0.5

    def __call__(self, model: nn.Module, split: Split) -> float:
        """Of `model` on `split`, whose targets are objects. Leaves the model in eval mode.

        Raises DataError where `split` holds no object, and ConfigError where faster-coco-eval is missing.
        """
        return float(np.mean(list(self.by_class(model, split).values())))

    def by_class(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The average precision of each class of which `split` holds an object, in [0, 1]. Raises as above."""
        return _average(_look(model, split), self.classes, self.overlap)

    def deviation(self, model: nn.Module, split: Split, draws: int = 100, seed: int = 0) -> float:
        """By how much the mean varies with the images that happen to be in `split`: its standard deviation over draws.

        Efron 1979, https://doi.org/10.1214/aos/1176344552. Raises as above.
        """
        found, rng = _look(model, split), np.random.default_rng(seed)
        means = [np.mean(list(_average(found.drawn(rng), self.classes, self.overlap).values())) for _ in range(draws)]
        return float(np.std(means, ddof=1))


def _look(model: nn.Module, split: Split) -> Seen:
    model.eval()
    there, seen, images = list[Floats](), list[Floats](), 0
    with torch.inference_mode():
        for inputs, objects in split.batches(_BATCH):
            outputs = moved(call(model, laid_out(moved(inputs, device_of(model)))), torch.float32)
            kind = objects[..., 0].cpu()
            there.append(_rows(images, objects[..., 1:].cpu(), kind, (kind >= 0).float()))
            seen.append(_rows(images, *detections(outputs.cpu())))
            images += len(objects)
    if not sum(map(len, there)):
        raise DataError("no image holds an object, so that average precision is not defined; give images with boxes")
    return Seen(images, np.concatenate(there), np.concatenate(seen))


def _placed(rows: Floats, places: NDArray[np.int64]) -> Floats:
    """The rows of the images at `places`, as those of images that are counted anew."""
    parts = [rows[rows[:, 0] == place] for place in places]
    numbers = np.repeat(np.arange(len(places)), [len(part) for part in parts])
    found: Floats = np.concatenate([numbers[:, None], np.concatenate(parts)[:, 1:]], 1)
    return found


def _rows(images: int, placed: Tensor, kind: Tensor, sure: Tensor) -> Floats:
    """A row for each box in which there is some confidence, of images counted from `images` on."""
    image = torch.arange(images, images + len(sure), dtype=torch.float64)[:, None].expand_as(sure)
    corner, far = placed[..., :2].double(), placed[..., 2:].double()
    rows = torch.cat([image[..., None], corner, far - corner, sure.double()[..., None], kind.double()[..., None]], -1)
    found: Floats = rows[sure >= _LEAST].numpy()
    return found


def _average(found: Seen, classes: Sequence[str], overlap: float) -> dict[str, float]:
    """The average precision of each class of which an object is there."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ConfigError(
            "average precision needs the package faster-coco-eval: pip install 'autoprune[detection]'"
        ) from None
    boxes_there = [
        {"id": n, "image_id": int(row[0]), "bbox": row[1:5].tolist(), "area": row[3] * row[4], "iscrowd": 0,
         "category_id": int(row[6])} for n, row in enumerate(found.there, start=1)
    ]  # fmt: skip
    named = [{"id": n, "name": name} for n, name in enumerate(classes)]
    truth = COCO({"images": [{"id": n} for n in range(found.images)], "annotations": boxes_there, "categories": named})
    judge = COCOeval_faster(truth, truth.loadRes(found.seen), "bbox", print_function=_silent)
    judge.params.iouThrs = np.array([overlap])
    judge.params.maxDets = [_MOST]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    by_recall = judge.eval["precision"][0, :, :, 0, 0]  # (recalls, classes), -1 where a class is not there
    return {name: float(one.mean()) for name, one in zip(classes, by_recall.T, strict=True) if one.min() >= 0}


def _silent(*words: Any) -> None:
    """What the library would print."""
