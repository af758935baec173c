"""The progress bar: what it says of a trial, and how fast the trials of this session are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from autoprune import config
from autoprune.command.progress import Bars, Progress
from autoprune.report import words
from autoprune.runs import study
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.space import Policy
from autoprune.values.trial import Trial, policies_per_second
from tests import making
from tests.assets import mine
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
        assert "best reward 0.5000, top-1 25.00 %, macs 25.0%, 3.2 policies/s" in said

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
        assert "best 3.25, RMSE 3.25, macs" in capsys.readouterr().err

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


def test_bars_of_work_without_a_run_follow_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.stage("policy", 3, 3)
        bars.stage("other", 1, 2)
    said = capsys.readouterr().err
    assert "policy 3/3" in said
    assert "other 1/2" in said
