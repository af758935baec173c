"""Images with boxes as a split."""

from __future__ import annotations

import torch

from autoprune.detection.images import BoxedImages
from autoprune.inputs import first, joined, picked
from autoprune.task import Split

SIDE = 64
BOX = (0.25, 0.375, 0.625, 0.75)  # white on grey


def split(count: int = 8, *, augment: bool = False) -> BoxedImages:
    images = torch.full((count, 3, SIDE, SIDE), 60, dtype=torch.uint8)
    left, top, right, bottom = (int(edge * SIDE) for edge in BOX)
    images[:, :, top:bottom, left:right] = 250
    objects = torch.full((count, 3, 5), -1.0)
    objects[:, 1] = torch.tensor([2, *BOX])
    return BoxedImages(images, objects, augment=augment)


def test_is_a_split() -> None:
    found = split(7)
    assert isinstance(found, Split)
    assert [len(images) for images, _ in found.batches(3)] == [3, 3, 1]
    assert [len(images) for images, _ in found.shuffled(3, torch.Generator())] == [3, 3]
    assert len(found.head(2)) == 2
    images, objects = next(found.batches(1))
    assert images.max() <= 1
    assert objects.shape == (1, 3, 5)


def test_batches_are_cut_and_joined_as_those_of_other_tasks() -> None:
    batch = next(split().batches(4))
    assert [len(part) for part in first(batch, 2)] == [2, 2]
    assert [len(part) for part in joined(picked(batch, torch.tensor([0, 3])), batch)] == [6, 6]


def test_only_training_is_augmented() -> None:
    plain, found = split(), split(augment=True)
    torch.testing.assert_close(next(plain.batches(8))[0], next(found.batches(8))[0])
    shown, _ = next(found.shuffled(8, torch.Generator().manual_seed(0)))
    assert not torch.equal(shown[0], shown[1])


def test_boxes_move_with_what_they_hold() -> None:
    seen = 0
    for images, objects in split(64, augment=True).shuffled(16, torch.Generator().manual_seed(1)):
        for image, rows in zip(images, objects, strict=True):
            bright = (image[0] > 0.7 * image.max()).nonzero()
            if len(bright) == 0 or rows[1, 0] < 0:
                continue
            seen += 1
            top, left = bright.amin(0) / SIDE
            bottom, right = (bright.amax(0) + 1) / SIDE
            torch.testing.assert_close(rows[1, 1:], torch.stack([left, top, right, bottom]), atol=0.03, rtol=0)
    assert seen > 50


def test_rows_without_an_object_stay_so() -> None:
    ((_, objects),) = split(8, augment=True).shuffled(8, torch.Generator().manual_seed(2))
    assert (objects[:, [0, 2], 0] == -1).all()


def test_same_seed_same_images() -> None:
    one, other = (next(split(augment=True).shuffled(4, torch.Generator().manual_seed(5)))[0] for _ in range(2))
    assert torch.equal(one, other)
