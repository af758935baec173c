"""Which of several say most, and how fast they were made."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Outcome, Trial, front, policies_per_second, scored
from tests.making import done, failed

rows = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 4).map(float), min_size=n, max_size=n), max_size=12)
)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], []),
        ([[1.0]], [0]),
        ([[1.0], [3.0], [3.0]], [1]),
        ([[0.5, -2], [0.7, -3], [0.6, -4], [0.5, -1]], [3, 1]),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], [2, 1, 0]),
    ],
)
def test_the_front_by_hand(values: list[list[float]], wanted: list[int]) -> None:
    assert front(values) == wanted


@given(rows)
def test_the_front_is_what_no_other_beats(values: list[list[float]]) -> None:
    found = front(values)

    def beaten(at: int) -> bool:
        return any(
            all(a >= b for a, b in zip(values[other], values[at], strict=True))
            and (values[other] != values[at] or other < at)
            for other in range(len(values))
            if other != at
        )

    assert sorted(found) == [at for at in range(len(values)) if not beaten(at)]


def test_a_trial_says_what_its_outcome_says() -> None:
    policy = Policy((3,))
    ok = Trial(0, policy, Outcome(0.5, (0.25, -1.0), {"macs": 2.0}))
    assert (ok.metric, ok.reward, ok.costs, ok.error) == (0.5, 0.25, {"macs": 2.0}, "")
    no = Trial(0, policy, Failure("it burnt", {"macs": 2.0}))
    assert (no.metric, no.reward, no.costs, no.error) == (None, None, {"macs": 2.0}, "it burnt")


def test_copies_do_not_count_as_evaluated() -> None:
    policy = Policy((3,))
    first, copied = done(0, policy, seconds={"prune": 0.5, "score": 1.5}), Trial(1, policy, Outcome(1, (1,)), repeats=0)
    assert policies_per_second([first, copied, failed(2, policy, seconds={"prune": 2.0})]) == pytest.approx(2 / 4)
    assert policies_per_second([copied]) == 0.0


def test_networks_are_counted_once_however_often_they_were_tried() -> None:
    one, other = Policy((3,)), Policy((4,))
    tried = [done(0, one), Trial(1, one, Outcome(1, (1,)), repeats=0), failed(2, other), failed(3, one)]
    assert scored(tried) == 1
    assert scored([*tried, done(4, other, 0.5)]) == 2
    assert scored([]) == 0
