"""What one run has learnt begins another: by the command line and from Python, and resumed exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune
from autoprune import Task, config
from autoprune.command import cli
from autoprune.controllers.evolution import Evolution
from autoprune.errors import ModelError, PolicyError
from autoprune.files import policy_file, programs
from autoprune.runs import journal, lifecycle, loop, prior, study, transfer, warm
from autoprune.runs.mapped import mapped
from autoprune.runs.study import Study
from autoprune.values.prior import shape_of
from autoprune.values.roles import Placed, Role
from tests import ASSETS
from tests.assets.mine import make, split
from tests.command.test_reuse import edited, refused

POLICY = ASSETS / "policies" / "resnet20_fashion_mnist.json"
QUICK: dict[str, Any] = {
    "evaluator": {"use": f"{ASSETS / 'mine.py'}:Careful"},
    "finetune": {"epochs": 0},
    "report": {"random_trials": 1, "fidelity": 0},
}
SMALL = {"hidden": [8], "warmup": 2, "gradient_steps": 1, "batch": 4}


@pytest.fixture(autouse=True, scope="module")
def without_programs() -> Iterator[None]:
    """Runs end without torch.export, ONNX and plots, which take seconds."""

    def refused(*given: object) -> None:
        raise ModelError("not in a test")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(programs, "export_program", refused)
        patched.setattr(programs, "export_onnx", refused)
        yield


@pytest.fixture(scope="module")
def finished(without_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of the tiny task."""
    out = tmp_path_factory.mktemp("finished")
    return autoprune.search(make(), {"macs": "50%"}, trials=8, out=out, **QUICK).directory


def deeper() -> Task:
    """The tiny task with two more convolutions of its last kind."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    return Task(model, torch.zeros(1, 1, 8, 8), split(256), split(64), split(32), name="deeper")


def built(controller: str | dict[str, Any] = "evolution", task: Task | None = None, **more: Any) -> Study:
    """A study of the tiny task with a budget of half."""
    use = {"use": controller} if isinstance(controller, str) else controller
    tables = {"name": "mine", "task": {"use": study.GIVEN}, "budget": {"macs": "50%"}, "controller": use,
              "search": {"trials": 10}, **QUICK, **more}  # fmt: skip
    return study.build(config.parse(tables, "a test"), task=task or make())


def journaled(directory: Path) -> list[tuple[int, ...]]:
    """The policies in a run's journal."""
    lines = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()[1:]]
    return [tuple(line["policy"]) for line in lines]


class TestARunOfTheSame:
    def test_its_trials_are_told_and_its_best_is_asked_first(self, finished: Path, tmp_path: Path) -> None:
        of = built()
        known = warm.start(of, [finished])
        best = json.loads((finished / "best.json").read_text())
        assert [c["kept"] for c in best["choices"]] == list(known.first[0].levels)
        assert len(known.first) == 1
        assert len({*known.first, *(t.policy for t in known.told)}) == len(set(journaled(finished)))
        told = warm.begun(of, {warm.KEY: json.loads(json.dumps(known.facts()))})
        assert isinstance(told, Evolution)
        assert told._asks.told == len(known.told)
        assert told._scored == len(known.told)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"budget": {"macs": "40%"}}, "its trials exceed this budget"),
            ({"evaluator": {"use": "recalibrate", "images": 128, "holdout": 64}}, "its scores are others"),
            ({"criterion": {"use": "l2"}}, "its units were ranked otherwise"),
        ],
    )
    def test_what_means_something_else_here_is_only_asked(
        self, change: dict[str, Any], why: str, finished: Path
    ) -> None:
        of = built(**change)
        known = warm.start(of, [finished])
        assert not known.told, why
        assert known.first
        assert all(of.budget.admits(policy) and of.space.contains(policy) for policy in known.first)

    @pytest.mark.parametrize("controller", ["evolution", "bayes", "knapsack", "genetic", {"use": "ddpg", **SMALL}])
    def test_a_resumed_run_goes_on_exactly(self, controller: Any, finished: Path, tmp_path: Path) -> None:
        of = built(controller)
        known = warm.start(of, [finished])
        assert known.told
        policies = []
        for stop in (10, 4):
            with lifecycle.begin(of, tmp_path / f"to-{stop}", known) as run:
                loop.search(warm.begun(of, run.machine), of.attempt, run, trials=stop, first=known.first)
                directory = run.directory
            again, opened = lifecycle.reopen(directory, task=make())
            with opened:
                loop.search(warm.begun(again, opened.machine), again.attempt, opened, trials=10, first=known.first)
                policies.append([trial.policy for trial in opened.trials])
        assert policies[0] == policies[1]
        assert policies[0][0] == known.first[0]

    def test_a_damaged_fact_is_found(self, finished: Path, tmp_path: Path) -> None:
        of = built()
        with lifecycle.begin(of, tmp_path / "new", warm.start(of, [finished])) as run:
            file = run.directory / "machine.json"
        plain = json.loads(file.read_text())
        plain["warm"]["told"][0]["metric"] = "0.5"
        file.write_text(json.dumps(plain))
        with pytest.raises(autoprune.AutopruneError, match=r"machine.json is damaged at warm\.told\.0\.metric"):
            lifecycle.reopen(run.directory, task=make())


