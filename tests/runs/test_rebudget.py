"""A policy for another budget from what a run has learnt."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import autoprune
from autoprune import config, trust
from autoprune.command import cli
from autoprune.errors import BudgetError, ConfigError, PolicyError
from autoprune.files import policy_file
from autoprune.runs import lifecycle, loop, rebudget, study
from autoprune.testing.controllers import raisable
from autoprune.values.space import Policy
from tests import ASSETS
from tests.assets.mine import make
from tests.command.test_reuse import refused
from tests.making import done, failed
from tests.runs.test_firsts import built

MINE = ASSETS / "mine.py"
TABLES = {"name": "mine", "task": {"use": f"{MINE}:make"}, "evaluator": {"use": f"{MINE}:Careful"},
          "budget": {"macs": "50%"}, "search": {"trials": 8}, "finetune": {"epochs": 0}}  # fmt: skip


@pytest.fixture
def run(searched: Path) -> Path:
    """A run whose code this user has allowed."""
    trust.remember(trust.named(config.parse(TABLES, "a test")))
    return searched


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was searched and not finished."""
    of = study.build(config.parse(TABLES, "a test"))
    with lifecycle.begin(of, tmp_path_factory.mktemp("run")) as opened:
        loop.search(of.controller(), of.attempt, opened, trials=8)
    return opened.directory


def test_a_policy_for_less_meets_that_and_says_how_far_it_extrapolates(run: Path) -> None:
    found = rebudget.rebudget(run, {"macs": "30%"}, finetune=False)
    of = built(budget={"macs": "30%"})
    assert of.budget.admits(found.policy)
    assert not raisable(of.space, of.budget, found.policy)
    assert found.said[0].startswith("Proposed from 8 trials of the run, of ")
    assert re.fullmatch(r"macs 2\d\.\d% of dense; the trials lie at .*: \d+\.\d points outside\.", found.said[1])
    assert found.file.policy(of.space.choices) == found.policy
    assert found.applied.taught.steps == 0


def test_within_what_was_tried_nothing_is_extrapolated(run: Path) -> None:
    found = rebudget.rebudget(run, {"macs": "50%"}, finetune=False)
    assert found.said[1].endswith("among them.")
    assert found.said[2] == "No choice is pruned harder or less than in some trial."


def test_it_takes_the_shape_of_the_better_trials() -> None:
    of = built(budget={"macs": "30%"})
    first = [done(at, Policy((8 - at, 12)), metric=1 - at / 10) for at in range(5)]  # the second choice is to be left
    last = [done(5 + at, Policy((8, 12 - at)), metric=0.3) for at in range(1, 6)]
    elite = [trial.policy for trial in first[1:4]]
    policy, among = rebudget.proposed(of, elite, [*first, *last])
    assert among >= 1
    assert policy.levels[1] == 12


def test_by_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.safetensors"
    command = ["apply", str(run), "--budget", "macs=30%", "--no-finetune", "--quiet", "--out", str(out)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "Proposed from 8 trials of the run" in said
    assert "points outside." in said
    assert said.splitlines()[-1] == str(tmp_path / "new.policy.json")
    assert out.is_file()
    assert policy_file.read(tmp_path / "new.policy.json").budget["macs"].asked == "30%"
    assert cli.main([*command, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"run", "policy", "said", "model", "holdout", "costs"}


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "x.safetensors", "--quiet")
    for words, told in (
        (("--budget", "macs=40%", "--at", "macs=50%"), "--at and --budget: one of them is right"),
        (("--target", "torch"), "--target is for --budget"),
        (("--budget", "macs=0.1%"), "cannot be met: the smallest reachable is"),
        (("--budget", "warmth=3"), "warmth"),
    ):
        assert told in refused(capsys, "apply", run, *words, *out)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="a ceiling is needed"):
        rebudget.rebudget(run, {})
    with pytest.raises(BudgetError):
        autoprune.rebudget(run, {"params": 3})


def test_a_run_that_has_found_nothing_is_refused(tmp_path: Path) -> None:
    of = built(trials=3)
    with lifecycle.begin(of, tmp_path) as opened:
        opened.append(
            failed(
                0,
                of.budget.fit(of.space.dense()),
                costs={n: c.predict(of.budget.fit(of.space.dense())) for n, c in of.costs.items()},
            )
        )
    with pytest.raises(PolicyError, match=r"no trial of .* succeeded"):
        rebudget.rebudget(opened.directory, {"macs": "30%"}, make())
