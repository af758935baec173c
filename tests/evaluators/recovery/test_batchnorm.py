"""What is peculiar about few images, and statistics without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.engine.fused import Statistics
from autoprune.evaluators.recovery.batchnorm import Peculiar, Seen
from autoprune.structure.prune import Stay


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


def layers(widths: dict[str, int], **shifts: float) -> tuple[Statistics, Stay]:
    """A network of layers of four channels, of which it keeps the first; `shifts` are the means of some."""
    means = {layer: torch.full((width,), shifts.get(layer, 0.0)) for layer, width in widths.items()}
    masks = {f"{layer}.weight": {0: np.arange(4) < width} for layer, width in widths.items()}
    return {layer: (mean, torch.ones_like(mean)) for layer, mean in means.items()}, masks


def probe(widths: dict[str, int], **shifts: float) -> Seen:
    """One whose means are 0 on few images, and `shifts` on many."""
    few, stay = layers(widths)
    return few, layers(widths, **shifts)[0], stay


def test_networks_count_most_where_the_layers_before_are_as_wide() -> None:
    peculiar = Peculiar.of([probe({"a": 4, "b": 4}, b=0.0), probe({"a": 1, "b": 4}, b=0.4)])
    shifts = [peculiar.corrected(*layers({"a": width, "b": 4}))["b"][0][0].item() for width in (4, 3, 2, 1)]
    assert 0 < shifts[0] < shifts[1] < 0.2 < shifts[2] < shifts[3] < 0.4


def test_widths_after_a_layer_are_nothing_to_it() -> None:
    peculiar = Peculiar.of([probe({"b": 4, "a": 4}, b=0.0), probe({"b": 4, "a": 1}, b=0.4)])
    for width in (4, 1):
        assert peculiar.corrected(*layers({"b": 4, "a": width}))["b"][0].tolist() == pytest.approx([0.2] * 4)


def test_the_nearest_layers_before_it_matter_most() -> None:
    wide, thin_far, thin_near = {"far": 4, "near": 4}, {"far": 3, "near": 4}, {"far": 4, "near": 3}
    shifts = ((wide, 0.0), (thin_far, 0.4), (thin_near, -0.4))
    peculiar = Peculiar.of([probe({**widths, "last": 4}, last=shift) for widths, shift in shifts])
    mean, _ = peculiar.corrected(*layers({"far": 3, "near": 3, "last": 4}))["last"]
    assert -0.1 < mean[0].item() < -0.01


def test_a_network_says_nothing_of_a_channel_that_it_lacks() -> None:
    some = [probe({"a": 4, "b": 4}, b=0.0), probe({"a": 2, "b": 4}, b=0.4)]
    lacks_it = probe({"a": 2, "b": 2}, b=-0.4)
    trial = layers({"a": 2, "b": 4})
    without, with_it = (Peculiar.of(seen).corrected(*trial)["b"][0] for seen in (some, [*some, lacks_it]))
    torch.testing.assert_close(with_it[2:], without[2:])
    assert (with_it[:2] < without[:2]).all()


def test_statistics_keep_their_type() -> None:
    few, many = ({layer: (mean.double(), var.double()) for layer, (mean, var) in one.items()} for one in DENSE[:2])
    mean, var = Peculiar.of([(few, many, {})]).corrected(few, {})["bn"]
    assert mean.dtype == var.dtype == torch.float64
    torch.testing.assert_close((mean, var), many["bn"])


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
