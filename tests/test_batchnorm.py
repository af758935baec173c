"""What is peculiar about few images, and statistics without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.evaluators.batchnorm import Peculiar
from autoprune.fused import Statistics
from autoprune.prune import Stay


def said(*means: float, var: float = 1.0) -> Statistics:
    """Statistics of one layer."""
    return {"bn": (torch.tensor(means), torch.full((len(means),), var))}


def keeping(*channels: bool) -> Stay:
    """Which channels of it are there."""
    return {"bn.weight": {0: np.array(channels)}}


DENSE = (said(1.0, 2.0, 3.0), said(1.2, 2.0, 3.0, var=2.0), {})


def test_one_network_says_all_of_itself() -> None:
    few, many, stay = DENSE
    mean, var = Peculiar.of([DENSE]).corrected(few, stay)["bn"]
    torch.testing.assert_close((mean, var), many["bn"])


def test_a_shift_is_in_standard_deviations_and_a_variance_grows_by_a_factor() -> None:
    mean, var = Peculiar.of([DENSE]).corrected(said(5.0, 5.0, 5.0, var=4.0), {})["bn"]
    assert mean.tolist() == pytest.approx([5.4, 5.0, 5.0])
    assert var.tolist() == pytest.approx([8.0] * 3)


def test_networks_say_it_together_where_they_have_a_channel() -> None:
    probe = (said(0.0, 0.0), said(0.4, -0.2), keeping(True, False, True))
    mean, _ = Peculiar.of([DENSE, probe]).corrected(said(0.0, 0.0, 0.0), {})["bn"]
    assert mean.tolist() == pytest.approx([0.3, 0.0, -0.1])
    mean, _ = Peculiar.of([DENSE, probe]).corrected(said(0.0, 0.0), keeping(False, True, True))["bn"]
    assert mean.tolist() == pytest.approx([0.0, -0.1])


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_networks_count_most_where_what_feeds_a_layer_is_as_wide(order: tuple[str, str]) -> None:
    def seen(width: int, shift: float = 0.0) -> tuple[Statistics, Stay]:
        found = {"first": torch.zeros(width), "second": torch.tensor([shift])}
        masks = {"first.weight": {0: np.arange(4) < width}}
        return {layer: (found[layer], torch.ones_like(found[layer])) for layer in order}, masks

    wide, thin = ((seen(width)[0], *seen(width, shift)) for width, shift in ((4, 0.0), (1, 0.4)))
    peculiar = Peculiar.of([wide, thin])
    shifts = [peculiar.corrected(*seen(width))["second"][0].item() for width in (4, 3, 2, 1)]
    if order[0] == "first":
        assert 0 < shifts[0] < shifts[1] < 0.2 < shifts[2] < shifts[3] < 0.4
    else:
        assert shifts == pytest.approx([0.2] * 4)  # what comes after a layer is nothing to it


def test_a_channel_that_was_dead_on_the_few_moves_nothing_far() -> None:
    dead = (said(0.0, var=0.0), said(3.0, var=7.0), {})
    mean, var = Peculiar.of([dead]).corrected(said(0.0, var=4.0), {})["bn"]
    assert mean.tolist() == pytest.approx([2.0])  # one standard deviation
    assert var.tolist() == pytest.approx([4 * np.e])


def test_layers_whose_channels_are_not_known_stay_as_they_are() -> None:
    peculiar = Peculiar.of([DENSE, (said(0.0, 0.0), said(0.4, -0.2), {})])
    assert peculiar.corrected(said(1.0, 2.0), {})["bn"][0].tolist() == [1.0, 2.0]
    assert peculiar.corrected(said(1.0, 2.0, 3.0), {})["bn"][0].tolist() == pytest.approx([1.2, 2.0, 3.0])


def test_without_networks_nothing_is_corrected() -> None:
    found = said(1.0, 2.0)
    assert Peculiar.of([]).corrected(found, {}) == found
