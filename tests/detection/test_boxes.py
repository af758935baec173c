"""Boxes: overlap, likeness, and which stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from autoprune.detection.boxes import area, best_of_each, likeness, overlaps

LEFT, RIGHT, HALF = (0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.7, 0.7), (0.1, 0.0, 0.3, 0.2)


def test_overlap_is_intersection_over_union() -> None:
    boxes = torch.tensor([LEFT, RIGHT, HALF])
    expected = torch.tensor([[1, 0, 1 / 3], [0, 1, 0], [1 / 3, 0, 1]])
    torch.testing.assert_close(overlaps(boxes[:, None], boxes), expected)


def test_empty_boxes_overlap_with_nothing() -> None:
    assert overlaps(torch.zeros(4), torch.zeros(4)) == 0
    assert area(torch.tensor([0.5, 0.5, 0.4, 0.9])) == 0


def test_likeness_of_apart_boxes_grows_as_they_come_nearer() -> None:
    far, near = torch.tensor([0.8, 0.8, 1.0, 1.0]), torch.tensor([0.3, 0.3, 0.5, 0.5], requires_grad=True)
    left = torch.tensor(LEFT)
    assert likeness(left, left) == 1
    assert -1 < likeness(left, far) < likeness(left, near) < 0
    likeness(left, near).backward()
    assert near.grad is not None
    assert near.grad[:2].max() < 0


class TestWhichBoxesStay:
    def test_the_surest_of_those_that_are_one_objects(self) -> None:
        boxes = torch.tensor([[LEFT, HALF, RIGHT]])
        assert best_of_each(boxes, torch.zeros(1, 3), 0.3).tolist() == [[True, False, True]]
        assert best_of_each(boxes, torch.zeros(1, 3), 0.4).all()

    def test_other_classes_are_other_objects(self) -> None:
        boxes = torch.tensor([[LEFT, LEFT]])
        assert best_of_each(boxes, torch.tensor([[0, 1]]), 0.5).all()

    def test_a_box_that_was_removed_removes_none(self) -> None:
        third = (0.2, 0.0, 0.4, 0.2)  # overlaps with HALF only
        boxes = torch.tensor([[LEFT, HALF, third]])
        assert best_of_each(boxes, torch.zeros(1, 3), 0.3).tolist() == [[True, False, True]]

    @given(seed=st.integers(0, 10_000), count=st.integers(1, 30), most=st.floats(0.05, 0.9))
    @settings(max_examples=40, deadline=None)
    def test_is_what_one_box_after_the_other_gives(self, seed: int, count: int, most: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(2, count, 2, generator=generator)
        boxes = torch.cat([corner, corner + 0.5 * torch.rand(2, count, 2, generator=generator)], -1)
        classes = torch.randint(0, 2, (2, count), generator=generator)
        expected = [_one_by_one(image, kind, most) for image, kind in zip(boxes, classes, strict=True)]
        assert best_of_each(boxes, classes, most).tolist() == expected


def _one_by_one(boxes: Tensor, classes: Tensor, most: float) -> list[bool]:
    stays: list[int] = []
    for n in range(len(boxes)):
        if not any(classes[k] == classes[n] and overlaps(boxes[k], boxes[n]) > most for k in stays):
            stays.append(n)
    return [n in stays for n in range(len(boxes))]


@pytest.mark.parametrize("shape", [(2, 3), (1, 0)])
def test_any_number_of_boxes(shape: tuple[int, int]) -> None:
    assert best_of_each(torch.zeros(*shape, 4), torch.zeros(shape), 0.5).shape == shape
