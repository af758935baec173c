"""Timing networks against one another, with clocks that are made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from autoprune.targets import timing
from autoprune.targets.timing import compare


def steady(milliseconds: float) -> Callable[[], float]:
    return lambda: milliseconds


class Machine:
    """Samplers whose machine becomes slower with every run."""

    def __init__(self, growth: float) -> None:
        self.runs, self.growth = 0, growth

    def sampler(self, milliseconds: float) -> Callable[[], float]:
        def once() -> float:
            self.runs += 1
            return milliseconds * (1 + self.growth * self.runs)

        return once


class TestCompare:
    def test_gives_shares_of_the_reference(self) -> None:
        found = compare(steady(4.0), [steady(2.0), steady(4.0), steady(5.0)])
        assert found.reference == 4.0
        assert [f.ratio for f in found.figures] == [0.5, 1.0, 1.25]
        assert [f.spread for f in found.figures] == [0.0, 0.0, 0.0]

    def test_a_machine_that_slows_down_changes_no_share(self) -> None:
        machine = Machine(growth=1e-3)
        found = compare(machine.sampler(4.0), [machine.sampler(2.0) for _ in range(6)])
        assert machine.runs * machine.growth > 0.2
        assert all(f.ratio == pytest.approx(0.5, rel=0.01) for f in found.figures)

    def test_one_disturbed_round_changes_no_share(self) -> None:
        calls = itertools.count()
        disturbed = compare(steady(4.0), [lambda: 20.0 if next(calls) < 8 else 2.0])
        assert disturbed.figures[0].ratio == 0.5

    def test_scatter_is_told(self) -> None:
        values = (2.0 + 0.1 * (run // 4) for run in itertools.count())
        assert compare(steady(4.0), [lambda: next(values)]).figures[0].spread > 0

    def test_all_take_turns_in_every_round(self) -> None:
        order: list[int] = []
        samplers = [lambda i=i: order.append(i) or 5.0 for i in range(3)]  # type: ignore[func-returns-value,misc]
        compare(lambda: order.append(-1) or 5.0, samplers, rounds=3, burst=10.0)  # type: ignore[func-returns-value]
        turns = [who for who, _ in itertools.groupby(order)][-12:]
        assert turns.count(-1) >= 3
        assert all(turns.count(i) == 3 for i in range(3))

    def test_what_a_sampler_raises_is_passed_on(self) -> None:
        def broken() -> float:
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError, match="gone"):
            compare(steady(1.0), [broken])

    def test_slow_programs_run_once_a_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "_SLOW", -1.0)
        runs = itertools.count()
        compare(steady(1.0), [lambda: float(next(runs) and 3)], rounds=5)
        assert next(runs) == 4  # three rounds, and one to see how slow it is