class TestAnotherNetwork:
    def test_its_best_policies_are_mapped_and_asked_first(self, finished: Path, tmp_path: Path) -> None:
        of = built(task=deeper(), search={"trials": 40})
        known = warm.start(of, [finished])
        assert not known.told
        assert 2 <= len(known.first) <= 3
        assert all(of.budget.admits(policy) for policy in known.first)

    def test_a_search_says_what_it_began_with(self, finished: Path, tmp_path: Path) -> None:
        result = autoprune.search(
            deeper(), {"macs": "50%"}, trials=6, out=tmp_path / "runs", warm_start=[finished], **QUICK
        )
        (said,) = [note for note in result.report.notes if "had found" in note]
        assert said.startswith(f"The search began with what {finished} had found: the best of 1, trial 0, has ")
        assert [note for note in result.report.notes if note.startswith("The search began with the uniform policy")]
        assert warm.KEY not in result.report.machine  # the sources are said; what they hold is not for the page


class TestTransfer:
    def test_from_python(self, finished: Path, tmp_path: Path) -> None:
        done = transfer.transfer(finished, deeper(), {"macs": "60%"}, out=tmp_path / "new", **QUICK)
        assert len(done.result.report.trials) == 1
        assert done.result.policy == done.mapped.policy
        assert [one.sources for one in done.mapped.choices][1:] == [("3",)] * 3
        assert done.result.report.limits[0].asked == "60%"
        assert done.result.report.plugins["controller"] == "transfer"

    def test_the_budget_of_the_policy_is_taken_where_there_is_no_other(self, finished: Path, tmp_path: Path) -> None:
        done = transfer.transfer(finished, deeper(), out=tmp_path / "new", **QUICK)
        assert done.result.report.limits[0].asked == "50.0000%"

    def test_by_the_command_line_and_resumed_as_a_search(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        space = tmp_path / "mine.toml"
        careful = f'[evaluator]\nuse = "{ASSETS / "mine.py"}:Careful"\n[report]\nrandom_trials = 1\nfidelity = 0\n'
        space.write_text(f'[task]\nuse = "{ASSETS / "mine.py"}:make"\n{careful}')
        command = ["transfer", str(finished), "--to", str(space), "--budget", "macs=40%", "--no-finetune", "--quiet"]
        assert cli.main([*command, "--out", "new"]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[0].split() == ["choice", "from", "sparsity", "there", "kept", "of"]
        assert out[1].split()[:2] == ["0", "0"]
        assert any(line.startswith("found by transfer") for line in out)
        (run,) = Path("new").glob("*/*")
        assert journal.count(run) == 1
        assert cli.main(["resume", str(run), "--trials", "5", "--quiet"]) == 0
        assert "found by evolution" in capsys.readouterr().out
        assert cli.main([*command, "--out", "again", "--json"]) == 0
        plain = json.loads(capsys.readouterr().out)
        assert [one["from"] for one in plain["mapping"]] == [["0"], ["3"]]
        assert set(plain["mapping"][0]) == {"name", "from", "why", "wanted", "kept", "of", "sparsity"}


def test_mistakes_are_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = f"{ASSETS / 'mine.py'}:make"
    old = ASSETS / "golden" / "golden"
    plain = json.loads(POLICY.read_text())
    head = edited(tmp_path / "head.json", kind="head")
    linear = tmp_path / "linear.json"
    for choice in plain["choices"]:
        choice["role"]["layer"] = "linear"
    linear.write_text(json.dumps(plain))
    del plain["choices"][3:], plain["schema_version"]
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({**plain, "schema_version": 7}))
    for source, told in (
        (tmp_path / "absent.json", "cannot be read"),
        (bare, "schema_version: Input should be 3"),
        (edited(tmp_path / "over.json", sparsity=2.0), "a number from 0 to 1 is right"),
        (old, "does not say where in its network"),
        (head, "decides the head choice 'conv1', and mine has none of that kind; it has channel"),
        (linear, "nothing in mine corresponds to a choice of"),
    ):
        for command in (["transfer", source, "--to", space], ["search", space, "--warm-start", source]):
            if source == old and command[0] == "search":
                continue  # a run with trials of its own: its policy file is looked at by name of its choices
            assert told in refused(capsys, *command, "--budget", "macs=50%", "--quiet")
    assert "is no run" in refused(capsys, "search", space, "--budget", "macs=50%", "--warm-start", _hollow(tmp_path))
    assert not Path("runs").exists()


def _hollow(tmp_path: Path) -> Path:
    """A folder with a journal and nothing else."""
    folder = tmp_path / "hollow"
    folder.mkdir()
    (folder / "trials.jsonl").touch()
    return folder


def test_what_corresponds_to_nothing_is_named() -> None:
    of = built()
    role = Role("conv", shared=False, stage=0, position=0.5, depth=0.0, width=1.0, channels=8)
    found = mapped(of, [Placed("a", "channel", role, 0.5)], "a test")
    assert not found.lost
    with pytest.raises(PolicyError, match="nothing in mine corresponds"):
        mapped(of, [Placed("a", "channel", dataclasses.replace(role, layer="linear"), 0.5)], "a test")


def test_the_policy_of_a_run_says_what_its_choices_are(finished: Path) -> None:
    assert all(one.role for one in policy_file.read(finished).choices)


class TestPrior:
    def test_learn_writes_what_a_search_begins_with(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "prior.json"
        assert cli.main(["learn", str(finished), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "how well this speaks of other networks is not known" in said
        made = prior.read(out)
        assert made.runs == (prior.Learnt(name="mine", trials=8, choices=2),)
        of = built(task=deeper())
        known = warm.start(of, [out])
        assert len(known.first) == 1
        assert of.budget.admits(known.first[0])
        assert not known.told

    def test_it_says_again_what_its_only_run_has_found(self, finished: Path) -> None:
        of = built()
        space, best = prior.best(finished)
        found = prior.predicted(of, prior.learn([finished]), "a test").policy
        shapes = [shape_of([space.sparsity(policy)]) for policy in (found, *best)]
        assert abs(shapes[0] - sum(shapes[1:]) / len(best)).max() < 0.5

    def test_mistakes_are_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "is no run" in refused(capsys, "learn", tmp_path, "--out", tmp_path / "p.json")
        golden = ASSETS / "golden" / "golden"
        assert "does not say where in its network" in refused(capsys, "learn", golden, "--out", tmp_path / "p.json")
        (tmp_path / "bad.json").write_text('{"prior_version": 2}')
        space = f"{ASSETS / 'mine.py'}:make"
        command = ["search", space, "--budget", "macs=50%", "--quiet", "--warm-start", tmp_path / "bad.json"]
        assert "is no prior of version 1: prior_version" in refused(capsys, *command)
        assert not (tmp_path / "p.json").exists()
