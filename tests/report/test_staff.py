"""How the time of workers went, from the trials of a search."""

from __future__ import annotations

import dataclasses

import pytest

from autoprune.report import page, words
from autoprune.report.staff import Staff
from autoprune.values.space import Policy
from autoprune.values.trial import Trial
from tests.making import done
from tests.report.test_report import facts


def trial(number: int, worker: str, evaluated: float, sent: float, idle: float) -> Trial:
    seconds = {"ask": 9.0, "recover": evaluated / 2, "score": evaluated / 2, "sent": sent, "idle": idle, "tell": 9.0}
    return dataclasses.replace(done(number, Policy((1,)), seconds=seconds), worker=worker)


TRIALS = [trial(0, "a", 6.0, 1.0, 1.0), trial(1, "b", 3.0, 0.0, 1.0), done(2, Policy((1,)), seconds={"ask": 50.0})]


def test_their_time_is_what_they_evaluated_sent_and_waited() -> None:
    staff = Staff.of(TRIALS, "asked", 4)
    assert staff == Staff(workers=2, order="asked", window=4, busy=9.0, sent=1.0, idle=2.0)
    assert staff.utilisation == pytest.approx(10 / 12)
    assert staff.efficiency == pytest.approx(9 / 12)


def test_there_is_none_where_the_search_evaluated() -> None:
    assert Staff.of(TRIALS[2:], "asked", 1) is None


def test_no_more_work_at_once_than_the_window_lets() -> None:
    """A worker that was started again has another name."""
    staff = Staff.of([trial(n, f"w{n}", 1.0, 0.0, 0.0) for n in range(9)], "asked", 2)
    assert staff is not None
    assert staff.workers == 2


def test_the_page_and_the_summary_tell() -> None:
    report = dataclasses.replace(facts(), staff=Staff.of(TRIALS, "finished", 4))
    said = "2 workers evaluated (4 policies under way at most, told as they came): they had a policy in 83.3%"
    assert said in page.render(report)
    assert any(line.startswith(said) for line in words.remarks(report))
    assert "workers evaluated" not in page.render(facts())
