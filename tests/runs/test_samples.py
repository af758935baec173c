"""What is looked at before a search begins: what does not fit is one line that names it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from autoprune import config, plugins
from autoprune.criteria import group_norm
from autoprune.errors import ConfigError, ModelError
from autoprune.evaluators.finetune import Finetune
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.recovery.scorer import CountsAll, scorer
from autoprune.metrics import kl
from autoprune.report import words
from autoprune.runs import samples, study
from autoprune.runs.study import GIVEN, Study
from autoprune.splits import Batch
from autoprune.task import Task
from autoprune.testing.evaluators import toy_images, toy_task
from autoprune.train import Recipe, train
from autoprune.values.trial import score_of_all
from tests.making import bench, done, metric

ROOT = Path(__file__).parents[2]


def lines(count: int = 64, seed: int = 0) -> TensorDataset:
    """A regression: the sum of four numbers."""
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def rmse(model: nn.Module, split: Any) -> float:
    with torch.inference_mode():
        errors = [(model(inputs) - targets).square() for inputs, targets in split.batches(64)]
    return float(torch.cat(errors).mean().sqrt())


def regression(**more: Any) -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    settings = {"metric": rmse, "lower_is_better": True, "loss": nn.functional.mse_loss, "name": "sums", **more}
    return Task(model, torch.zeros(1, 4), lines(128), lines(64, 1), lines(64, 2), **settings)  # type: ignore[arg-type]


def built(task: Task, **tables: Any) -> Study:
    asked = {"name": "mine", "task": {"use": GIVEN}, "budget": {"macs": "50%"}, **tables}
    return study.build(config.parse(asked, "test"), task=task, found={"precision": "fp32", "draws": "stratified"})


def one_line(wrong: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(wrong.value)
    return str(wrong.value)


class TestALook:
    def test_a_regression_without_a_metric_is_no_search_on_top_1_of_0_percent(self) -> None:
        with pytest.raises(
            ConfigError, match=r"top-1, is of .* outputs float32 \(64, 1\) and targets float32 \(64, 1\)"
        ) as said:
            built(regression(metric=autoprune.task.top1, lower_is_better=False))
        assert "lower_is_better" in one_line(said)

    @pytest.mark.parametrize("name", ["train", "holdout", "test"])
    def test_a_split_that_the_network_does_not_take_is_named(self, name: str) -> None:
        task = dataclasses.replace(regression(), **{name: TensorDataset(torch.zeros(9, 5), torch.zeros(9, 1))})
        with pytest.raises(
            ModelError, match=rf"its split '{name}' gives inputs float32 \(2, 5\), but the example is"
        ) as said:
            built(task).rehearse()
        one_line(said)

    def test_a_collation_that_fails_is_named(self) -> None:
        ragged = [(torch.zeros(n), n) for n in range(1, 9)]
        with pytest.raises(
            ConfigError, match=r"split 'train' gives no batch of 2 \(RuntimeError: stack expects each"
        ) as said:
            samples.looked_at(dataclasses.replace(regression(), train=ragged))  # type: ignore[arg-type]
        one_line(said)

    def test_a_split_of_ones_own_gives_pairs(self) -> None:
        class Triples:
            def __len__(self) -> int:
                return 9

            def batches(self, size: int) -> Iterator[Any]:
                yield torch.zeros(size, 4), torch.zeros(size), 3

            def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Any]:
                yield from self.batches(size)

            def head(self, count: int) -> Triples:
                return self

        with pytest.raises(ConfigError, match=r"'train' gives \(float32 \(2, 4\), float32 \(2,\), int\); a pair"):
            samples.looked_at(dataclasses.replace(regression(), train=Triples()))

    def test_targets_that_the_loss_does_not_take_are_named(self) -> None:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            raise ValueError("expected boxes\nof four")

        with pytest.raises(
            ConfigError, match=r"targets float32 \(2, 1\), on which the loss fails .ValueError: exp"
        ) as said:
            built(regression(loss=loss)).rehearse()
        one_line(said)
        built(regression(loss=loss), finetune={"epochs": 0}).rehearse()  # then it is not asked for

    def test_a_loss_for_each_sample_is_no_loss(self) -> None:
        with pytest.raises(ConfigError, match=r"its loss gives float32 \(2, 1\); one number that has a gradient"):
            built(regression(loss=lambda outputs, targets: (outputs - targets) ** 2)).rehearse()

    def test_a_metric_that_needs_many_samples_may_have_them(self) -> None:
        def needs_all(model: nn.Module, split: Any) -> float:
            if len(split) < 200:
                raise ValueError("only one class is present")
            return 0.5

        samples.looked_at(dataclasses.replace(toy_task(), metric=needs_all))

    def test_a_metric_that_fails_on_the_dense_network_is_told_before_a_search(self) -> None:
        with pytest.raises(
            ConfigError, match=r"task toy: the metric '<lambda>' is nan; .* for the dense network on the holdout"
        ):
            samples.looked_at(dataclasses.replace(toy_task(), metric=lambda model, split: float("nan")))

    @pytest.mark.parametrize("change", [lambda model: model.train(), lambda model: model.half().float()])
    def test_a_metric_that_changes_the_network_is_told_before_a_search(self, change: Any) -> None:
        def changing(model: nn.Module, split: Any) -> float:
            change(model)
            with torch.inference_mode():
                return float(model(next(iter(split.batches(64)))[0]).mean())

        with pytest.raises(ConfigError, match=r"'changing' changes the network that it judges .*; a metric that"):
            samples.looked_at(dataclasses.replace(toy_task(), metric=changing))

    def test_nothing_of_the_network_changes(self) -> None:
        task = toy_task()
        task.model.train()
        samples.looked_at(task)
        samples.require_loss(task, "a test")
        assert all(module.training for module in task.model.modules())
        assert all(p.grad is None for p in task.model.parameters())


class TestWithoutLabels:
    def task(self, **more: Any) -> Task:
        images = [inputs for inputs, _ in toy_images(256, 4).batches(1)]
        inputs = torch.cat(images)
        settings = {"train": inputs, "holdout": inputs[:100], "metric": kl, **more}
        return dataclasses.replace(toy_task(), **settings)

    @pytest.mark.parametrize("kind", [Recalibrate, Reconstruct])
    @pytest.mark.parametrize("train", [True, False], ids=["inputs", "no training split"])
    def test_networks_are_recovered_and_scored(self, kind: Any, train: bool) -> None:
        task = self.task() if train else self.task(train=None)
        ground = bench(task, group_norm, shortcuts=False)
        settings = {"images": 100} if kind is Reconstruct else {}
        scores = [metric(kind(ground, **settings), ground.space.snap([s] * len(ground.space))) for s in (0.0, 0.6)]
        assert scores[1] < scores[0] <= 1e-6

    @pytest.mark.parametrize(
        ("tables", "said"),
        [
            ({}, r"\[finetune\] epochs = 4; write epochs = 0"),
            ({"finetune": {"epochs": 0}, "evaluator": {"use": "finetune"}}, "evaluator 'finetune'; take 'recalibrate'"),
            ({"finetune": {"epochs": 0}, "criterion": {"use": "taylor"}}, "criterion 'taylor'; take 'group_norm'"),
        ],
        ids=["finetune", "evaluator", "criterion"],
    )
    def test_what_is_lost_is_said_where_it_is_asked_for(self, tables: Any, said: str) -> None:
        with pytest.raises(ConfigError, match=f"split 'train' has no labels, which are needed for {said}"):
            samples.require_loss(self.task(), built(self.task(), **tables)._asks_for_the_loss())
        with pytest.raises(ConfigError, match=f"task toy has no training split, which is needed for {said}"):
            samples.require_loss(self.task(train=None), built(self.task(train=None), **tables)._asks_for_the_loss())

    def test_nothing_is_asked_for_without_a_finetune(self) -> None:
        assert not built(self.task(), finetune={"epochs": 0})._asks_for_the_loss()
        assert not built(self.task(), finetune={"distill": 1.0})._asks_for_the_loss()

    def test_the_dense_network_alone_teaches(self) -> None:
        ground = bench(self.task(), group_norm, shortcuts=False)
        policy = ground.space.snap([0.5] * len(ground.space))
        taught, left = (Finetune(ground, steps=steps, distill=1.0, batch=64, lr=0.1) for steps in (30, 0))
        assert metric(taught, policy) > metric(left, policy)


def test_a_holdout_sorted_by_class_is_drawn_from() -> None:
    """The first 40 were all of one class."""
    task = toy_task()
    order = task.holdout.labels.argsort()  # type: ignore[attr-defined]
    images = dataclasses.replace(task.holdout, images=task.holdout.images[order], labels=task.holdout.labels[order])  # type: ignore
    ground = bench(dataclasses.replace(task, holdout=images), group_norm, shortcuts=False)
    evaluator = Recalibrate(ground, holdout=40)
    found = scorer(ground, evaluator, evaluator._fast.recovery, evaluator.realise)
    assert isinstance(found, CountsAll)
    ((_, labels),) = found.judges.batches(40)
    shares, wanted = labels.bincount(minlength=4), images.labels.bincount() * 40 / 200
    assert ((shares - wanted).abs() <= 1).all()


def test_a_run_from_before_draws_goes_on_with_the_first_ones() -> None:
    task = toy_task()
    old, new = (samples.as_begun(task, found).holdout for found in ({"precision": "fp32"}, {"draws": "stratified"}))
    assert torch.equal(autoprune.splits.draw(old, 40, 0).labels, task.holdout.labels[:40])  # type: ignore[attr-defined]
    assert new is task.holdout


def test_a_score_that_is_the_same_for_all_is_noticed() -> None:
    space = bench(toy_task(), group_norm).space
    policies = [space.snap([s / 20] * len(space)) for s in range(12)]
    trials = [done(n, policy, 0.25) for n, policy in enumerate(policies)]
    assert score_of_all(trials) == 0.25
    assert score_of_all([*trials[:10], done(10, policies[10], 0.5)]) == 0.25
    assert score_of_all([done(0, policies[0], 0.5), *trials[1:]]) is None
    assert score_of_all([done(n, policies[0], 0.25) for n in range(12)]) is None, "one policy again and again"


def test_a_metric_where_lower_is_better_is_printed_as_its_user_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autoprune.command.cli import main

    tables = {"finetune": {"epochs": 1, "batch": 32}, "report": {"random_trials": 2, "fidelity": 0}}
    found = autoprune.search(
        regression(),
        {"macs": 0.7},
        "random",
        trials=5,
        out=tmp_path,
        evaluator={"use": "recalibrate", "images": 0},
        **tables,
    )
    journal = [json.loads(line) for line in (found.directory / "trials.jsonl").read_text().splitlines()[1:]]
    best = max(journal, key=lambda trial: trial["metric"])
    written = json.loads((found.directory / "report.json").read_text())
    assert best["metric"] < 0, "inside, higher is better"
    assert written["trials"][best["number"]]["metric"] == -best["metric"]
    assert written["best"] == best["number"]
    assert (written["metric_name"], written["lower_is_better"], written["in_percent"]) == ("rmse", True, False)
    assert found.report.ours.searched == -best["metric"] > 0
    assert json.loads((found.directory / "policy.json").read_text())["metric"] == -best["metric"]
    front = found.report.front("macs")
    assert [t.metric for t in front] == sorted((t.metric for t in front), reverse=True)  # type: ignore[type-var]
    page = (found.directory / "report.html").read_text()
    assert "rmse ↓" in page
    assert "lower is better" in page
    assert "-" + words.number(found.report.ours.test, percent=False) not in page
    main(["report", str(found.directory)])
    said = capsys.readouterr().out
    assert re.search(r"test rmse [\d.]+, lower is better, dense [\d.]+ \(", said)


@pytest.mark.parametrize("own", [False, True], ids=["logits", "a loss of its own"])
def test_a_model_of_transformers_is_judged_and_trained_as_it_is(own: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **sizes)).eval()
    data = [{"input_ids": [n % 50, 1, 2], "attention_mask": [1, 1, 0], "labels": n % 2} for n in range(32)]
    example = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3).long()}
    settings: dict[str, Any] = {}
    if own:
        example["labels"] = torch.tensor([1])
        settings = {"loss": lambda outputs, targets: outputs.loss}
    task = Task(model, example, data, data, data, **settings)  # type: ignore[arg-type]
    samples.looked_at(task)
    samples.require_loss(task, "a test")
    assert task.quality(model, task.holdout) == 0.5
    assert dataclasses.replace(task, metric=kl).quality(model, task.holdout) == pytest.approx(0, abs=1e-6)
    before = model.classifier.weight.clone()
    train(model, task.train, task.loss, Recipe(steps=3, batch=16, lr=0.1), seed=0)
    assert not torch.equal(before, model.classifier.weight)


PROJECT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset, WeightedRandomSampler

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
forecaster = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
one_batch = torch.zeros(1, 6)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return {"logits": self.head(torch.relu(self.hidden((self.embed(input_ids) * weights).sum(1))))}


classifier = Text()
sentences = {
    part: [{"input_ids": [n % 9, 1, 2], "attention_mask": [1, 1, 0], "label": n % 2} for n in range(40)]
    for part in ("train", "holdout", "test")
}


def collate(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])
"""
CLASSES = "\ntrain_set = holdout_set = test_set = TensorDataset(torch.randn(60, 6), torch.arange(60) % 3)\n"
NUMBERS = "\ntrain_set = holdout_set = test_set = TensorDataset(torch.randn(60, 6), torch.randn(60, 1))\n"
REST = "sampler = WeightedRandomSampler([1.0] * 60, 60)\n"


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
@pytest.mark.parametrize("name", ["my_loaders", "my_text", "my_regression"])
def test_what_the_guide_shows_works_as_it_stands_there(
    name: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(rf"```python\n(# {name}\.py\n.*?)```", (ROOT / page).read_text(), re.DOTALL)
    body = code.split("def ", 1)[1]
    assert len(body.strip().splitlines()) <= 15
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "my_project.py").write_text(PROJECT + (NUMBERS if name == "my_regression" else CLASSES) + REST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_project", raising=False)
    task = plugins.build("task", {"use": f"{tmp_path}/{name}.py:make"})
    made = built(task, evaluator={"use": "recalibrate", "images": 0}, finetune={"epochs": 1, "batch": 20})
    made.rehearse()
    trial = made.attempt(0, made.space.snap([0.5] * len(made.space)))
    assert trial.metric is not None, trial.error
    assert task.judge.name == ("rmse" if name == "my_regression" else "top-1")
    batch: Batch = next(task.train.shuffled(20, torch.Generator().manual_seed(0)))
    assert batch[1] is not None
