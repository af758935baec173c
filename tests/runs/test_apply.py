"""A whole run with shared weights, stopped anywhere; and any point of a run's front as a network."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import autoprune
from autoprune import Task, api, config, finetuning
from autoprune.command import cli
from autoprune.errors import ConfigError, ModelError, PolicyError, RunError
from autoprune.evaluators.recovery.careful import Careful
from autoprune.evaluators.recovery.panel import Panel
from autoprune.evaluators.shared import resumable_training as course
from autoprune.protocols import Trains
from autoprune.runs import journal as run, study
from autoprune.runs.apply import apply_point, apply_policy
from autoprune.runs.lines import head
from autoprune.runs.rules import Rules
from autoprune.structure.prune import Candidate
from autoprune.task import top1
from autoprune.testing.evaluators import toy_images
from tests import ASSETS
from tests.assets.mine import split

MINE = ASSETS / "mine.py"
SPACE = f"""
[task]
use = "{MINE}:make"
[budget]
macs = "50%"
[evaluator]
use = "pruningnet"
epochs = 2.0
batch = 64
images = 64
[controller]
use = "genetic"
population = 4
mutations = 2
crossovers = 2
[search]
trials = 6
[finetune]
start = "scratch"
epochs = 1.0
batch = 64
[report]
random_trials = 2
fidelity = 0
"""
GENETIC = 'use = "genetic"\npopulation = 4\nmutations = 2\ncrossovers = 2'
FRONT = SPACE.replace('macs = "50%"', "").replace('use = "pruningnet"', 'use = "supernet"')
FRONT = FRONT.replace(GENETIC, 'use = "nsga2"\npopulation = 4')


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search space beside which nothing else lies; commands run in its folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(SPACE)
    return path


def searched(space: Path) -> Path:
    assert cli.main(["search", str(space)]) == 0
    return only_run(space)


def only_run(space: Path) -> Path:
    found = list((space.parent / "runs").glob("*/*"))
    assert len(found) == 1
    return found[0]


def journal(directory: Path) -> list[Any]:
    lines = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()[1:]]
    return [(line["policy"], line["metric"]) for line in lines]


def test_a_run_keeps_its_weights_and_says_what_they_are(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = searched(space)
    assert (directory / "pruningnet.safetensors").is_file()
    notes = json.loads((directory / "report.json").read_text())["notes"]
    assert any("weights of a pruningnet" in note for note in notes)
    assert "at equal training" in capsys.readouterr().out


@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_a_run_that_is_stopped_while_it_trains_goes_on(
    step: int, space: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(course, "KEPT", 2)
    made = course.Course.stream

    def stopping(it: course.Course, at: int) -> Any:
        if at == step:
            raise KeyboardInterrupt
        return made(it, at)

    with monkeypatch.context() as patched:
        patched.setattr(course.Course, "stream", stopping)
        status = cli.main(["search", str(space)])
    stopped = only_run(space)
    assert status == 130
    assert f"autoprune resume {stopped.relative_to(space.parent)}" in capsys.readouterr().err
    assert cli.main(["resume", str(stopped)]) == 0
    whole = space.parent / "whole.toml"
    whole.write_text(SPACE)
    assert cli.main(["search", str(whole)]) == 0
    other = next(path for path in (space.parent / "runs").glob("*/*") if path != stopped)
    assert journal(stopped) == journal(other)
    weights = [safetensors.torch.load_file(run / "pruningnet.safetensors") for run in (stopped, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_policy_of_shared_weights_needs_their_file(space: Path) -> None:
    directory = searched(space)
    again = apply_policy(directory)
    kept = json.loads((directory / "best.json").read_text())["choices"]
    assert [m.out_channels for m in again.modules() if isinstance(m, torch.nn.Conv2d)] == [g["kept"] for g in kept]
    (directory / "pruningnet.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pruningnet.safetensors cannot be read \(No such file"):
        apply_policy(directory)
    assert not (directory / "pruningnet.safetensors").exists()  # none was trained


def test_a_policy_within_limits_of_its_own_is_applied(space: Path) -> None:
    space.write_text(SPACE + "[space]\nmax_sparsity = 0.5\nstep = 2\n")
    directory = searched(space)
    kept = json.loads((directory / "best.json").read_text())["choices"]
    again = apply_policy(directory / "policy.json")
    assert [m.out_channels for m in again.modules() if isinstance(m, torch.nn.Conv2d)] == [g["kept"] for g in kept]


def test_a_policy_of_half_trained_weights_is_refused_and_nothing_is_trained(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = searched(space)
    monkeypatch.setattr(course, "KEPT", 2)
    file = directory / "pruningnet.safetensors"
    file.unlink()
    evaluator = study.build(config.read(space)).evaluator
    assert isinstance(evaluator, Trains)
    with pytest.raises(KeyboardInterrupt):
        evaluator.prepare(directory, stopping)
    before = file.read_bytes()
    for apply in (lambda: apply_policy(directory), lambda: apply_point(directory, {"macs": "100%"})):
        with pytest.raises(ModelError, match=r"only for 4 of 8 steps; go on with its run first"):
            apply()
    assert file.read_bytes() == before


def stopping(what: str, done: int, of: int) -> None:
    if done == 4:
        raise KeyboardInterrupt


def test_what_can_never_work_is_refused_before_there_is_a_run(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        'use = "pruningnet"\nweights = "gone"': "gone cannot be read (No such file",
        'use = "supernet"\ndistill = 2.0': "setting 'distill' is 2.0: a number from 0 to 1 is right",
    }
    for written, message in cases.items():
        space.write_text(SPACE.replace('use = "pruningnet"', written))
        assert cli.main(["search", str(space)]) == 2
        assert message in capsys.readouterr().err
    space.write_text(SPACE.replace('start = "scratch"\nepochs = 1.0', 'start = "scratch"\nepochs = 0.0'))
    assert cli.main(["search", str(space)]) == 2
    assert 'epochs = 0 would leave the networks of start = "scratch" untrained' in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_network_that_cannot_be_trained_anew_is_refused_before_there_is_a_run(space: Path) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.scale = inner, torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x) * self.scale
            return found

    task = study.build(config.read(space)).task
    scaled = dataclasses.replace(task, model=Scaled(task.model))
    with pytest.raises(ModelError, match="cannot be trained from scratch: it has parameters and no reset_parameters"):
        api.search(scaled, {"macs": 0.5}, "random", 2, finetune={"start": "scratch", "epochs": 1})
    assert not Path("runs").exists()


def test_a_run_that_was_begun_before_a_setting_existed_goes_on(space: Path) -> None:
    directory = searched(space)
    written = json.loads((directory / "config.json").read_text())
    space.write_text(SPACE.replace('start = "scratch"', ""))
    del written["finetune"]["start"], written["target"]
    (directory / "config.json").write_text(json.dumps(written))
    lines = (directory / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "trials.jsonl").write_bytes(b"".join([head(run._hashed(directory)), *lines[1:]]))
    before = journal(directory)
    assert cli.main(["resume", str(directory), "--trials", "7"]) == 0
    assert journal(directory)[:6] == before


def test_a_finished_run_trains_nothing_again(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = searched(space)
    (directory / "pruningnet.safetensors").unlink()
    monkeypatch.setattr(course.Course, "run", lambda *a, **k: pytest.fail("it trained"))
    assert cli.main(["resume", str(directory)]) == 0


def test_more_trials_of_a_finished_run_take_up_what_was_trained(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = searched(space)
    prepared = list[Path]()
    prepare = study.Study.prepare
    told = lambda self, folder, watch: (prepared.append(folder), prepare(self, folder, watch))[1]  # noqa: E731
    monkeypatch.setattr(study.Study, "prepare", told)
    assert cli.main(["resume", str(directory), "--trials", "8"]) == 0
    assert prepared == [directory]


def test_training_from_scratch_forgets_what_was_searched(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarted = list[int]()
    restart = finetuning.restart
    monkeypatch.setattr(finetuning, "restart", lambda model, seed: (restarted.append(seed), restart(model, seed))[1])
    searched(space)
    assert restarted  # once for each different policy
    assert set(restarted) == {0}


def test_a_network_of_nan_is_refused_and_nothing_is_written(
    space: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(SPACE.replace('use = "pruningnet"', 'use = "recalibrate"').replace("epochs = 2.0", "", 1))
    directory = searched(space)
    recover = Careful.recover

    def broken(self: Careful, candidate: Candidate) -> Candidate:
        recovered = recover(self, candidate)
        with torch.no_grad():
            next(recovered.model.parameters()).fill_(torch.nan)
        return recovered

    monkeypatch.setattr(Careful, "recover", broken)
    assert cli.main(["apply", str(directory), "--out", "broken.safetensors"]) != 0
    assert "not finite" in capsys.readouterr().err
    assert not Path("broken.safetensors").exists()


def test_rehearsing_trains_nothing(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course.Course, "run", lambda *a, **k: pytest.fail("it trained"))
    study.build(config.read(space)).rehearse()


class TestPoints:
    @pytest.fixture
    def front(self, space: Path) -> Path:
        """A finished run without a budget."""
        space.write_text(FRONT)
        return searched(space)

    def test_takes_the_best_that_costs_no_more(self, front: Path) -> None:
        built = study.build(config.read(Path("mine.toml")))
        macs, dense = built.costs["macs"], built.dense["macs"]
        trials = run.trials(front, Rules(built.space))
        costs = sorted(macs.predict(t.policy) / dense for t in trials)
        for ceiling in (costs[0], costs[3], 1.0):
            point = apply_point(front, {"macs": ceiling})
            fitting = [t for t in trials if macs.predict(t.policy) / dense <= ceiling + 1e-12]
            assert point.trial in fitting
            assert point.trial.metric == max(t.metric or 0.0 for t in fitting)
            assert point.shares["macs"] <= ceiling
            counted = macs.measure(point.model, built.task.example) / dense
            assert counted == pytest.approx(point.shares["macs"])

    def test_on_the_command_line(self, front: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(front), "--at", "macs=100%", "--at", "params=100%"]) == 0
        said = capsys.readouterr().out
        assert "of the macs" in said
        assert "of the params" in said
        assert safetensors.torch.load_file("pruned.safetensors")

    def test_a_network_that_is_there_is_not_lost(self, front: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A second apply wrote over what the first had finetuned, unless --out said something else."""
        Path("pruned.safetensors").write_bytes(b"yesterday's")
        assert cli.main(["apply", str(front), "--at", "macs=100%"]) == 2
        assert "is there already, and is not written over; --out FILE names another" in capsys.readouterr().err
        assert Path("pruned.safetensors").read_bytes() == b"yesterday's"
        assert cli.main(["apply", str(front), "--at", "macs=100%", "--out", "pruned.safetensors"]) == 0
        assert safetensors.torch.load_file("pruned.safetensors")

    def test_is_what_the_summary_advises(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`--at macs=40%` stood there, whatever the run was of."""
        quick = FRONT.replace('use = "supernet"\nepochs = 2.0\nbatch = 64\nimages = 64', f'use = "{MINE}:Careful"')
        space.write_text(quick)
        directory = searched(space)
        capsys.readouterr()
        assert cli.main(["report", str(directory)]) == 0
        advice = re.search(r"`autoprune (apply [^`]+)`", capsys.readouterr().out)
        assert advice is not None
        assert cli.main(advice[1].split()) == 0

    def test_is_refused_where_nothing_is_as_cheap(self, front: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(path.name for path in front.iterdir())
        assert cli.main(["apply", str(front), "--at", "macs=0.1%", "--out", "other.safetensors"]) == 2
        assert "costs as little as macs=0.1%; the cheapest are at macs=" in capsys.readouterr().err
        assert not Path("other.safetensors").exists()
        assert sorted(path.name for path in front.iterdir()) == before

    def test_a_run_that_goes_on_can_be_read(self, front: Path) -> None:
        with (front / "trials.jsonl").open("a") as file:
            file.write('{"number": 6, "poli')
        size = (front / "trials.jsonl").stat().st_size
        assert apply_point(front, {"macs": "100%"}).trial.number < 6
        assert (front / "trials.jsonl").stat().st_size == size

    def test_another_network_is_refused(self, space: Path) -> None:
        task = study.build(config.read(space)).task
        result = api.search(task, {"macs": 0.5}, "random", 2, finetune={"epochs": 0.1}, report={"random_trials": 1})
        other = dataclasses.replace(
            task,
            model=torch.nn.Sequential(
                torch.nn.Conv2d(1, 9, 3),
                *list(task.model)[2:3],
                torch.nn.Conv2d(9, 12, 3),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(12, 10),
            ),
        )
        with pytest.raises(RunError, match="was begun with another network"):
            apply_point(result.directory, {"macs": "100%"}, other)
        with pytest.raises(PolicyError, match="hand it over"):
            apply_point(result.directory, {"macs": "100%"})
        with pytest.raises(ConfigError, match="a ceiling is needed"):
            apply_point(result.directory, {}, task)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--at", "macs=10%", "--at", "macs=100%"], "two ceilings on macs, 10% and 100%"),
            (["--at", "macs=100%", "--out", "nodir/x.safetensors"], "there is no folder nodir"),
            (["--at", "macs=100%", "--out", "runs"], "that is a folder"),
            (["--at", "mcas=100%"], "no cost is called 'mcas'"),
            (["--at", "macs=500%"], "is not in (0%, 100%]"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, arguments: list[str], message: str, front: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(front), *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_fewer_trials_than_asked_are_said(self, space: Path) -> None:
        space.write_text(SPACE.replace("trials = 6", "trials = 500"))
        directory = searched(space)
        notes = json.loads((directory / "report.json").read_text())["notes"]
        assert any("of 500 trials were made: genetic had no further policy" in note for note in notes)

    def test_what_is_no_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="is no run"):
            apply_point(tmp_path, {"macs": "40%"})

    def test_a_policy_file_has_no_other_points(self, front: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["apply", str(front / "policy.json"), "--at", "macs=40%"]) == 2
        assert "is no run" in capsys.readouterr().err

    def test_points_of_a_run_on_a_task_from_python(self, space: Path) -> None:
        task = study.build(config.read(space)).task
        result = api.search(
            task, {"macs": 0.5}, "random", 3, out="runs", finetune={"epochs": 0.1}, report={"random_trials": 1}
        )
        point = apply_point(result.directory, {"macs": "50%"}, task)
        assert point.trial.number in range(3)

    def test_no_images_are_picked_to_make_one_network(self, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        task = study.build(config.read(space)).task
        task = dataclasses.replace(task, holdout=toy_images(1000, 2), metric=top1)
        monkeypatch.setattr(study, "PAYS", 2)
        result = api.search(task, {"macs": 0.5}, "random", 2, finetune={"epochs": 0.1}, report={"random_trials": 1})
        assert any("Trials look at 500 of 1,000" in note for note in result.report.notes)
        monkeypatch.setattr(Panel, "of", lambda *given: pytest.fail("a panel was made"))
        apply_policy(result.directory, task)
        apply_point(result.directory, {"macs": "50%"}, task)


class TestFinetune:
    """A policy was applied without any finetune, and nothing but a file's name was printed."""

    @pytest.fixture
    def directory(self, space: Path) -> Path:
        """A finished run whose evaluator leaves pruned networks as they are, and whose finetune is ten steps."""
        tables = f'''
            [task]
            use = "{MINE}:make"
            [budget]
            macs = "50%"
            [evaluator]
            use = "{MINE}:Careful"
            [controller]
            use = "random"
            [search]
            trials = 2
            [finetune]
            epochs = 1.25
            batch = 32
            lr = 0.02
            [report]
            random_trials = 1
            fidelity = 0
        '''
        space.write_text(tables)
        return searched(space)

    @pytest.mark.parametrize("how", [["policy.json"], [".", "--at", "macs=50%"]])
    def test_makes_the_network_of_the_search_again_and_shows_both_qualities(
        self, directory: Path, how: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(directory / how[0]), *how[1:]]) == 0
        head, *rows = (line.split("  ") for line in capsys.readouterr().out.splitlines() if "  " in line)
        assert head[0] == "network"
        assert [row[0] for row in rows] == ["dense", "pruned", "finetuned"]
        wanted = safetensors.torch.load_file(directory / "model.safetensors")
        found = safetensors.torch.load_file("pruned.safetensors")
        assert wanted.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())

    def test_does_without_a_finetune_where_that_is_asked(
        self, directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(directory), "--no-finetune"]) == 0
        said = capsys.readouterr().out
        assert "It was not finetuned.\nAll of the holdout was looked at, after a recovery without short cuts" in said
        assert "\nfinetuned " not in said
        wanted = apply_policy(directory, finetune=False).state_dict()
        found = safetensors.torch.load_file("pruned.safetensors")
        assert all(torch.equal(wanted[name], tensor) for name, tensor in found.items())

    def test_takes_another_recipe(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(directory), "--epochs", "0.5", "--lr", "0.001", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["finetune_steps"] == 4
        assert facts["holdout"].keys() == {"dense", "pruned", "finetuned"}
        assert facts["costs"]["macs"]["pruned"] <= facts["costs"]["macs"]["dense"] / 2
        again = apply_policy(directory, recipe={"epochs": 0.5, "lr": 0.001}).state_dict()
        found = safetensors.torch.load_file("pruned.safetensors")
        assert all(torch.equal(again[name], tensor) for name, tensor in found.items())

    def test_of_a_policy_that_holds_no_recipe_is_one_line(
        self, directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = directory / "policy.json"
        written = json.loads(path.read_text())
        del written["finetune"]
        path.write_text(json.dumps(written))
        capsys.readouterr()
        assert cli.main(["apply", str(path)]) == 2
        error = capsys.readouterr().err
        assert "policy.json holds no recipe of a finetune, as policies of earlier versions do not" in error
        assert error.count("\n") == 1
        assert not Path("pruned.safetensors").exists()
        assert cli.main(["apply", str(path), "--epochs", "0.5"]) == 0
        assert cli.main(["apply", str(path), "--no-finetune", "--out", "recovered.safetensors"]) == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--no-finetune", "--lr", "0.1"], "--no-finetune and --lr: one of them is right"),
            (["--lr", "0"], "finetune.lr = 0.0: a number above 0 and up to 100 is right"),
            (["--lr", "1e30"], "finetune.lr = 1e+30: a number above 0 and up to 100 is right"),
        ],
    )
    def test_that_cannot_be_is_one_line(
        self, directory: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert cli.main(["apply", str(directory), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not Path("pruned.safetensors").exists()


class Noisy(nn.Module):
    """An activation in operators that cannot be followed."""

    def forward(self, x: Tensor) -> Tensor:
        values, order = x.flatten(1).sort(1)
        return torch.zeros_like(values).scatter(1, order, values.tanh()).reshape(x.shape)


def test_a_policy_of_a_network_with_declared_operators_is_applied(tmp_path: Path) -> None:
    """It knew nothing of them, and was for another network."""
    torch.manual_seed(0)
    middle = (nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), Noisy(), *middle)
    task = Task(model, torch.zeros(1, 1, 8, 8), split(64), split(32), split(32))
    declared = [{"use": "pointwise", "of": "Noisy"}]
    quick = {"finetune": {"epochs": 0}, "report": {"random_trials": 1, "fidelity": 0}}
    found = autoprune.search(task, {"macs": 0.6}, "random", trials=1, out=tmp_path, operator=declared, **quick)
    assert found.policy.levels[0] < 8
    applied = apply_policy(found.directory, task, finetune=False)
    assert [tuple(p.shape) for p in applied.parameters()] == [tuple(p.shape) for p in found.model.parameters()]
