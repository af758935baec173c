"""What Python users call: a search without a Task, prune, count; what the logger hears; how notebooks show things."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune import metrics
from autoprune.batches import task_of
from autoprune.command import progress
from autoprune.errors import ConfigError, PolicyError
from autoprune.splits import Samples
from autoprune.structure.trace import trace
from autoprune.testing.evaluators import toy_task
from tests.assets import mine
from tests.making import Siamese, bench, no_programs

EXAMPLE = torch.zeros(1, 1, 8, 8)


def batches(count: int = 4, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, size, 1, 8, 8, generator=generator)
    return list(zip(images, torch.randint(0, 10, (count, size), generator=generator), strict=True))


class TestDataWithoutATask:
    def test_is_cut_in_three_each_sample_once(self) -> None:
        task = task_of(mine.network(), batches(), seed=3)
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [38, 13, 13]
        parts = [next(split.batches(64))[0] for split in (task.train, task.holdout, task.test)]
        given = torch.cat([images for images, _ in batches()])
        found = torch.cat(parts)
        assert sorted(found.flatten(1).sum(1).tolist()) == sorted(given.flatten(1).sum(1).tolist())
        assert task.example.shape == (1, 1, 8, 8)
        again = next(task_of(mine.network(), batches(), seed=3).holdout.batches(64))[0]
        assert torch.equal(again, parts[1])

    def test_may_be_said_split_by_split(self) -> None:
        one, *rest = batches()
        loader = DataLoader(TensorDataset(*one), batch_size=4)
        task = task_of(mine.network(), {"train": rest, "holdout": loader, "test": TensorDataset(*one)})
        assert [len(split) for split in (task.train, task.holdout, task.test)] == [48, 16, 16]
        assert isinstance(task.train, Samples)

    def test_without_labels_is_judged_against_the_dense_network(self) -> None:
        task = task_of(mine.network(), [images for images, _ in batches()])
        assert task.judge.name == metrics.kl.title
        assert next(task.train.batches(3))[1] is None

    def test_of_two_inputs_and_of_mappings_is_taken_apart(self) -> None:
        pairs = [((torch.randn(8, 1, 9, 9), torch.randn(8, 1, 9, 9)), torch.zeros(8)) for _ in range(3)]
        task = task_of(Siamese(), pairs, metric=lambda model, split: 0.0, loss=lambda outputs, targets: outputs)
        assert [entry.shape for entry in task.example] == [(1, 1, 9, 9)] * 2
        named = [{"left": a, "right": b, "labels": y} for (a, b), y in pairs]
        assert set(task_of(Siamese(), named, metric=lambda model, split: 0.0).example) == {"left", "right"}

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (None, "data is a NoneType; a list of batches, or a DataLoader, is right"),
            ([], "data holds no batch"),
            (batches(1, 4), "data holds 4 samples; at least 10"),
            ({"trian": batches()}, "data has trian; train, holdout and test are right"),
            ({"train": TensorDataset(EXAMPLE)}, "give example=, one batch of inputs"),
            ([*batches(1), (torch.zeros(4, 1, 9, 9), torch.zeros(4))], "the batches of data do not go together"),
        ],
    )
    def test_that_will_not_do_is_one_line(self, data: object, said: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(said)):
            task_of(mine.network(), data)

    def test_beside_a_task_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"data = \.\.\. is for a network"):
            autoprune.search(mine.make(), {"macs": 0.5}, data=batches())


class TestSamples:
    def test_are_batches_drawn_by_class_and_shuffled(self) -> None:
        held = Samples((torch.arange(40.0), torch.arange(40) % 4))
        assert [len(x) for x, _ in held.batches(16)] == [16, 16, 8]
        drawn = next(held.drawn(8, 0).batches(8))[1]
        assert drawn.bincount().tolist() == [2, 2, 2, 2]
        shuffled = torch.cat([x for x, _ in held.shuffled(10, torch.Generator().manual_seed(0))])
        assert not torch.equal(shuffled, torch.arange(40.0))
        assert torch.equal(shuffled.sort().values, torch.arange(40.0))
        assert len(held.head(3)) == 3


class TestPruneAndCount:
    def test_keep_what_was_asked_and_the_dense_network(self) -> None:
        dense = mine.network()
        before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
        thin = autoprune.prune(dense, {"3": 5}, EXAMPLE)
        assert (thin[0].out_channels, thin[3].out_channels) == (8, 5)  # type: ignore[index]
        assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())
        half = autoprune.prune(dense, 0.5, EXAMPLE)
        assert (half[0].out_channels, half[3].out_channels) == (4, 6)  # type: ignore[index]
        assert half(EXAMPLE).shape == (1, 10)
        assert autoprune.count(dense, EXAMPLE) == {"macs": 60_024, "params": sum(p.numel() for p in dense.parameters())}

    def test_take_the_units_that_a_criterion_ranks_first(self) -> None:
        task = toy_task()
        ground = bench(task, autoprune.criteria.l1)
        policy = ground.space.snap([0.5] * len(ground.space))
        found = autoprune.prune(task.model, policy, task.example, criterion="l1").state_dict()
        wanted = ground.pruned(policy).model.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    @pytest.mark.parametrize(
        ("policy", "said"),
        [
            ({"2": 3}, "no choice is called '2'; there are 0, 3"),
            ({"3": 13}, "channel choice '3' with 13 of 12 units"),
            (1.0, "a sparsity of 1.0 is not in [0, 1)"),
            (autoprune.Policy((4,)), "has 2 choices, but 1 numbers were given"),
        ],
    )
    def test_refuse_what_is_no_policy(self, policy: Any, said: str) -> None:
        with pytest.raises(PolicyError, match=re.escape(said)):
            autoprune.prune(mine.network(), policy, EXAMPLE)

    def test_refuse_a_criterion_that_needs_data(self) -> None:
        with pytest.raises(ConfigError, match="criterion 'taylor' needs gradients"):
            autoprune.prune(mine.network(), 0.5, EXAMPLE, criterion="taylor")


def test_the_logger_hears_of_trials_and_nothing_is_printed(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_programs(monkeypatch)
    caplog.set_level(logging.INFO, "autoprune")
    data, over = batches(), {"finetune": {"epochs": 0}, "report": {"random_trials": 1}}
    result = autoprune.search(mine.network(), {"macs": 0.6}, "random", 2, out=tmp_path, data=data, **over)
    assert capsys.readouterr() == ("", "")
    said = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("trial ") for line in said) == 2
    assert said[0].startswith(f"{result.directory}: 0 of 2 trials, macs at most")
    assert "export" in said
    for shown in (result, result.report):
        page = shown._repr_html_()
        assert "random" in page
        assert page.count("<tr>") == 1 + len(result.report.networks)


def test_spaces_and_traces_show_themselves_and_escape_names() -> None:
    found = trace(mine.network(), EXAMPLE)
    assert "frozen: it is the network&#x27;s output" in found._repr_html_()
    space = autoprune.SearchSpace("<b>", (autoprune.Choice("<i>", (1, 2)),) * 40)
    page = space._repr_html_()
    assert "<b>&lt;b&gt;" not in page
    assert "&lt;i&gt;" in page
    assert "and 10 more" in page


@pytest.mark.parametrize(("shell", "watched"), [("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)])
def test_notebooks_are_watched(shell: str, watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("IPython")
    fake.get_ipython = type(shell, (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert progress.is_watched() == watched


def test_a_network_is_no_search_space() -> None:
    with pytest.raises(ConfigError, match="data is a NoneType"):
        autoprune.search(nn.Linear(2, 2), {"macs": 0.5})


@pytest.mark.usefixtures("clock_of_steps")
def test_a_name_stands_for_a_table_and_a_time_for_trials(tmp_path: Path) -> None:
    """A criterion by its name was "no object", where a controller's was one."""
    quick: dict[str, Any] = {"finetune": {"epochs": 0}, "report": {"random_trials": 1, "fidelity": 0, "rules": False}}
    found = autoprune.search(
        mine.make(), {"macs": 0.5}, "random", time="4s", out=tmp_path, criterion="l1", progress=False, **quick
    )
    assert found.report.plugins["criterion"] == "l1"
    before, spent = next(iter(found.report.stages.items()))
    assert before == "before the search"
    assert spent > 0
    asked = json.loads((found.directory / "config.json").read_text())["search"]
    assert (asked["time"], asked["trials"]) == (4.0, 1_000_000)


@pytest.mark.parametrize("given", [mine.make, {"use": mine.make}])
@pytest.mark.parametrize("table", ["criterion", "controller", "reward"])
def test_a_plugin_is_given_by_its_address(table: str, given: Any, tmp_path: Path) -> None:
    """A function itself was "no object", and in a table "no criterion is called <function ...>"."""
    said = rf"{table} is 'make' itself, which no file can hold; write its address, '{Path(mine.__file__).name}:make'"
    with pytest.raises(ConfigError, match=said):
        autoprune.search(mine.make(), {"macs": 0.5}, out=tmp_path, **{table: given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trails", "search(...) takes no 'trails'; did you mean 'trials'?"),
        ("finetun", "search(...) takes no 'finetun'; did you mean 'finetune'?"),
        ("metric", "metric = ... is for a network; a Task has its own"),
        ("zzz", "search(...) takes no 'zzz'"),
    ],
)
def test_an_unknown_argument_is_named_with_the_one_that_was_meant(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        autoprune.search(mine.make(), {"macs": 0.5}, **{word: 5})
