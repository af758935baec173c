"""The progress bar: what it says of a trial, and how fast the trials of this session are."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from autoprune import config
from autoprune.command import progress
from autoprune.command.progress import Bars, Progress
from autoprune.report import words
from autoprune.runs import study
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.space import Policy
from autoprune.values.trial import Trial, policies_per_second
from tests import making
from tests.assets import mine
from tests.counting import Work, least
from tests.making import done

POLICY = Policy((4, 6))


def trial(number: int, seconds: float, *, again: bool = False, failed: bool = False) -> Trial:
    """One that took `seconds`; `again` is of a policy whose outcome was known."""
    spent = {"ask": seconds} if again else {"ask": seconds / 2, "prune": seconds / 4, "score": seconds / 4}
    if failed:
        return making.failed(number, POLICY, "NaN", {"macs": 1.0}, spent)
    found = done(number, POLICY, 0.25, {"macs": 15_006.0}, 0.5, {**spent, "journal": 0.0})
    return dataclasses.replace(found, repeats=0) if again else found


@pytest.fixture
def built() -> Study:
    tables = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, "search": {"trials": 9}}
    return study.build(config.parse(tables, "test"), task=mine.make(), found={"precision": "fp32"})


class TestPace:
    def test_is_of_trials_that_were_evaluated(self) -> None:
        assert policies_per_second([trial(0, 0.25), trial(1, 0.5, failed=True), trial(2, 9.0, again=True)]) == 2 / 0.75
        assert policies_per_second([]) == 0.0
        assert policies_per_second([trial(0, 9.0, again=True)]) == 0.0
        assert policies_per_second([done(0, POLICY)]) == 0.0

    @pytest.mark.parametrize(
        ("pace", "wanted"),
        [(3.2, "3.2 policies/s"), (0.043, "0.04 policies/s"), (0.96, "1.0 policies/s"), (214.06, "214.1 policies/s")],
    )
    def test_reads_well(self, pace: float, wanted: str) -> None:
        assert words.rate(pace) == wanted


class TestProgress:
    def test_shows_the_pace_of_this_session(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Run(tmp_path / "run", built.config.plain(), built.space) as run:
            run.append(trial(0, 1000.0))
            with Progress(built, run) as shown:
                for one in (trial(1, 0.25), trial(2, 0.375), trial(3, 8.0, again=True)):
                    run.append(one)
                    shown.trial(one)
        said = capsys.readouterr().err
        assert "trial 4/9" in said
        assert "best 50.00 %, this one 25.00 % top-1, macs 25.0%, 3.2 policies/s" in said

    def test_does_not_look_through_all_trials_for_one_more(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def shown_after(trials: int) -> Work:
            before = [trial(number, 0.25) for number in range(trials)]
            with Progress(built, cast(Run, before)) as shown:
                shown.trial(trial(trials, 0.25))
                return least(lambda: shown.trial(trial(trials + 1, 0.25)))

        few, many = shown_after(20), shown_after(2000)
        assert many.calls < 1.3 * few.calls
        assert many.held < few.held + 8000
        assert "trial 2004/" in capsys.readouterr().err  # as many as were told

    def test_says_when_all_networks_score_the_same(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Run(tmp_path / "run", built.config.plain(), built.space) as run, Progress(built, run) as shown:
            for number in range(11):
                policy = built.space.snap([number / 14] * len(built.space))
                run.append(one := done(number, policy, 0.25, {"macs": 15_006.0}))
                shown.trial(one)
        said = capsys.readouterr().err
        assert said.count("The first networks all have the same top-1, 25.00 %: does the metric see what pruning") == 1

    def test_shows_the_best_of_a_metric_where_lower_is_better(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        task = dataclasses.replace(built.task, metric_name="RMSE", lower_is_better=True, metric=lambda m, s: 3.25)
        lower = dataclasses.replace(built, task=task)
        with Run(tmp_path / "run", built.config.plain(), built.space) as run, Progress(lower, run) as shown:
            run.append(one := done(0, POLICY, -3.25, {"macs": 15_006.0}))
            shown.trial(one)
        assert "best 3.250, this one 3.250 RMSE, macs" in capsys.readouterr().err

    def test_shows_no_pace_before_there_is_one(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Run(tmp_path / "run", built.config.plain(), built.space) as run, Progress(built, run) as shown:
            run.append(one := making.failed(0, POLICY, "NaN"))
            shown.trial(one)
        said = capsys.readouterr().err
        assert "failed: NaN" in said
        assert "policies/s" not in said

    def test_shows_the_stages_afterwards(
        self, built: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Run(tmp_path / "run", built.config.plain(), built.space) as run, Progress(built, run) as shown:
            shown.stage("fidelity", 0, 5)
            shown.stage("fidelity", 5, 5)
        assert "fidelity 5/5" in capsys.readouterr().err


def test_a_log_file_gets_few_lines_and_no_carriage_returns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one line of a hundred thousand characters."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with Bars() as bars:
        bars.stage("tracing the network", 0, 1)
        for done in range(301):
            bars.stage("finetune ours", done, 300)
    lines = capsys.readouterr().err
    assert "\r" not in lines
    assert lines.splitlines()[0] == "finetune ours 0/300"
    assert lines.splitlines()[-1].startswith("finetune ours 300/300, ")
    assert len(lines.splitlines()) <= 2 + 2 * 301 // progress.EVERY  # the clock of this test goes on as it is read


def test_a_log_file_names_what_took_long_though_it_is_not_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.0, 0.0, 45.0, 45.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with Bars() as bars:
        bars.stage("tracing the network", 0, 1)
    assert capsys.readouterr().err == "tracing the network, 45.0 s\n"


def test_a_terminal_gets_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bars() as bars:
        bars.stage("tracing the network", 0, 1)
        bars.stage("policy", 2, 3)
    said = capsys.readouterr().err
    assert "tracing the network 00:00" in said
    assert "policy 2/3 |" in said


def test_bars_of_work_without_a_run_follow_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.stage("policy", 3, 3)
        bars.stage("other", 1, 2)
    said = capsys.readouterr().err
    assert "policy 3/3" in said
    assert "other 1/2" in said
