"""The finetune as users train: parts and whole loops of their own; the examples of docs/training.md run here."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune import config
from autoprune.command.cli import main
from autoprune.copies import copied
from autoprune.errors import ConfigError, TrialFailed, Untrusted
from autoprune.finetuning import check, finetune, takes_data, teacher_of
from autoprune.runs import rehearsal, study
from autoprune.task import Task
from autoprune.train import Recipe, train
from autoprune.trust import named, restored
from tests.assets import mine
from tests.making import SMALL_SEARCH, small_bert

DOCS = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
RECIPE = Recipe(steps=3, batch=32, lr=0.05, distill=0.5, epochs=1.0)


@pytest.fixture(autouse=True)
def _examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the page, in the folder where tests run."""
    monkeypatch.chdir(tmp_path)
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCS, re.DOTALL):
        (tmp_path / name).write_text(code)


@pytest.fixture
def task() -> Task:
    return mine.make()


def written(code: str) -> str:
    Path("own.py").write_text(code)
    return "own.py:loop"


def loss_of(model: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float(sum(functional.cross_entropy(model(x), y) for x, y in task.train.batches(256)))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestParts:
    @pytest.mark.parametrize(
        "over",
        [
            {"optimizer": "adamw", "lr": 0.01},
            {"optimizer": "my_parts.py:optimizer", "lr": 0.01},
            {"optimizer": "torch.optim:RAdam", "lr": 0.01},
            {"schedule": "linear"},
            {"schedule": "constant"},
            {"schedule": "my_parts.py:schedule"},
            {"teacher": "my_parts.py:teacher"},
            {"precision": "bf16"},
        ],
        ids=str,
    )
    def test_of_ones_own_train_otherwise_and_the_same_each_time(self, task: Task, over: dict[str, object]) -> None:
        usual, one, again = (copied(task.model) for _ in range(3))
        recipe = dataclasses.replace(RECIPE, **over)  # type: ignore[arg-type]
        check(recipe)
        finetune(usual, task, RECIPE, seed=0)
        finetune(one, task, recipe, seed=0)
        finetune(again, task, recipe, seed=0)
        assert same(one, again)
        assert not same(one, usual)
        assert loss_of(one, task) < loss_of(task.model, task)

    def test_accumulation_is_the_same_step_in_parts(self, task: Task) -> None:
        """Without BatchNorm, whose statistics are a part's, the mean of the parts' gradients is the batch's."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        whole, parts = copied(network), copied(network)
        recipe = Recipe(steps=3, batch=32, lr=0.05)
        train(whole, task.train, task.loss, recipe, seed=0)
        train(parts, task.train, task.loss, dataclasses.replace(recipe, accumulate=4), seed=0)
        assert torch.allclose(whole[1].weight, parts[1].weight, atol=1e-6)  # type: ignore[index]

    def test_a_teacher_stays_as_it_is_and_where_the_network_is(self, task: Task) -> None:
        made = teacher_of(task, dataclasses.replace(RECIPE, teacher="my_parts.py:teacher"))
        assert not any(p.requires_grad for p in made.parameters())
        assert not made.training

    @pytest.mark.parametrize(
        ("over", "said"),
        [
            ({"optimizer": "adam"}, "no optimizer is called 'adam'; sgd, adamw, or file.py:function is right"),
            ({"optimizer": "my_parts.py:schedule"}, "the optimizer 'my_parts.py:schedule' fails (TypeError"),
            ({"optimizer": "my_parts.py:none"}, "my_parts.py has no 'none'"),
            ({"schedule": "cos"}, "no schedule is called 'cos'; cosine, linear, constant, or file.py:function"),
            ({"teacher": "resnet"}, "no teacher is called 'resnet'; file.py:function is right"),
            ({"use": "lightning"}, "no finetune is called 'lightning'; file.py:function is right"),
        ],
    )
    def test_that_are_none_are_refused_before_data_are_read(self, over: dict[str, str], said: str) -> None:
        with pytest.raises((ConfigError, TrialFailed), match=re.escape(said)):
            check(dataclasses.replace(RECIPE, **over))  # type: ignore[arg-type]

    def test_more_parts_than_samples_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="accumulate = 9 parts of batch = 8 samples"):
            config.find(f"{mine.__file__}:make", {"finetune": {"batch": 8, "accumulate": 9}})


class TestLoop:
    def test_of_the_page_trains_in_place_and_by_the_seed(self, task: Task) -> None:
        recipe = dataclasses.replace(RECIPE, use="my_loop.py:finetune", epochs=3.0)
        one, again = copied(task.model), copied(task.model)
        state = torch.get_rng_state()
        finetune(one, task, recipe, seed=1)
        finetune(again, task, recipe, seed=1)
        assert same(one, again)
        assert torch.equal(state, torch.get_rng_state())
        assert loss_of(one, task) < loss_of(task.model, task)
        assert not one.training
        assert all(p.grad is None for p in one.parameters())

    def test_is_told_what_it_names(self, task: Task) -> None:
        code = "def loop(model, epochs, lr, batch, seed, watch, teacher, loss, train, extra=3):\n"
        code += "    assert (epochs, lr, batch, seed, extra) == (2, 0.05, 32, 7, 3) and type(epochs) is int\n"
        code += "    assert teacher is not model and len(train) == 256\n    watch(1, 0.5)\n"
        told = list[tuple[int, float]]()
        recipe = dataclasses.replace(RECIPE, use=written(code), epochs=2.0)
        finetune(copied(task.model), task, recipe, seed=7, watch=lambda done, loss: told.append((done, loss)))
        assert told == [(1, 0.5)]

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("def loop(model): raise ValueError('no')", "the finetune 'own.py:loop' fails (ValueError: no at own.py"),
            (
                "import copy\ndef loop(model): return copy.deepcopy(model)",
                "returns a Sequential; it trains its network in place",
            ),
            ("def loop(model): model[0] = model[0].__class__(1, 4, 3)", "changes the network's layers"),
            ("def loop(model): model[0].weight.data.fill_(float('nan'))", "the weights are not finite after the fine"),
            ("def loop(): pass", "takes nothing; its first argument is the network"),
            ("def loop(model, optimizer): pass", "takes 'optimizer'; there are epochs, task, train"),
        ],
    )
    def test_that_goes_wrong_is_one_line(self, task: Task, code: str, said: str) -> None:
        recipe = dataclasses.replace(RECIPE, use=written(code))
        with pytest.raises((ConfigError, TrialFailed), match=re.escape(said)):
            finetune(copied(task.model), task, recipe, seed=0)

    def test_is_tried_on_a_part_before_a_search(self, task: Task) -> None:
        code = "import pathlib\ndef loop(model, epochs, train):\n"
        code += "    seen = sum(len(y) for _, y in train.batches(9))\n"
        code += "    pathlib.Path('seen').write_text(f'{epochs} {seen}')\n"
        tables = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, "finetune": {"epochs": 5}}
        tables["finetune"] = {"use": written(code), "epochs": 5}
        built = study.build(config.parse(tables, "test"), task=task, found={"precision": "fp32"})
        rehearsal._one_step(built)
        assert Path("seen").read_text() == "1 8"
        assert takes_data(built.finetune)

    def test_with_data_of_its_own_is_tried_without_an_epoch(self, task: Task) -> None:
        code = "import pathlib\ndef loop(model, epochs): pathlib.Path('seen').write_text(str(epochs))\n"
        tables = {"name": "mine", "task": {"use": study.GIVEN}, "finetune": {"use": written(code), "epochs": 5}}
        built = study.build(config.parse(tables, "test"), task=task, found={"precision": "fp32"})
        rehearsal._one_step(built)
        assert Path("seen").read_text() == "0"

    def test_is_named_in_the_file_from_there(self) -> None:
        Path("sub").mkdir()
        Path("sub/s.toml").write_text('[task]\nuse = "t.py:make"\n[finetune]\nuse = "l.py:f"\nteacher = "l.py:t"\n')
        found = config.read(Path("sub/s.toml")).finetune
        assert found.use == str(Path("sub/l.py:f").absolute())
        assert found.teacher == str(Path("sub/l.py:t").absolute())


class TestTrust:
    @pytest.mark.parametrize("key", ["use", "optimizer", "schedule", "teacher"])
    def test_is_asked_of_files_that_name_code(self, key: str) -> None:
        kind = "finetune" if key == "use" else key
        tables = {"task": {"use": "fashion_mnist"}, "finetune": {key: "my_parts.py:teacher"}}
        with pytest.raises(Untrusted, match=re.escape(f"would run the {kind} 'my_parts.py:teacher'")):
            restored(tables, "policy.json")
        assert restored(tables, "policy.json", trust=["my_parts.py:teacher"]).finetune
        assert not list(named(config.parse({"task": {"use": "fashion_mnist"}}, "x")))


@pytest.mark.slow  # a whole search with its exports
def test_a_search_finetunes_by_it_and_apply_does_so_again(capsys: pytest.CaptureFixture[str]) -> None:
    loop = str(Path("my_loop.py").absolute()) + ":finetune"
    space = SMALL_SEARCH.replace("epochs = 0", f"epochs = 1\nuse = '{loop}'")
    Path("mine.toml").write_text(space)
    assert main(["search", "mine.toml", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finetune"]["use"] == loop
    assert found["finetune"]["steps"] > 0
    assert main(["apply", f"{found['directory']}/policy.json", "--quiet"]) == 0
    assert f"It was finetuned: {loop}, 1 epochs." in capsys.readouterr().out


def test_a_lightning_module(task: Task) -> None:
    pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")
    model = copied(task.model)
    recipe = dataclasses.replace(RECIPE, use="my_lightning.py:finetune", epochs=2.0, lr=0.01)
    finetune(model, task, recipe, seed=0)
    assert loss_of(model, task) < loss_of(task.model, task)


def test_a_hugging_face_trainer() -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    network, inputs = small_bert()
    rows = [({name: entry[:1].squeeze(0) for name, entry in inputs.items()}, torch.tensor(at % 3)) for at in range(16)]
    data = {"train": rows, "holdout": rows, "test": rows}
    made = Task(network, {name: entry[:2] for name, entry in inputs.items()}, **data)
    model = copied(network)
    finetune(model, made, dataclasses.replace(RECIPE, use="my_trainer.py:finetune", lr=1e-3), seed=0)
    assert not same(model, network)
    assert model.training is False
