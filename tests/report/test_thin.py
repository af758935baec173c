"""Reports of very many trials: what is left out, and what never is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from autoprune.report import facts as report, page, words
from autoprune.report.facts import LeftOut, Report, TrialFacts
from autoprune.report.thin import MOST, thinned
from tests.report.test_report import facts

TRIALS = 8000


@pytest.fixture(scope="module")
def many() -> Report:
    """Of 8,000 trials, a tenth of them failed; the winner, 1,234, is on no front and no best so far."""
    rng = np.random.default_rng(0)
    share, metric = rng.uniform(0.2, 1.0, TRIALS), rng.uniform(0.1, 0.9, TRIALS)
    dense = facts().dense.costs

    def trial(n: int) -> TrialFacts:
        found = None if n % 10 == 3 else float(metric[n])
        return TrialFacts(n, found, found, {cost: value * share[n] for cost, value in dense.items()})

    trials = tuple(map(trial, range(TRIALS)))
    return dataclasses.replace(facts(), trials=trials, random_trials=trials[:3000], best=1234, scored=7200)


def test_a_report_of_very_many_trials_stays_small(many: Report, tmp_path: Path) -> None:
    """Of 100,000 it took 35 s and 33 MB; what is shown does not grow with the trials."""
    made = thinned(many)
    page.write(made, tmp_path)
    assert len(made.trials) <= MOST
    assert len(made.random_trials) <= MOST
    assert (tmp_path / page.PAGE).stat().st_size < 1_500_000
    assert (tmp_path / report.FACTS).stat().st_size < 1_100_000
    assert report.read(tmp_path) == made


def test_fronts_records_the_winner_and_the_ends_are_never_left_out(many: Report) -> None:
    made = thinned(many)
    listed = {trial.number for trial in made.trials}
    for cost in many.units:
        assert made.front(cost) == many.front(cost)
        assert made.trades(cost) == many.trades(cost)
    assert {0, 1234, TRIALS - 1} <= listed
    best = np.maximum.accumulate([t.reward or 0.0 for t in many.trials])
    assert {0, *(np.flatnonzero(np.diff(best)) + 1).tolist()} <= listed


def test_the_rest_is_an_even_sample(many: Report) -> None:
    numbers = np.array([trial.number for trial in thinned(many).trials])
    assert np.diff(numbers).max() < 3 * TRIALS / MOST
    halves = np.searchsorted(numbers, TRIALS / 2) / len(numbers)
    assert abs(halves - 0.5) < 0.05


def test_the_page_says_how_many_are_shown_and_counts_all(many: Report) -> None:
    made = thinned(many)
    assert (made.tried, made.failed) == (many.tried, many.failed) == (TRIALS, TRIALS // 10)
    text = page.render(made)
    assert f"{len(made.trials):,} of 8,000 trials are shown" in text
    assert words.searched(made) == words.searched(many)
    assert words.title(made, "random") == "best of 3000 random"
    assert "are shown" not in page.render(facts())


def test_few_trials_are_all_listed_and_thinning_twice_leaves_out_no_more(many: Report) -> None:
    assert thinned(facts()) == facts()
    made = thinned(many)
    assert thinned(made) == made


def test_facts_that_list_all_trials_give_a_small_page_too(many: Report, tmp_path: Path) -> None:
    """Those of runs that were finished before."""
    plain = json.loads(json.dumps(many.plain()))
    del plain["left_out"]
    (tmp_path / report.FACTS).write_text(json.dumps(plain))
    assert report.tried(plain) == report.read(tmp_path).tried == TRIALS
    text = page.write_html(tmp_path).read_text()
    assert len(text) < 1_500_000
    assert "of 8,000 trials are shown" in text


def test_damaged_numbers_of_what_was_left_out_are_no_number_of_trials() -> None:
    assert report.tried({"trials": [1, 2], "left_out": 3}) == 2
    assert report.tried({"trials": [1, 2], "left_out": {"trials": "many"}}) == 2
    assert report.tried({"trials": [1, 2], "left_out": dataclasses.asdict(LeftOut(3))}) == 5
