"""What is measured for the page: intervals that are a bootstrap's, curves, layers that sum up, choices alone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune import config
from autoprune.errors import TrialFailed
from autoprune.metrics import Judge, top1
from autoprune.protocols import silent
from autoprune.runs import details, failing, study
from autoprune.runs.details import Kept, alone, chance, intervals, layers
from autoprune.runs.study import Study
from autoprune.splits import Split
from autoprune.task import Task
from autoprune.values.space import Policy
from autoprune.values.trial import FIRST
from tests.assets import mine
from tests.making import done

JUDGE = Judge(top1, "top-1", percent=True)


@pytest.fixture(scope="module")
def built() -> Study:
    return made({})


def made(over: dict[str, object], task: Task | None = None) -> Study:
    tables = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, **over}
    return study.build(config.parse(tables, "test"), task=task or mine.make(), found={"precision": "fp32"})


class TestIntervals:
    def test_are_the_bootstraps_of_paired_differences(self) -> None:
        rng = np.random.default_rng(0)
        one, other = (rng.random(400) < share for share in (0.9, 0.8))
        (found,) = intervals({"uniform": other.astype(float), "ours": one.astype(float)}, JUDGE, seed=0)
        gaps = one.astype(float) - other
        means = [gaps[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
        assert found.difference == pytest.approx(gaps.mean())
        assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.008)
        assert (found.other, found.samples, found.level) == ("uniform", 400, 0.95)

    def test_cover_the_truth_as_often_as_they_say(self) -> None:
        rng, covered = np.random.default_rng(1), 0
        for seed in range(40):
            gaps = rng.normal(0.1, 1.0, 200)
            (one,) = intervals({"ours": gaps, "dense": np.zeros(200)}, JUDGE, seed)
            covered += one.low <= 0.1 <= one.high
        assert 34 <= covered <= 40

    def test_are_turned_where_lower_is_better(self) -> None:
        lower = Judge(top1, "loss", lower_is_better=True)
        (one,) = intervals({"ours": np.full(9, -1.0), "dense": np.full(9, -3.0)}, lower, 0)
        assert (one.difference, one.low, one.high) == (-2.0, -2.0, -2.0)

    def test_are_none_without_ours(self) -> None:
        assert intervals({"dense": np.zeros(3)}, JUDGE, 0) == ()


class TestEach:
    def test_of_top1_is_the_metric_in_its_parts(self) -> None:
        task, kept = mine.make(), Kept()
        assert kept.quality(task.judge, "ours", task.model, task.test) == task.quality(task.model, task.test)
        assert kept.each["ours"].shape == (32,)
        assert set(np.unique(kept.each["ours"])) <= {0.0, 1.0}

    def test_of_a_metric_that_gives_none_is_none(self) -> None:
        task = dataclasses.replace(mine.make(), metric=lambda model, split: 0.5)
        assert Kept().quality(task.judge, "ours", task.model, task.test) is None

    @pytest.mark.parametrize(
        "found", [lambda model, split: torch.zeros(3), lambda model, split: torch.full((32,), float("nan"))]
    )
    def test_of_a_metric_that_gives_others_is_refused(self, found: Callable[[nn.Module, Split], Tensor]) -> None:
        def metric(model: nn.Module, split: Split) -> float:
            return 0.5

        metric.each = found  # type: ignore[attr-defined]
        task = dataclasses.replace(mine.make(), metric=metric)
        with pytest.raises(TrialFailed, match=r"each sample alone, gives .*; 32 finite numbers are right"):
            task.judge.each(task.model, task.test)


def test_a_curve_is_thinned_to_means() -> None:
    curve = Kept(losses={"ours": [float(n) for n in range(1000)]}).curve("ours")
    assert curve is not None
    assert len(curve.steps) == details._POINTS
    assert curve.steps[-1] == 1000
    assert np.average(curve.losses, weights=np.diff([0, *curve.steps])) == pytest.approx(499.5)
    assert Kept(losses={"ours": []}).curve("ours") is None


def test_layers_sum_up_to_the_cost(built: Study) -> None:
    policy = built.space.thinnest()
    (found,) = layers(built, policy)
    assert sum(found.dense.values()) == built.dense["macs"]
    assert sum(found.ours.values()) == built.costs["macs"].predict(policy)
    assert list(found.dense) == ["0", "3", "7"]


class TestAlone:
    def test_cuts_one_choice_at_a_time_to_about_half(self, built: Study) -> None:
        found = alone(built, silent)
        assert [one.kept for one in found] == [4, 6]
        dense = built.attempt(0, built.space.dense()).metric
        first = built.attempt(0, Policy((4, 12))).metric
        assert dense is not None
        assert first is not None
        assert found[0].lost == dense - first

    def test_tries_no_more_than_are_asked_for_and_none_where_scores_are_slow(self) -> None:
        few = alone(made({"report": {"sensitivity": 1}}), silent)
        assert [one.lost is not None for one in few] == [True, False]
        assert alone(made({"report": {"sensitivity": 0}}), silent) == ()
        assert alone(made({"evaluator": {"use": f"{mine.__file__}:Constant"}}), silent) == ()


def test_chance_is_known_of_classes_alone_and_leaves_the_network_as_it_is() -> None:
    task = mine.make()
    before = {name: tensor.clone() for name, tensor in task.model.train().state_dict().items()}
    assert chance(task) == 0.1
    assert task.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items())
    assert chance(dataclasses.replace(mine.make(), metric=lambda model, split: 0.0)) is None


class TestWarnings:
    def test_come_once_when_the_first_networks_are_no_better_than_a_guess(
        self, built: Study, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch = failing.watching(built, lambda trial: None)
        for number in range(2 * FIRST):
            watch(done(number, Policy((4, 6)), 0.11))
        (said,) = caplog.records
        assert said.levelno == logging.WARNING
        assert said.getMessage().startswith("Near chance: the best network has 11.0% top-1")

    def test_come_of_the_score_on_a_ladder_too_where_some_were_finetuned(
        self, built: Study, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch = failing.watching(built, lambda trial: None)
        for number in range(FIRST):
            rung = number % 2
            watch(dataclasses.replace(done(number, Policy((4, 6)), 0.8 if rung else 0.11), rung=rung))
        (said,) = caplog.records
        assert said.getMessage().startswith("Near chance: the best network has 11.0% top-1")

    def test_come_before_a_policy_that_collapses_is_finetuned(
        self, caplog: pytest.LogCaptureFixture, built: Study
    ) -> None:
        wide = dataclasses.replace(mine.make(), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10)))
        failing.of_winner(made({"space": {"max_sparsity": 0.99}}, wide), Policy((1,)))
        assert caplog.records[0].getMessage().startswith("Layer collapse: 1 keeps 1 of 32 units")
        caplog.clear()
        failing.of_winner(built, Policy((4, 6)))
        assert not caplog.records
