"""Advice for a network: it follows from what was measured, and each line has its reason and its source."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from torch import nn

from autoprune import config
from autoprune.command import advise
from autoprune.command.cli import main
from autoprune.protocols import silent
from autoprune.report.detail import Alone
from autoprune.runs import advice, study
from autoprune.runs.advice import Measured, given, within
from autoprune.runs.study import Study
from tests import ASSETS
from tests.assets import mine

FOUND = Measured({0.9: 0.93, 0.8: 0.925, 0.7: 0.90, 0.6: 0.93}, 0.94, (Alone(4, 0.10), Alone(6, 0.01)), (0.52, 0.5))


@pytest.fixture(scope="module")
def built() -> Study:
    tables = {"name": "mine", "task": {"use": study.GIVEN}, "target": {"use": "torch"}}
    return study.build(config.parse(tables, "test"), task=mine.make(), found={"precision": "fp32"})


def taken(built: Study, found: Measured, points: float = 2.0) -> dict[str, str]:
    lines = list(given(built, found, points))
    assert all(line.why and line.source for line in lines)
    return {line.about: line.take for line in lines}


def test_the_smallest_budget_within_some_points_has_all_larger_ones_within_too(built: Study) -> None:
    assert [within(built, FOUND, points) for points in (0.5, 1.1, 2.0, 5.0)] == [None, 0.9, 0.8, 0.6]
    lower = dataclasses.replace(mine.make(), metric=lambda model, split: 1.0, lower_is_better=True)
    plain = dataclasses.replace(built, task=lower)
    assert within(plain, Measured({0.9: -2.01, 0.8: -2.1}, -2.0, (), ()), 2.0) == 0.9


def test_mac_budgets_are_for_targets_whose_time_follows_them(built: Study) -> None:
    assert taken(built, FOUND)["cost"] == "macs"
    assert "step" not in taken(built, FOUND)
    slow = taken(built, dataclasses.replace(FOUND, latency=(0.95, 0.62)))
    assert (slow["cost"], slow["step"], slow["budget"]) == ("latency", '"auto"', "65%")
    vain = taken(built, dataclasses.replace(FOUND, latency=(0.99, 0.97)))
    assert (vain["cost"], vain["budget"]) == ("macs", "50%"), "a latency of 100% is no budget"
    untimed = list(given(built, dataclasses.replace(FOUND, latency=(), untimed="no such runtime"), 2.0))
    assert any("latency could not be timed: no such runtime" in line.why for line in untimed)


def test_a_choice_that_costs_more_than_all_others_is_spared(built: Study) -> None:
    assert taken(built, FOUND)["space"] == "at least 4 of 0"
    assert taken(built, dataclasses.replace(FOUND, alone=(Alone(4, 0.02), Alone(6, 0.02))))["space"] == "as it is"
    assert "space" not in taken(built, dataclasses.replace(FOUND, alone=()))


def test_all_of_it_is_in_the_file_that_is_shown(built: Study) -> None:
    """The file left out the step, the floor, the rate and the target that the lines above it advised."""
    slow = dataclasses.replace(FOUND, latency=(0.95, 0.62))
    file = tomllib.loads("\n".join(advise._file(list(given(built, slow, 2.0)))))
    assert file["budget"] == {"latency": "65%"}
    assert file["target"] == {"use": "torch"}
    assert file["space"] == {"step": "auto", "group": [{"match": "0", "floor": 4}]}
    assert file["finetune"] == {"lr": 0.05, "distill": 0.9}


def test_the_evaluator_and_the_controller_follow_from_the_network(built: Study) -> None:
    assert advice.evaluator(built)[0] == "recalibrate"
    bare = dataclasses.replace(mine.make(), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)))
    assert advice.evaluator(dataclasses.replace(built, task=bare))[0] == "reconstruct"
    assert (advice.controller(built)[0], advice.trials(built)[0]) == ("evolution", 60)
    assert taken(built, FOUND)["finetune"] == "distill = 0.9"  # few samples; it comes after the rate


def test_what_is_measured_is_the_evaluators_and_the_targets(built: Study) -> None:
    found = advice.measure(built, silent)
    assert found.dense == built.attempt(0, built.space.dense()).metric
    assert set(found.headroom) <= set(advice.SHARES)
    half = advice._uniform(built, 0.5)
    assert built.costs["macs"].predict(half) <= 0.5 * built.dense["macs"]
    assert found.headroom[0.5] == built.attempt(0, half).metric
    assert len(found.latency) == 2
    assert all(0 < ratio < 5 for ratio in found.latency)


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["check", f"{ASSETS / 'mine.py'}:make", "--advise", "--target", "torch", "--quiet"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "mine: what to take, and why\n\nkind: channel\n    whole channels leave" in said
    file = tomllib.loads(said.partition("In a search space:\n")[2])
    assert {"budget", "controller", "evaluator", "search", "finetune"} <= set(file)
    assert file["finetune"] == {"lr": 0.05, "distill": 0.9}
    space = tmp_path / "advised.toml"
    space.write_text(f'[task]\nuse = "{ASSETS / "mine.py"}:make"\n{said.partition("In a search space:")[2]}')
    assert main(["check", str(space), "--quiet"]) == 0
    capsys.readouterr()
    assert main([*asked, "--within", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["within"] == {"points": 100.0, "share": min(map(float, found["headroom"]))}
    with pytest.raises(SystemExit):
        main([*asked, "--within=-1"])
    assert "no number of points" in capsys.readouterr().err
