"""MACs of routed experts: as many as the example has rows for each, which is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune import config
from autoprune.command.check import facts
from autoprune.runs import study
from autoprune.structure.trace import trace
from autoprune.task import Task

ROWS = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


class Experts(nn.Module):
    """Each row goes to the expert that a router picks."""

    def __init__(self, route: Callable[[nn.ModuleList, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.each = nn.ModuleList(nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 8)) for _ in range(3))
        self._route = route

    def forward(self, x: Tensor) -> Tensor:
        return self._route(self.each, x, self.router(x).argmax(1))


def _masks(experts: nn.ModuleList, x: Tensor, chosen: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for number, expert in enumerate(experts):
        out[chosen == number] = expert(x[chosen == number])
    return out


def _rows(experts: nn.ModuleList, x: Tensor, chosen: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for number, expert in enumerate(experts):
        (rows,) = torch.where(chosen == number)
        out.index_add_(0, rows, expert(x[rows]))
    return out


def _selected(experts: nn.ModuleList, x: Tensor, chosen: Tensor) -> Tensor:
    out = x
    for number, expert in enumerate(experts):
        rows = (chosen == number).nonzero().squeeze(1)
        out = out.index_copy(0, rows, expert(x.index_select(0, rows)))
    return out


def _all(experts: nn.ModuleList, x: Tensor, chosen: Tensor) -> Tensor:
    return sum((expert(x) * (chosen == number)[:, None] for number, expert in enumerate(experts)), torch.zeros(()))


def _net(route: Callable[[nn.ModuleList, Tensor, Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), Experts(route), nn.Linear(8, 4), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("route", [_masks, _rows, _selected])
def test_macs_of_routed_experts_are_said_to_be_those_of_the_example(
    route: Callable[[nn.ModuleList, Tensor, Tensor], Tensor],
) -> None:
    found = trace(_net(route), ROWS)
    assert found.routed == ("the Experts `1`",)
    assert found.notes == ("The MACs of the Experts `1` depend on the input: those of the example are counted.",)


def test_experts_that_all_see_every_row_cost_what_they_cost() -> None:
    assert not trace(_net(_all), ROWS).notes


def test_check_names_the_experts_whose_macs_depend_on_the_input() -> None:
    data = TensorDataset(ROWS, torch.arange(12) % 2)
    given = Task(_net(_masks), ROWS[:2], data, data, data)
    built = study.build(config.parse({"name": "mine", "task": {"use": study.GIVEN}}, "test"), task=given)
    assert "The MACs of the Experts `1` depend on the input" in facts(built)["remarks"][0]
