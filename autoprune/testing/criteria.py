"""The contract of a criterion. Subclass it, give a `criterion` fixture, and every promise is tested.

class TestMine(CriterionContract):
    @pytest.fixture
    def criterion(self):
        return mine
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from autoprune.criteria import needed
from autoprune.protocols import Criterion, Units

SIZES = [(1, 1), (2, 9), (7, 3), (24, 40)]  # units, weights each
OPTIONAL = ("coupled", "scale", "grad", "generator")


def toy_units(units: int, weights: int, seed: int = 0) -> Units:
    """Random units with every field filled in."""
    generator = torch.Generator().manual_seed(seed)

    def draw(columns: int) -> Tensor:
        return torch.randn(units, columns, generator=generator)

    return Units(
        weight=draw(weights),
        coupled=draw(2 * weights),
        scale=draw(2),
        grad=draw(2 * weights).abs(),
        generator=torch.Generator().manual_seed(seed),
    )


def tensors_of(units: Units) -> dict[str, Tensor]:
    """The fields of `units` that hold one row a unit."""
    found = {field.name: getattr(units, field.name) for field in dataclasses.fields(units)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


class CriterionContract:
    """What pruning relies on, whatever a criterion measures."""

    @pytest.fixture
    def criterion(self) -> Criterion:
        """The criterion under test."""
        raise NotImplementedError

    @pytest.mark.parametrize(("units", "weights"), SIZES)
    def test_one_finite_score_a_unit(self, criterion: Criterion, units: int, weights: int) -> None:
        """Scores have shape (n,) and are finite real numbers."""
        found = criterion(toy_units(units, weights))
        assert found.shape == (units,)
        assert found.is_floating_point()
        assert bool(found.isfinite().all())

    def test_finite_where_all_weights_are_zero(self, criterion: Criterion) -> None:
        """Dead units have a score, too."""
        units = toy_units(5, 4)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors_of(units).items()}
        dead = dataclasses.replace(units, **zeros)  # type: ignore[arg-type]
        assert bool(criterion(dead).isfinite().all())

    @pytest.mark.parametrize(("units", "weights"), SIZES)
    def test_blind_to_the_order_of_units(self, criterion: Criterion, units: int, weights: int) -> None:
        """Units in another order have the same scores in that order (chance need not)."""
        if "generator" in needed(criterion):
            pytest.skip("random scores belong to places, not to units")
        given = toy_units(units, weights)
        places = torch.randperm(units, generator=torch.Generator().manual_seed(1))
        taken = {name: tensor[places] for name, tensor in tensors_of(given).items()}
        moved = dataclasses.replace(given, **taken)  # type: ignore[arg-type]
        torch.testing.assert_close(criterion(moved), criterion(given)[places], rtol=1e-4, atol=1e-5)

    def test_same_units_same_scores(self, criterion: Criterion) -> None:
        """Nothing but the units and their generator decides, and no global generator is touched."""
        before = torch.get_rng_state()
        assert torch.equal(criterion(toy_units(8, 9)), criterion(toy_units(8, 9)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_reads_but_never_writes(self, criterion: Criterion) -> None:
        """The units are as before."""
        units, copy = toy_units(8, 9), tensors_of(toy_units(8, 9))
        criterion(units)
        assert all(torch.equal(tensor, copy[name]) for name, tensor in tensors_of(units).items())

    def test_asks_for_what_it_reads(self, criterion: Criterion) -> None:
        """Without the fields it did not ask for, it scores as with them."""
        absent = {n: None for n in OPTIONAL if n not in needed(criterion)}
        lean = dataclasses.replace(toy_units(6, 4), **absent)  # type: ignore[arg-type]
        assert torch.equal(criterion(lean), criterion(toy_units(6, 4)))
