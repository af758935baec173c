"""The detector: its size, its outputs, and which weights fit."""

from __future__ import annotations

import pytest
import torch

from autoprune.models.fastestdet import FastestDet


def test_has_the_published_size() -> None:
    model = FastestDet(80)
    assert sum(p.numel() for p in model.parameters()) == 244_490
    assert len([name for name in model.state_dict() if not name.endswith("num_batches_tracked")]) == 350


@pytest.mark.parametrize(("high", "wide"), [(352, 352), (96, 160)])
def test_gives_a_cell_for_sixteen_pixels(high: int, wide: int) -> None:
    model = FastestDet(3).eval()
    with torch.inference_mode():
        cells = model(torch.rand(2, 3, high, wide))
    assert cells.shape == (2, 8, high // 16, wide // 16)
    assert 0 <= cells[:, 0].min() <= cells[:, 0].max() <= 1
    torch.testing.assert_close(cells[:, 5:].sum(1), torch.ones(2, high // 16, wide // 16))


def test_even_channels_pass_a_unit_and_odd_ones_are_computed() -> None:
    unit = FastestDet(3).eval().backbone.stage2[1]
    x = torch.rand(1, 48, 4, 4)
    out = unit(x)
    assert torch.equal(out[:, :24], x[:, 0::2])
    torch.testing.assert_close(out[:, 24:], unit.branch_main(x[:, 1::2]))
