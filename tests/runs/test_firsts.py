"""What a search asks before its controller does."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune.controllers.evolution import Evolution
from autoprune.controllers.rules import uniform
from autoprune.files import disk
from autoprune.runs import firsts, lifecycle, loop, study
from autoprune.runs.study import Study
from autoprune.splits import Nothing
from autoprune.task import Task
from autoprune.values.space import Policy
from tests.assets.mine import make


def built(controller: str = "evolution", trials: int = 25, task: Task | None = None, **tables: Any) -> Study:
    asked = {
        "name": "mine",
        "task": {"use": study.GIVEN},
        "budget": {"macs": "50%"},
        "controller": {"use": controller},
        "search": {"trials": trials},
        "finetune": {"epochs": 0},
        **tables,
    }
    return study.build(autoprune.config.parse(asked, "a test"), task=task or make())


def asked_first(of: Study) -> list[Policy]:
    return firsts.known(firsts.found(of))


def test_a_learner_begins_with_uniform_and_rankings_that_meet_the_budget():
    of = built()
    found = asked_first(of)
    assert found[0] == uniform(of.space, of.budget)
    assert 3 <= len(found) == len(set(found)) <= 6
    assert all(of.budget.admits(policy) for policy in found)


def test_a_short_search_begins_with_fewer():
    assert len(asked_first(built(trials=10))) <= 3
    assert len(asked_first(built(trials=3))) == 1


@pytest.mark.parametrize("controller", ["random", "qmc", "uniform", "deep", "genetic", "ddpg"])
def test_a_rule_chance_and_published_methods_begin_by_themselves(controller):
    assert asked_first(built(controller)) == []


def test_a_search_without_a_trial_to_spare_ranks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(firsts, "scores", lambda *given, **named: pytest.fail("gradients for nothing"))
    of = built(trials=3, report={"rules": False})
    assert asked_first(of) == [uniform(of.space, of.budget)]


def test_a_controller_that_says_it_takes_advice_gets_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Evolution, "unadvised", False, raising=False)
    assert len(asked_first(built())) > 1


def test_whoever_writes_so_has_rankings_or_none():
    assert asked_first(built(search={"trials": 25, "first": "none"})) == []
    assert len(asked_first(built("random", search={"trials": 25, "first": "rankings"}))) > 2


def test_without_a_budget_there_is_nothing_to_rank_for():
    assert asked_first(built("nsga2", budget={}, reward={"use": "r_flops"})) == []


@pytest.mark.parametrize("controller", ["evolution", "random"])
def test_rules_and_rankings_are_kept_to_compare_with_whoever_searches(controller: str):
    of = built(controller)
    found = firsts.rules(firsts.found(of))
    assert {
        "shallow",
        "deep",
        "erk",
        "smart-ratio",
        "l2 by LAMP",
        "group_norm by its maximum",
        "taylor by its norm",
    } <= set(found)
    assert all(of.budget.admits(policy) for policy in found.values())
    assert firsts.rules(firsts.found(built(controller, report={"rules": False}))) == {}


def test_a_task_without_a_training_split_has_rankings_that_need_no_loss():
    task = dataclasses.replace(make(), train=Nothing("train"))
    found = asked_first(built(task=task))
    assert 2 <= len(found) <= 4


def test_a_resumed_run_asks_the_same_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of = built(trials=6)
    wanted = asked_first(of)
    with lifecycle.begin(of, tmp_path) as begun:
        directory = begun.directory
        loop.search(of.controller(), of.attempt, begun, trials=1, first=firsts.known(begun.machine))
    assert disk.read_json(directory / "machine.json")["first"] == [list(policy.levels) for policy in wanted]
    monkeypatch.setattr(firsts, "found", lambda of: pytest.fail("it was known"))
    again, opened = lifecycle.reopen(directory, task=make())
    with opened:
        loop.search(again.controller(), again.attempt, opened, trials=6, first=firsts.known(opened.machine))
        asked = [trial.policy for trial in opened.trials]
    assert asked[: len(wanted)] == wanted
    assert len(set(asked)) == len(asked)


def test_the_report_says_what_they_were_worth_and_what_the_controller_learnt(tmp_path: Path):
    tables = {"finetune": {"epochs": 0}, "report": {"random_trials": 1, "fidelity": 0}}
    notes = autoprune.search(make(), {"macs": "50%"}, "knapsack", trials=20, out=tmp_path, **tables).report.notes
    (said,) = [note for note in notes if note.startswith("The search began with the uniform policy and rankings")]
    assert re.search(r"the best of \d, trial \d, has \d+\.\d\d %\.$", said)
    assert [note for note in notes if note.startswith("The knapsack's model, a sum over choices, explains")]
    none = autoprune.search(make(), {"macs": "50%"}, "random", trials=2, out=tmp_path, **tables).report.notes
    assert not [note for note in none if note.startswith("The search began")]


def test_a_run_begun_before_there_were_any_goes_on_without(tmp_path: Path):
    assert firsts.known({"precision": "fp32"}) == []
    assert firsts.known(json.loads('{"first": [[1, 2]]}')) == [Policy((1, 2))]
