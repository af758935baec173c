"""What a search makes of what a user's metric, loss, data and network raise: a failed trial that names the line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import autoprune
from autoprune.errors import SearchFailed
from autoprune.report import words
from autoprune.values.space import Policy
from tests.runs.test_samples import built, lines, regression, rmse

TABLES: dict[str, Any] = {
    "evaluator": {"use": "recalibrate", "images": 0},
    "finetune": {"epochs": 1, "batch": 32},
    "report": {"random_trials": 1, "fidelity": 0},
}


def thin(model: nn.Module) -> bool:
    """Whether much of the regression's network was pruned."""
    return model[0].out_features < 8  # type: ignore[index, no-any-return]


def policy(study: Any, sparsity: float) -> Policy:
    return study.space.snap([sparsity] * len(study.space))  # type: ignore[no-any-return]


def raises_for_thin(model: nn.Module, split: Any) -> float:
    if thin(model):
        raise ValueError("only one class is present")
    return rmse(model, split)


def ends_for_thin(model: nn.Module, split: Any) -> float:
    if thin(model):
        sys.exit("no good")
    return rmse(model, split)


class Broken(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose sample 70 can be read for a while."""

    whole = True

    def __len__(self) -> int:
        return 100

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        if at == 70 and not self.whole:
            raise OSError("img_70.png is truncated")
        return lines()[at % 64]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (raises_for_thin, "the metric 'raises_for_thin' fails (ValueError: only one class is present at test_users_"),
        (ends_for_thin, "the metric 'ends_for_thin' fails (it ends the program: sys.exit('no good') at test_users_"),
    ],
)
def test_a_metric_that_fails_for_one_policy_fails_one_trial(metric: Any, said: str) -> None:
    made = built(regression(metric=metric), **TABLES)
    assert made.attempt(0, policy(made, 0.9)).error.startswith(said)
    assert made.attempt(1, policy(made, 0.1)).metric is not None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_fails_at_sample_70_fails_the_trial_with_the_users_line(workers: int) -> None:
    data = Broken()
    loader: Any = DataLoader(data, 4, num_workers=workers)
    made = built(dataclasses.replace(regression(), holdout=loader), **TABLES)
    data.whole = False
    error = made.attempt(0, policy(made, 0.5)).error
    assert error.startswith("task sums: its split 'holdout': reading samples fails (OSError: img_70.png is trunc")
    assert "test_users_code.py, line " in error


def test_a_loss_that_raises_fails_the_trial_of_an_evaluator_that_trains() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ZeroDivisionError("no positives")

    made = built(regression(loss=loss), **TABLES | {"evaluator": {"use": "finetune", "steps": 2, "images": 0}})
    assert made.attempt(0, policy(made, 0.5)).error.startswith("the loss 'loss' fails (ZeroDivisionError: no positives")


def test_a_network_that_raises_when_it_is_thin_fails_the_trial() -> None:
    class Choosy(nn.Sequential):
        begun = False

        def forward(self, x: Tensor) -> Tensor:
            if self.begun and thin(self):
                raise AssertionError("at least 8 units")
            return super().forward(x)  # type: ignore[no-any-return]

    task = regression()
    made = built(dataclasses.replace(task, model=Choosy(*task.model.children())), **TABLES)
    Choosy.begun = True
    assert "AssertionError: at least 8 units at test_users_code.py, line" in made.attempt(0, policy(made, 0.9)).error


def test_failed_trials_are_written_down_and_counted_and_the_search_ends_well(tmp_path: Path) -> None:
    task = regression(metric=raises_for_thin)
    found = autoprune.search(task, {}, "random", trials=6, out=tmp_path, reward={"use": "guaranteed"}, **TABLES)
    failed = [trial for trial in found.report.trials if trial.metric is None]
    assert 0 < len(failed) < 6
    assert f", {len(failed)} failed" in words.searched(found.report)
    assert any(f"{len(failed)} trial" in note and "only one class is present" in note for note in found.report.notes)
    assert (found.directory / "trials.jsonl").read_text().count("only one class is present") == len(failed)


def test_ten_failures_in_a_row_stop_the_search_with_the_first_ones_story(tmp_path: Path) -> None:
    seen: list[int] = []

    def metric(model: nn.Module, split: Any) -> float:
        if model[0].out_features == 16:  # type: ignore[index]
            return rmse(model, split)  # of the dense network
        seen.append(len(seen))
        raise RuntimeError(f"call {seen[-1]} of a server that is down")

    with pytest.raises(SearchFailed, match=r"10 trials in a row failed, the first with: .* call 0 of a server"):
        autoprune.search(regression(metric=metric), {"macs": 0.5}, "random", trials=20, out=tmp_path, **TABLES)
