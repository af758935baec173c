"""Average precision, and what counts as a detection."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import Tensor

from autoprune.detection.images import BoxedImages
from autoprune.detection.precision import AveragePrecision, detections
from autoprune.errors import ConfigError, DataError
from tests.detection.drawing import CLASSES, Says, objects, telling

SOME = torch.cat([
    objects((1, 0.2, 0.3, 0.5, 0.6), (0, 0.6, 0.1, 0.9, 0.35)),
    objects((0, 0.1, 0.1, 0.3, 0.3), (2, 0.55, 0.6, 0.65, 0.7)),
])  # fmt: skip
JUDGE = AveragePrecision(CLASSES)


def numbered(targets: Tensor) -> BoxedImages:
    """Images whose pixels say which they are."""
    numbers = torch.arange(len(targets), dtype=torch.uint8).view(-1, 1, 1, 1)
    return BoxedImages(numbers.expand(-1, 3, 8, 8).contiguous(), targets)


def test_a_detector_that_sees_all_and_nothing_else() -> None:
    assert JUDGE.by_class(Says(telling(SOME)), numbered(SOME)) == pytest.approx(dict.fromkeys(CLASSES, 1.0))
    assert JUDGE(Says(telling(SOME)), numbered(SOME)) == pytest.approx(1)


def test_what_is_not_seen_is_missed() -> None:
    seen = SOME.clone()
    seen[1, 0, 0] = -1  # one of two red cells
    found = JUDGE.by_class(Says(telling(seen)), numbered(SOME))
    assert found == pytest.approx({"RBC": 51 / 101, "WBC": 1, "Platelets": 1})


def test_a_ghost_that_a_detector_is_less_sure_of_does_no_harm() -> None:
    ghost = torch.cat([objects((1, 0.7, 0.7, 0.9, 0.9)), objects()])
    for sure, expected in ((0.5, 1.0), (0.999, 0.5)):
        outputs = torch.where(telling(ghost)[:, :1] > 0, telling(ghost, sure), telling(SOME))
        assert JUDGE.by_class(Says(outputs), numbered(SOME))["WBC"] == pytest.approx(expected)


def test_a_box_counts_that_overlaps_by_half() -> None:
    for moved, expected in ((0.08, 1.0), (0.12, 0.0)):  # of a box 0.3 wide: overlaps of .58 and .43
        seen = SOME + torch.tensor([0, moved, 0, moved, 0])
        assert JUDGE.by_class(Says(telling(seen)), numbered(SOME))["WBC"] == pytest.approx(expected)


def test_classes_that_no_image_holds_do_not_count() -> None:
    one = SOME[:1]
    assert JUDGE.by_class(Says(telling(one)), numbered(one)) == pytest.approx({"RBC": 1, "WBC": 1})


def test_a_detector_that_sees_nothing() -> None:
    assert JUDGE(Says(torch.zeros(2, 8, 11, 11)), numbered(SOME)) == 0


def test_images_without_any_object() -> None:
    with pytest.raises(DataError, match="no image holds an object"):
        JUDGE(Says(torch.zeros(1, 8, 11, 11)), numbered(objects()))


def test_cells_that_tell_of_the_same_object_are_one_detection() -> None:
    outputs = telling(SOME[:1])
    outputs[0, :, 4, 4] = outputs[0, :, 4, 3]
    outputs[0, 1, 4, 4] -= 0.8  # a cell further right, nearly the same box
    _, _, sure = detections(outputs)
    assert int((sure > 0.5).sum()) == 2


def test_deviation_tells_how_much_hangs_on_the_images() -> None:
    seen = SOME.repeat(4, 1, 1)
    assert JUDGE.deviation(Says(telling(seen)), numbered(seen), draws=5) == 0
    seen = seen.clone()
    there = numbered(seen.clone())
    seen[:3, 0, 0] = -1  # two white cells and a red one
    found = JUDGE.deviation(Says(telling(seen)), there, draws=20)
    assert 0.02 < found < 0.3
    assert found == JUDGE.deviation(Says(telling(seen)), there, draws=20)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object, **more: object) -> object:
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'autoprune\[detection\]'"):
        JUDGE(Says(telling(SOME)), numbered(SOME))
