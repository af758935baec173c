"""The end of a run is not lost: what would fail there is told before the first trial, and what fails is one row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.command import cli
from autoprune.errors import AutopruneError, ConfigError, ModelError
from autoprune.report import page, words
from autoprune.runs.lifecycle import Result
from autoprune.runs.rehearsal import rehearse
from tests.runs.test_samples import built, lines, regression, rmse
from tests.runs.test_users_code import TABLES, Broken, thin


def searched(task: Any, out: Path, **tables: Any) -> Result:
    return autoprune.search(task, {"macs": 0.7}, "random", trials=2, out=out, **TABLES | tables)


class TestNumbersOfOtherLibraries:
    @pytest.mark.parametrize("kind", [torch.tensor, np.float32], ids=["tensor", "np.float32"])
    def test_a_metric_of_them_ends_in_a_report(self, tmp_path: Path, kind: Any) -> None:
        """A 0-dimensional tensor passed everything and then was "not JSON serializable"; so did each resume."""
        found = searched(regression(metric=lambda model, split: kind(rmse(model, split)), metric_name="rmse"), tmp_path)
        written = json.loads((found.directory / "report.json").read_text())
        assert type(written["networks"]["ours"]["test"]) is float
        assert type(json.loads((found.directory / "policy.json").read_text())["metric"]) is float


class TestATask:
    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("name", 7, "name = 7 is a int; a text is right"),
            ("metric_name", None, "task 'sums': metric_name = None is a NoneType; a text is right"),
            ("lower_is_better", "yes", "lower_is_better = 'yes' is a str; True or False is right"),
            ("metric", None, r"metric = None; a function of \(model, split\) is right"),
            ("metric", "accuracy", "metric = 'accuracy'; a function of"),
            ("loss", None, r"loss = None; a function of \(outputs, targets\) is right"),
        ],
    )
    def test_of_other_things_is_one_line(self, field: str, value: Any, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            dataclasses.replace(regression(), **{field: value})


def in_training(value: Any) -> Any:
    """A loss that is the usual one until a network is trained."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(outputs) > 2:
            return value(outputs)  # type: ignore[no-any-return]
        return nn.functional.mse_loss(outputs, targets)

    return loss


def raising(outputs: Tensor) -> Tensor:
    raise ValueError("no positives")


class Batchless:
    """A split of one's own whose training batches are whole, and it is small."""

    def __init__(self) -> None:
        self.inputs, self.targets = lines().tensors

    def __len__(self) -> int:
        return 20

    def batches(self, size: int) -> Any:
        yield self.inputs[:size], self.targets[:size]

    def shuffled(self, size: int, generator: Any) -> Any:
        yield from ([] if size > 20 else self.batches(size))

    def head(self, count: int) -> Any:
        return self


class TestTheRehearsal:
    @pytest.mark.parametrize(
        ("task", "said"),
        [
            (
                lambda: regression(loss=lambda out, y: (out - y).mean() * float("nan")),
                "loss of the dense net.* is nan",
            ),
            (lambda: regression(loss=lambda out, y: (out - y) ** 2), r"its loss gives float32 \(2, 1\); one number"),
            (
                lambda: regression(loss=in_training(raising)),
                r"one step .* 'loss' fails .ValueError: no pos",
            ),
            (
                lambda: regression(loss=in_training(lambda out: out.sum() * torch.inf)),
                "one step .* training loss is",
            ),
            (lambda: regression(metric=lambda model, split: -1e308), r"'<lambda>' is -1e\+308; it should be between"),
            (lambda: regression(metric=lambda model, split: "0.9"), "'<lambda>' gives '0.9'; one number, a float"),
            (lambda: dataclasses.replace(regression(), train=Batchless()), "20 images give no batch of 32; a smaller"),
        ],
        ids=["nan", "vector", "raises", "inf in training", "huge metric", "text", "no batch"],
    )
    def test_tells_what_would_have_lost_the_end_and_begins_nothing(self, tmp_path: Path, task: Any, said: str) -> None:
        with pytest.raises(AutopruneError, match=said) as wrong:
            searched(task(), tmp_path)
        assert isinstance(wrong.value, ConfigError | ModelError)
        assert "\n" not in str(wrong.value)
        assert not list(tmp_path.iterdir())

    def test_changes_nothing_of_the_network_and_of_randomness(self) -> None:
        made = built(regression(), **TABLES)
        before = {name: tensor.clone() for name, tensor in made.task.model.state_dict().items()}
        state = torch.get_rng_state()
        rehearse(made)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(before[name], tensor) for name, tensor in made.task.model.state_dict().items())


