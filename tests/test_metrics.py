"""Metrics: which outputs they are of, which way is better, and what is said of those that give no number."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune import rewards
from autoprune.errors import ConfigError, TrialFailed
from autoprune.metrics import KL, Agreement, Judge, agreement, kl, top1
from autoprune.task import Images, Task
from autoprune.testing.evaluators import toy_task


class Gives(nn.Module):
    """Gives the same outputs for whatever it takes."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs


def task_of(outputs: Any, targets: Tensor, **more: Any) -> Task:
    pairs = TensorDataset(torch.zeros(len(targets), 2), targets)
    return Task(Gives(outputs), torch.zeros(1, 2), pairs, pairs, pairs, **more)  # type: ignore[arg-type]


def quality(task: Task) -> float:
    return task.quality(task.model, task.holdout)


class TestTheDefault:
    @pytest.mark.parametrize(
        ("outputs", "targets", "seen"),
        [
            (
                torch.zeros(16, 3, 8, 8),
                torch.zeros(16, 8, 8, dtype=torch.long),
                r"float32 \(16, 3, 8, 8\).*int64 \(16, 8",
            ),
            (torch.zeros(16, 1), torch.full((16,), 0.5), r"float32 \(16, 1\).*float32 \(16,\)"),
            (torch.zeros(16, 1), torch.full((16,), 2.0), r"float32 \(16, 1\)"),
            (torch.zeros(16, 4), torch.zeros(16), r"targets float32 \(16,\)"),
            (torch.zeros(16, 4), torch.zeros(16, 4, dtype=torch.long), r"int64 \(16, 4\)"),
            (torch.zeros(16, 4, dtype=torch.long), torch.zeros(16, dtype=torch.long), r"outputs int64 \(16, 4\)"),
            ((torch.zeros(16, 4), torch.zeros(16)), torch.zeros(16, dtype=torch.long), r"outputs \(float32 \(16, 4\)"),
        ],
        ids=["2154 %", "one logit of 0.5", "of 2.0", "regression", "one-hot", "whole outputs", "tuple"],
    )
    def test_is_no_metric_for_all(self, outputs: Any, targets: Tensor, seen: str) -> None:
        with pytest.raises(
            ConfigError, match=f"{seen}.*: give Task\\(metric=..., metric_name=..., lower_is_better="
        ) as said:
            quality(task_of(outputs, targets))
        assert "\n" not in str(said.value)

    @pytest.mark.parametrize(
        "wrap", [lambda x: x, lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x, loss=None)]
    )
    def test_takes_logits(self, wrap: Callable[[Tensor], Any]) -> None:
        task = task_of(wrap(torch.eye(4)), torch.tensor([0, 1, 2, 0]))
        assert quality(task) == 0.75
        assert (task.judge.name, task.judge.percent, task.judge.lower_is_better) == ("top-1", True, False)


def rmse(model: nn.Module, split: Any) -> float:
    return 3.25


class TestLowerIsBetter:
    def test_is_turned_inside(self) -> None:
        task = dataclasses.replace(toy_task(), metric=rmse, lower_is_better=True)
        assert quality(task) == -3.25
        assert task.judge.known(quality(task)) == 3.25

    def test_a_metric_is_called_by_its_own_name_and_is_no_percentage(self) -> None:
        judge = dataclasses.replace(toy_task(), metric=rmse).judge
        assert (judge.name, judge.percent) == ("rmse", False)
        assert dataclasses.replace(toy_task(), metric=rmse, metric_name="RMSE").judge.name == "RMSE"

    @pytest.mark.parametrize("name", ["r_flops", "r_param", "r_latency"])
    def test_a_reward_of_shares_is_refused_for_other_numbers(self, name: str) -> None:
        reward = getattr(rewards, name)
        rewards.require_fit(name, reward, Judge(top1, "top-1", percent=True))
        with pytest.raises(ConfigError, match=r"'bleu' is not said to be one: give Task\(percent=True\)"):
            rewards.require_fit(name, reward, Judge(rmse, "bleu"))
        with pytest.raises(ConfigError, match="better when higher, not of 'rmse'"):
            rewards.require_fit(name, reward, Judge(rmse, "rmse", lower_is_better=True))

    def test_a_product_with_a_cost_is_refused(self) -> None:
        rewards.require_fit("mnasnet", rewards.MnasNet(), Judge(rmse, "bleu"))
        with pytest.raises(ConfigError, match="better when higher, not of 'rmse'"):
            rewards.require_fit("mnasnet", rewards.MnasNet(), Judge(rmse, "rmse", lower_is_better=True))


