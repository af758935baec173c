"""What a detector's cells mean, and the loss that teaches them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.detection import cells
from autoprune.detection.precision import detections
from tests.detection.drawing import GRID, objects, telling

SOME = objects((1, 0.2, 0.3, 0.5, 0.6), (0, 0.6, 0.1, 0.9, 0.35))


def test_a_cell_says_where_a_box_is() -> None:
    found = cells.read(telling(SOME))
    high, wide = int(0.45 * GRID), int(0.35 * GRID)
    assert found.confidence[0, high, wide] == pytest.approx(0.99)
    torch.testing.assert_close(found.boxes[0, high, wide], SOME[0, 0, 1:])
    assert found.classes[0, :, high, wide].tolist() == [0, 1, 0]


class TestLoss:
    def test_is_smaller_where_boxes_are_right(self) -> None:
        right = cells.loss(telling(SOME), SOME)
        moved = SOME + torch.tensor([0, 0.05, 0.05, 0.05, 0.05])
        assert 0 < float(right) < float(cells.loss(telling(moved), SOME))

    def test_is_smaller_where_classes_are_right(self) -> None:
        other = SOME.clone()
        other[..., 0] = torch.where(SOME[..., 0] >= 0, 2, -1)
        assert cells.loss(telling(SOME), SOME) < cells.loss(telling(other), SOME)

    def test_is_larger_where_a_detector_is_sure_of_nothing(self) -> None:
        ghosts = telling(objects((0, 0.1, 0.7, 0.3, 0.9), (2, 0.7, 0.7, 0.9, 0.9)))
        haunted = torch.where(ghosts[:, :1] > 0, ghosts, telling(SOME))
        assert cells.loss(telling(SOME), SOME) < cells.loss(haunted, SOME)

    def test_the_order_and_the_number_of_empty_rows_do_not_matter(self) -> None:
        outputs = _random(1)
        turned = objects((-1, 0, 0, 0, 0), *(tuple(row) for row in SOME[0, [1, 0]].tolist()), most=9)
        torch.testing.assert_close(cells.loss(outputs, SOME), cells.loss(outputs, turned))

    @pytest.mark.parametrize("edge", [(0, 0.9, 0.9, 1.0, 1.0), (0, 0.0, 0.0, 0.05, 0.05), (0, 0.0, 0.0, 1.0, 1.0)])
    def test_objects_at_the_edge_are_taught(self, edge: tuple[float, ...]) -> None:
        outputs = _random(1).requires_grad_()
        cells.loss(outputs, objects(edge)).backward()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()
        assert outputs.grad[:, 1:5].abs().sum() > 0

    def test_images_without_objects_teach_that_nothing_is_there(self) -> None:
        outputs = _random(2).requires_grad_()
        value = cells.loss(outputs, objects().repeat(2, 1, 1))
        value.backward()
        assert value.item() > 0
        assert outputs.grad is not None
        assert (outputs.grad[:, 0] > 0).all()
        assert outputs.grad[:, 1:].abs().sum() == 0

    def test_small_objects_are_taught_beside_large_ones(self) -> None:
        """A detector of blood cells learnt none of the platelets when only boxes better than all on average did."""
        both = objects((0, 0.1, 0.1, 0.5, 0.5), (2, 0.8, 0.8, 0.83, 0.83))
        outputs = telling(objects((0, 0.1, 0.1, 0.5, 0.5))).requires_grad_()
        cells.loss(outputs, both).backward()
        assert outputs.grad is not None
        middle = int(0.815 * GRID)
        assert outputs.grad[0, 1:5, middle : middle + 2, middle : middle + 2].abs().sum() > 0

    def test_cells_that_follow_it_find_the_objects(self) -> None:
        raw = torch.randn(1, 8, GRID, GRID, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimizer = torch.optim.Adam([raw], 0.1)
        for _ in range(150):
            optimizer.zero_grad()
            cells.loss(_outputs(raw), SOME).backward()
            optimizer.step()
        boxes, kinds, sure = detections(_outputs(raw.detach()))
        order = kinds[0, :2].argsort(descending=True)
        torch.testing.assert_close(boxes[0, order], SOME[0, :2, 1:], atol=0.02, rtol=0)
        assert kinds[0, order].tolist() == [1, 0]
        assert sure[0, 1] > 0.7 > 0.4 > sure[0, 2:].max()


def _random(count: int) -> Tensor:
    return _outputs(torch.randn(count, 8, GRID, GRID, generator=torch.Generator().manual_seed(0)))


def _outputs(raw: Tensor) -> Tensor:
    return torch.cat([raw[:, :1].sigmoid(), raw[:, 1:5], raw[:, 5:].softmax(1)], 1)