class TestAMetricThatFailsForFinalNetworks:
    def test_is_a_row_that_says_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        calls: list[int] = []

        def metric(model: nn.Module, split: Any) -> float:
            first = float(next(iter(split.batches(1)))[0][0, 0])
            calls.append(1)
            return float("nan") if first == float(lines(64, 2)[0][0][0]) else rmse(model, split)

        found = searched(regression(metric=metric, metric_name="rmse"), tmp_path)
        assert all(network.test is None for network in found.report.networks.values())
        assert found.report.ours.holdout is not None
        (note,) = [note for note in found.report.notes if note.startswith("No test rmse of")]
        assert note.startswith("No test rmse of dense, ours")
        assert note.endswith("the metric 'rmse' is nan; it should be a finite number.")
        assert "test rmse -, lower is better" in words.sentence(found.report)
        assert page.render(found.report)
        assert cli.main(["report", str(found.directory)]) == 0
        assert "test rmse -" in capsys.readouterr().out


class TestAFinetuneThatDiverges:
    def test_leaves_the_pruned_network_and_another_rate_may_be_tried(self, tmp_path: Path) -> None:
        """ "the training loss is nan" was all that was left of a search."""

        def steep(outputs: Tensor, targets: Tensor) -> Tensor:
            return 1e3 * nn.functional.mse_loss(outputs, targets)

        task = regression(loss=steep)
        found = searched(task, tmp_path, finetune={"epochs": 3, "batch": 32, "lr": 100.0, "clip": 1e9})
        report = found.report
        (note,) = [
            note for note in report.notes if note.startswith("The finetune of the network that was found failed")
        ]
        assert "is not finite" in note or "the training loss is" in note or "weights are not finite" in note
        assert note in words.remarks(report), "the summary shows it, too"
        assert f"autoprune resume {found.directory} --lr 10` finetunes once more." in note
        assert report.ours.holdout == pytest.approx(report.ours.searched, rel=1e-3)
        assert task.quality(found.model, task.test) == pytest.approx(-(report.ours.test or 0), rel=1e-5)
        config = (found.directory / "config.json").read_text()

        again = autoprune.resume(found.directory, task=task, lr=1e-5)
        assert not [note for note in again.report.notes if note.startswith("The finetune")]
        assert again.report.finetune["lr"] == 1e-5
        assert again.report.ours.test != report.ours.test
        assert (found.directory / "config.json").read_text() == config
        assert autoprune.resume(found.directory, task=task).report == again.report, "it is not done twice"

    def test_or_whose_data_fail_leaves_the_pruned_network(self, tmp_path: Path) -> None:
        data = Broken()

        def metric(model: nn.Module, split: Any) -> float:
            data.whole = data.whole and not thin(model)
            return rmse(model, split)

        task = dataclasses.replace(regression(metric=metric), train=data)
        found = autoprune.search(task, {"macs": 0.3}, "random", trials=2, out=tmp_path, **TABLES)
        assert any(
            note.startswith("The finetune of the network that was found failed (task sums: its split 'train': reading")
            and "img_70.png is truncated at test_users_code.py" in note
            for note in found.report.notes
        )
        assert found.report.ours.test is not None

    def test_to_a_worse_network_is_told(self, tmp_path: Path) -> None:
        def silencing(outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.square().mean()

        found = searched(regression(loss=silencing), tmp_path, finetune={"epochs": 3, "batch": 32, "lr": 0.1})
        (note,) = [note for note in found.report.notes if note.startswith("The finetune")]
        assert note.startswith("The finetune made the holdout rmse of the network that was found worse, ")
        assert note.endswith(" --lr 0.01` finetunes once more, at a lower rate.")

    @pytest.mark.parametrize("rate", ["0", "-1", "nan", "fast"])
    def test_is_not_tried_at_a_rate_that_is_none(self, rate: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["resume", "x", f"--lr={rate}"])
        assert f"'{rate}' is no learning rate; write a number above 0, such as 0.01" in capsys.readouterr().err
