"""Searches up a ladder, and for a time, of a real network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune import config
from autoprune.errors import ConfigError
from autoprune.files import disk
from autoprune.protocols import silent
from autoprune.runs import lifecycle, loop, rungs, study
from autoprune.runs.compare import taught
from autoprune.runs.course import Rung
from autoprune.runs.study import Study
from autoprune.splits import Nothing
from autoprune.task import Task
from tests.assets.mine import make

MINE = str(Path(__file__).parent.parent / "assets" / "mine.py")
COUNTING = {"use": f"{MINE}:Careful"}  # takes no time: weights are counted
QUICK = {"finetune": {"epochs": 0.3}, "report": {"random_trials": 1, "fidelity": 0, "rules": False}}
LADDER = {"steps": [1, 3], "keep": 2}


def built(task: Task | None = None, **tables: Any) -> Study:
    asked = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, **QUICK, **tables}
    return study.build(config.parse(asked, "a test"), task=task or make())


def test_a_search_up_a_ladder_says_what_each_rung_cost_and_foretold(tmp_path: Path) -> None:
    found = autoprune.search(
        make(), {"macs": 0.5}, "random", 24, out=tmp_path, ladder=LADDER, evaluator=COUNTING, **QUICK
    )
    said = [(rung.said, rung.trials) for rung in found.report.rungs]
    assert [what for what, _ in said] == ["the score", "1 step of finetuning", "3 steps of finetuning"]
    assert sum(trials for _, trials in said) == 24
    assert said[0][1] > said[1][1] > said[2][1] > 0
    assert found.report.rungs[0].policies == said[1][1]
    assert found.report.rungs[0].tau is not None or not found.report.rungs[1].tau
    assert found.report.trials[found.report.best].rung == 2
    assert {trial.rung for trial in found.report.alike} == {0}
    assert not {"rungs", "planning", "first", "rules"} & set(found.report.machine)  # shown elsewhere
    page = (found.directory / "report.html").read_text()
    assert "The better policies were judged more thoroughly" in page
    assert "3 steps of finetuning" in page


def test_a_resumed_ladder_is_the_same(tmp_path: Path) -> None:
    of = built(ladder=LADDER, search={"trials": 20}, controller={"use": "evolution"})
    with lifecycle.begin(of, tmp_path / "whole") as run:
        lifecycle.complete(of, run)
        whole = [(t.policy, t.rung, t.metric) for t in run]
        held = run.directory
    lines = (held / "trials.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (3, 9, 16):
        (held / "trials.jsonl").write_bytes(b"".join(lines[: kept + 1]))
        again, opened = lifecycle.reopen(held, task=make())
        with opened:
            lifecycle.complete(again, opened)
            assert [(t.policy, t.rung, t.metric) for t in opened] == whole


def test_a_longer_rung_trains_as_the_winner_is_trained() -> None:
    of = built(finetune={"epochs": 1, "batch": 32})
    steps = of.finetune.steps
    policy = of.space.snap([0.5] * len(of.space))
    [longest] = rungs.attempts(of, [Rung(steps=steps)])
    trial = longest(0, policy)
    candidate = of.evaluator.recover(of.evaluator.realise(policy))
    taught(of, candidate.model, "training", silent)
    assert trial.metric == pytest.approx(of.task.quality(candidate.model.eval(), of.task.holdout), abs=0.02)


def test_images_are_looked_at_in_part_first() -> None:
    of = built(ladder={"images": [16, 32], "steps": [2]})
    found = rungs.known(rungs.planned(of))
    assert found == [Rung(16), Rung(32), Rung(), Rung(steps=2)]
    policy = of.space.snap([0.3] * len(of.space))
    few, _, whole, _ = (attempt(0, policy).metric or 0.0 for attempt in rungs.attempts(of, found))
    assert few * 16 == pytest.approx(round(few * 16))
    assert whole != few


def test_without_a_ladder_a_run_has_one_rung_and_no_facts_of_it() -> None:
    assert rungs.planned(built()) == {}
    assert rungs.known({}) == [Rung()]


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ({"steps": [4, 2]}, r"ladder\.steps = \[4, 2\]: each must be larger than the one before it"),
        ({"steps": [0]}, r"ladder\.steps.*a whole number from 1 to 10,000,000 is right"),
        ({"keep": 1}, r"ladder\.keep = 1: a whole number from 2 to 1,000 is right"),
        ({"images": [5, 1000]}, r"\[ladder\] images = \[5, 1000\]: the holdout has \d+; fewer are right"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused_before_anything_is_begun(ladder: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rungs.planned(built(ladder=ladder))


def test_who_cannot_train_has_no_rungs_of_training() -> None:
    task = dataclasses.replace(make(), train=Nothing("train"))
    with pytest.raises(ConfigError, match=r"\[ladder\] steps = \[2\]: the task has no training split"):
        rungs.planned(built(task, ladder={"steps": [2]}, finetune={"epochs": 0}))
    assert rungs.known(rungs.planned(built(task, finetune={"epochs": 0}, search={"time": "20s"}))) == [Rung()]


def test_a_time_too_short_for_a_trial_is_said_before_anything_is_begun(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"time = .* is too short for one trial: .* a trial takes"):
        autoprune.search(make(), {"macs": 0.5}, "random", time="0.001s", out=tmp_path, **QUICK)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("written", ["10", "ten minutes", "5d", "-3s"])
def test_a_span_is_written_with_its_unit(written: str) -> None:
    with pytest.raises(ConfigError, match=r'write seconds, minutes or hours, such as "90s", "10m" or "1.5h"'):
        built(search={"time": written})


def test_spans_are_seconds() -> None:
    spans = {"90s": 90.0, "10m": 600.0, "1.5h": 5400.0, 12: 12.0}
    assert {written: built(search={"time": written}).config.search.time for written in spans} == spans


@pytest.mark.usefixtures("clock_of_steps")
def test_a_search_for_a_time_makes_the_trials_that_there_is_time_for(tmp_path: Path) -> None:
    quick = {**QUICK, "finetune": {"epochs": 0}, "evaluator": COUNTING}
    found = autoprune.search(make(), {"macs": 0.5}, "random", time=2, out=tmp_path, **quick)
    facts = disk.read_json(found.directory / "machine.json")
    assert facts["planning"] > 0
    trials = found.report.trials
    assert 5 < len(trials) < 50
    assert not [note for note in found.report.notes if "trials were made" in note]
    more = autoprune.resume(found.directory, time=4, task=make())
    assert 1.5 * len(trials) < len(more.report.trials) < 100


@pytest.mark.usefixtures("clock_of_steps")
def test_a_search_that_had_its_time_is_not_gone_on_with(tmp_path: Path) -> None:
    """What was asked and told between trials was not counted, so that a run that had ended made one more of them."""
    quick = {**QUICK, "finetune": {"epochs": 0}, "evaluator": COUNTING}
    found = autoprune.search(make(), {"macs": 0.5}, "random", time=2, out=tmp_path, **quick)
    trials, report = ((found.directory / name).read_bytes() for name in ("trials.jsonl", "report.json"))
    for asked in ({}, {"time": 2}, {"time": 1}):
        autoprune.resume(found.directory, task=make(), **asked)
        assert (found.directory / "trials.jsonl").read_bytes() == trials
        assert (found.directory / "report.json").read_bytes() == report


def test_a_time_is_for_runs_that_were_begun_with_one(tmp_path: Path) -> None:
    found = autoprune.search(make(), {"macs": 0.5}, "random", 2, out=tmp_path, evaluator=COUNTING, **QUICK)
    with pytest.raises(ConfigError, match=r"was begun with so many trials; --trials N goes on with it"):
        autoprune.resume(found.directory, time="10m", task=make())


def test_longer_judgements_are_planned_where_there_is_time_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rung takes an equal share, and one in as many goes up as the next one is dearer."""
    of = built(finetune={"epochs": 40, "batch": 8}, search={"time": "10m"})
    taken = {0: 0.1, 2: 0.2, 8: 0.8}
    now = [0.0]
    monkeypatch.setattr(rungs.time, "perf_counter", lambda: now[0])

    def attempts(of: Study, steps: list[Rung]) -> list[loop.Attempt]:
        def attempt(number: int, policy: Any) -> Any:
            now[0] += taken[steps[0].steps]
            return dataclasses.make_dataclass("Done", [("error", str, "")])()

        return [attempt]

    monkeypatch.setattr(rungs, "attempts", attempts)
    found = rungs.known(rungs.planned(of))
    final = of.finetune.steps
    least = max(20, final // 20)
    assert [rung.steps for rung in found] == [0, least, 4 * least][: len(found)]
    assert len(found) >= 2
    assert found[0].keep == min(64, round(0.1 * least / 0.1))