class TestWhatIsNoNumber:
    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (torch.zeros(3), r"the metric 'mine' gives a Tensor of shape \(3,\); one number, a float, is right"),
            (None, "the metric 'mine' gives None; one number, a float, is right"),
            ("0.5", "the metric 'mine' gives '0.5'; one number, a float, is right"),
            ({"mAP": 0.5}, "the metric 'mine' gives a dict; one number, a float, is right"),
            (1j, "the metric 'mine' gives a complex; one number"),
            (float("inf"), "the metric 'mine' is inf; it should be a finite number"),
            (-1e308, r"the metric 'mine' is -1e\+308; it should be between -1e\+30 and 1e\+30"),
            (10**400, "the metric 'mine' is inf; it should be a finite number"),
        ],
    )
    def test_is_named(self, found: Any, said: str) -> None:
        task = dataclasses.replace(toy_task(), metric=lambda model, split: found, metric_name="mine")
        with pytest.raises(TrialFailed, match=said):
            quality(task)

    @pytest.mark.parametrize(
        ("found", "value"),
        [
            (torch.tensor(0.5), 0.5),
            (torch.tensor(2), 2.0),
            (np.float32(0.5), 0.5),
            (np.array(0.5), 0.5),
            (np.int64(3), 3.0),
            (True, 1.0),
            (1, 1.0),
        ],
        ids=repr,
    )
    def test_one_number_of_any_library_is_a_plain_float(self, found: Any, value: float) -> None:
        """A 0-dimensional tensor ended a whole search with "not JSON serializable"."""
        got = quality(dataclasses.replace(toy_task(), metric=lambda model, split: found))
        assert (type(got), got) == (float, value)

    def test_nan_fails_a_trial(self) -> None:
        task = dataclasses.replace(toy_task(), metric=lambda model, split: float("nan"))
        with pytest.raises(TrialFailed, match="is nan; it should be a finite number"):
            quality(task)

    def test_a_metric_that_raises_is_one_line(self) -> None:
        def broken(model: nn.Module, split: Any) -> float:
            raise KeyError("boxes\nand more")

        task = dataclasses.replace(toy_task(), metric=broken)
        with pytest.raises(TrialFailed, match=r"the metric 'broken' fails .KeyError: 'boxes"):
            quality(task)


class TestAgainstTheDenseNetwork:
    @pytest.mark.parametrize(("metric", "own"), [(kl, 0.0), (KL(top=2), 0.0), (agreement, 1.0)])
    def test_the_dense_network_is_like_itself(self, metric: Any, own: float) -> None:
        task = dataclasses.replace(toy_task(), metric=metric)
        assert quality(task) == pytest.approx(own, abs=1e-6)

    def test_no_labels_are_needed(self) -> None:
        inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        task = Task(nn.Linear(3, 4), inputs[:1], None, inputs, inputs, metric=kl)  # type: ignore[arg-type]
        other = nn.Linear(3, 4)
        with torch.inference_mode():
            dense, pruned = task.model(inputs).log_softmax(1), other(inputs).log_softmax(1)
        wanted = float((dense.exp() * (dense - pruned)).sum(1).mean())
        assert -task.quality(other, task.holdout) == pytest.approx(wanted, rel=1e-5)
        same = float((dense.argmax(1) == pruned.argmax(1)).float().mean())
        assert dataclasses.replace(task, metric=agreement).quality(other, task.holdout) == pytest.approx(same)

    def test_the_top_form_tells_less_and_all_of_it_where_it_has_all(self) -> None:
        task = dataclasses.replace(toy_task(), metric=kl)
        worse = toy_task().model
        with torch.no_grad():
            worse.fc.weight.mul_(0.5)
        of = {
            top: -dataclasses.replace(task, metric=KL(top)).quality(worse, task.holdout) for top in (0, 1, 2, 3, 4, 9)
        }
        assert 0 < of[1] <= of[2] <= of[3] + 1e-6
        assert of[3] == pytest.approx(of[0], rel=1e-3)  # the rest is the one class that is left
        assert of[4] == of[9] == of[0]

    def test_padding_does_not_count(self) -> None:
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        outputs = torch.zeros(2, 3, 5)
        other = outputs.clone()
        other[mask == 0] = torch.randn(5)
        samples = [{"ids": torch.zeros(3), "attention_mask": row} for row in mask]
        example = {"ids": torch.zeros(1, 3), "attention_mask": mask[:1]}

        class Text(Gives):
            def forward(self, ids: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
                return self.outputs

        task = Task(Text(outputs), example, None, samples, samples, metric=kl)  # type: ignore[arg-type]
        assert task.quality(Text(other), task.holdout) == 0

    def test_outputs_of_many_dimensions_ask_which_holds_classes(self) -> None:
        task = task_of(torch.zeros(16, 3, 8, 8), torch.zeros(16), metric=kl)
        with pytest.raises(ConfigError, match=r"which dimension is of classes, as in KL\(dim=1\)"):
            quality(task)
        assert quality(dataclasses.replace(task, metric=KL(dim=1))) == 0
        assert quality(dataclasses.replace(task, metric=Agreement(dim=1))) == 1

    def test_they_travel_and_leave_the_dense_network_alone(self) -> None:
        task = dataclasses.replace(toy_task(), metric=kl)
        task.model.train()
        found = task.quality(toy_task().model, task.holdout)
        assert task.model.training
        copy = pickle.loads(pickle.dumps(task))  # noqa: S301 - what was pickled here
        assert copy.quality(toy_task().model, copy.holdout) == found

    def test_another_network_in_its_place_is_still_compared_with_the_dense_one(self) -> None:
        task = dataclasses.replace(toy_task(), metric=kl)
        other = toy_task().model
        with torch.no_grad():
            other.fc.weight.mul_(0.5)
        stand = task.standing_in(other)
        assert stand.quality(other, task.holdout) == task.quality(other, task.holdout) < 0


def test_images_are_judged_as_ever() -> None:
    task = toy_task()
    assert isinstance(task.holdout, Images)
    assert quality(task) == top1(task.model, task.holdout) > 0.5
