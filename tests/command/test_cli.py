"""The command line as a person meets it: what it prints, and one line for everything that is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune import api, config
from autoprune.command import cli
from autoprune.errors import ConfigError, PolicyError, RunError
from autoprune.runs import journal, lifecycle, repeating, study
from autoprune.runs.journal import Run
from autoprune.runs.loop import search
from autoprune.values.trial import Trial
from tests import ASSETS

MINE = ASSETS / "mine.py"
SPACE = f"""
[task]
use = "{MINE}:make"
[evaluator]
use = "{MINE}:Constant"
[budget]
macs = "50%"
[controller]
use = "random"
[search]
trials = 4
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search space beside which nothing else lies; commands run in its folder."""
    path = tmp_path / "mine.toml"
    path.write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return path


def replaced(space: Path, old: str, new: str) -> Path:
    assert old in SPACE
    space.write_text(SPACE.replace(old, new))
    return space


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(arguments) == status
    captured = capsys.readouterr()
    if status:
        assert captured.out == ""
        return captured.err
    return captured.out


def searched(build: study.Study, directory: Path, trials: int, precision: str = "fp32") -> list[Trial]:
    """What `lifecycle.complete` does before it finetunes and reports."""
    with Run(directory, build.config.plain(), build.space, {"precision": precision, "threads": 1}) as run:
        search(build.controller(), build.attempt, run, trials=trials)
        return list(run)


class TestRefusals:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[search]", "[saerch]", "there is no table 'saerch'; did you mean 'search'?"),
            ("trials = 4", "trials = ", "is no TOML: "),
            ("50%", "500%", "a budget of '500%' is not in (0%, 100%]"),
            ("50%", "1%", "the smallest reachable is 4,638 MAC, 7.7% of dense"),
            ("macs", "mcas", "no cost is called 'mcas'; did you mean 'macs'?"),
            ('"random"', '"rnadom"', "no controller is called 'rnadom'; did you mean 'random'?"),
            ('"random"', '"random"\nspeed = 3', "controller 'random' has no setting 'speed'"),
            (":Constant", ":Constnat", "has no 'Constnat'; did you mean 'Constant'?"),
            (":make", ":wrong", "returns a int; it should return autoprune.Task"),
            (':make"', ':make"\nnan = true', "'0.weight' holds NaN or infinity"),
            (
                ':make"',
                ':make"\nbroken = true',
                "the network of mine fails on an input of shape (1, 1, 8, 8) (RuntimeError",
            ),
            (':make"', ':make"\nnan = "yes"', "setting 'nan' is 'yes': input should be a valid boolean"),
            ("mine.py:make", "none.py:make", "none.py does not exist; it should be a Python file"),
            ("[search]", "[[space.group]]\nmatch = 'zzz'\n[search]", "match = 'zzz' matches no choice; there are 0, 3"),
        ],
    )
    @pytest.mark.parametrize("command", ["search", "check"])
    def test_are_one_line_and_leave_nothing(
        self, space: Path, capsys: pytest.CaptureFixture[str], command: str, old: str, new: str, message: str
    ) -> None:
        error = said(capsys, command, str(replaced(space, old, new)), status=2)
        assert error.startswith("autoprune: error: ")
        assert error.count("\n") == 1
        assert message in error
        assert list(space.parent.iterdir()) == [space]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["search", "none.toml"], "none.toml cannot be read (No such file or directory)"),
            (["check", "fashion_mnits"], "'fashion_mnits' is no search space"),
            (["resume", "none"], "none is no run: it has no config.json"),
            (["report", "none"], "none is no run: it has no report.json"),
            (["plugins", "evolutoin"], "no plugin is called 'evolutoin'; did you mean 'evolution'?"),
            (["check", "mine.toml", "--data", "d"], "has no setting 'data'"),
            (["check", "mine.toml", "--budget", "macs=x%"], "a budget of 'x%' is not understood"),
        ],
    )
    def test_of_arguments_are_one_line(
        self, space: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        error = said(capsys, *arguments, status=2)
        assert message in error
        assert error.count("\n") == 1
        assert list(space.parent.iterdir()) == [space]

    @pytest.mark.parametrize(
        "arguments",
        [["search"], [], ["serach", "x"], ["search", "x", "--budget", "macs"], ["resume", "x", "--trials", "0"]],
    )
    def test_of_usage_have_the_same_status(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("autoprune")
        assert error.count("\n") == 1

    def test_of_a_search_without_a_budget_is_one_line(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It went on to find the dense network, which it then compared with itself, called uniform."""
        error = said(capsys, "search", str(replaced(space, 'macs = "50%"', "")), status=2)
        assert "there is no budget, without which the dense network itself would be found" in error
        assert error.count("\n") == 1
        assert list(space.parent.iterdir()) == [space]
        said(capsys, "check", str(space))

    @pytest.mark.parametrize(
        "over",
        [{"reward": {"use": name}} for name in ("guaranteed", "mnasnet", "r_flops", "r_param")]
        + [{"controller": {"use": "nsga2"}}, {}],
        ids=str,
    )
    def test_of_a_search_without_a_budget_spare_those_that_need_none(self, space: Path, over: dict[str, Any]) -> None:
        study.build(config.read(space, {**over, **({"budget": {}} if over else {})})).require_end()


class TestWhatIsSaid:
    def test_in_a_terminal_while_a_study_is_built(
        self, space: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was, for half a minute."""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert cli.main(["check", str(space)]) == 0
        said = capsys.readouterr().err
        places = [said.index(what) for what in ("loading the task", "tracing the network", "choosing the precision")]
        assert places == sorted(places)

    def test_to_a_reader_who_has_enough_is_no_traceback(self) -> None:
        """`autoprune plugins | head -1` ended with "BrokenPipeError"."""
        ear, mouth = os.pipe()
        os.close(ear)
        command = [sys.executable, "-m", "autoprune", "plugins", "random"]
        done = subprocess.run(command, stdout=mouth, stderr=subprocess.PIPE, text=True, check=False)
        os.close(mouth)
        assert (done.returncode, done.stderr) == (141, "")

    def test_of_a_users_task_names_its_file(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its function was called `make`, and so were its runs."""
        said(capsys, "check", f"{MINE}:make", "--json")
        found = config.find(f"{MINE}:make")
        assert found.name == "mine"
        assert config.find("my.package.tasks:make").name == "tasks"
        assert config.find("fashion_mnist").name == "fashion_mnist"

    def test_to_repeat_a_run_is_the_command_that_does(self, space: Path) -> None:
        """A file called as its task was taken for the task with its defaults."""
        built = study.build(config.read(space))
        wanted = "--controller random --budget macs=50% --trials 4 --seed 0"
        assert repeating.command(built) == f"autoprune search mine.toml {wanted}"
        over = {"budget": {"macs": "50%"}, "controller": {"use": "random"}, "search.trials": 4}
        usual = dataclasses.replace(built, config=config.find(f"{MINE}:make", over))
        assert repeating.command(usual) == f"autoprune search {MINE}:make {wanted}"

    def test_of_a_task_without_a_name_is_its_networks_class(self, space: Path) -> None:
        """Runs from Python lay in runs/task."""
        task = dataclasses.replace(study.build(config.read(space)).task, name="")
        assert task.name == "Sequential"

    def test_of_a_budget_is_what_it_allows(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "\nbudget: macs at most 30,012 MAC, 50.0% of dense\n" in said(capsys, "check", str(space))

    def test_settings_of_the_command_line_stand_above_the_files(
        self, space: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["--set", "space.max_sparsity=0.25", "--set", "space.exclude='3'"]
        found = json.loads(said(capsys, "check", str(space), "--budget", "macs=90%", *given, "--json"))
        assert [(c["name"], c["lowest"]) for c in found["choices"]] == [("0", 6), ("3", 12)]
        error = said(capsys, "check", str(space), "--set", "space.max_sparsty=1", status=2)
        assert "has no key 'max_sparsty'; did you mean 'max_sparsity'?" in error
        with pytest.raises(SystemExit):
            cli.main(["check", str(space), "--set", "sparsity"])
        assert "'sparsity' is no setting; write TABLE.KEY=VALUE" in capsys.readouterr().err


class TestCheck:
    def test_names_groups_frozen_layers_and_costs(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = json.loads(said(capsys, "check", str(space), "--json"))
        assert [(g["name"], g["of"], g["lowest"]) for g in found["choices"]] == [("0", 8, 2), ("3", 12, 3)]
        output = {"name": "7", "units": 10, "reason": "is the network's output", "layers": ["7"], "params": 10}
        assert found["frozen"] == [output]
        macs = {"name": "macs", "unit": "MAC", "dense": 60024.0, "smallest": 4638.0}
        assert macs in found["costs"]
        told = {"allowed": 30012.0, "sentence": "macs at most 30,012 MAC, 50.0% of dense"}
        assert found["budget"] == [{"cost": "macs", "asked": "50%", "most": 30012.0, **told}]

    def test_reads_well(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "check", str(space))
        assert "2 choices, 1 frozen" in text
        assert "macs    60,024               4,638  7.7%" in text

    def test_takes_the_command_line_budget(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = json.loads(
            said(capsys, "check", str(space), "--budget", "params=25%", "--budget", "flops=100e3", "--json")
        )
        assert [(b["cost"], b["most"]) for b in found["budget"]] == [("params", 273.5), ("flops", 100_000)]

    def test_writes_nothing(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said(capsys, "check", str(space))
        assert list(space.parent.iterdir()) == [space]


class TestFidelity:
    """The evaluator of these tests says 0.5 of everything, unless told otherwise."""

    @pytest.fixture
    def real(self, space: Path) -> Path:
        """With an evaluator that tells networks apart, and without a budget that leaves few of them."""
        text = SPACE.replace(f'use = "{MINE}:Constant"', f'use = "{MINE}:Careful"').replace('macs = "50%"', "")
        space.write_text(text)
        return space

    def test_is_shown_as_a_table(self, real: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["check", str(real), "--fidelity", "--policies", "6", "--steps", "1"]) == 0
        out, err = capsys.readouterr()
        head, empty, *lines = out.splitlines()
        assert (head, empty) == (f"mine: how true the score of evaluator {MINE}:Careful is", "")
        assert lines[0].split("  ")[0] == "score"
        assert [line.split()[:3] for line in lines[1:4]] == [
            ["fast", "slow", "-1.000"],
            ["fast", "finetuned", lines[2].split()[2]],
            ["slow", "finetuned", lines[3].split()[2]],
        ]
        assert lines[1].split()[3:] == ["-1.000", "to", "-1.000", "0%"]
        assert lines[5] == "6 random policies on the holdout; 0 failed and left out."
        assert lines[6].startswith("Fast less slow score: mean +")
        assert lines[7].startswith("Seconds from a policy to its score, median: fast ")
        assert "policy 6/6" in err
        assert list(real.parent.iterdir()) == [real]

    def test_is_one_object(self, real: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = json.loads(said(capsys, "check", str(real), "--fidelity", "--policies", "6", "--steps", "0", "--json"))
        (pair,) = found["agreements"]
        assert (pair["score"], pair["against"], round(pair["tau"], 9), pair["policies"]) == ("fast", "slow", -1, 6)
        assert (found["name"], found["evaluator"], found["policies"]) == ("mine", f"{MINE}:Careful", 6)
        assert [-value for value in found["scores"]["slow"]] == found["scores"]["fast"]
        mean = sum(found["scores"]["fast"]) * 2 / 6
        assert found["fast_less_slow"]["mean"] == pytest.approx(mean)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--fidelity", "--policies", "3"], "--policies 3: at least 5 are needed"),
            (["--fidelity", "--steps", "-2"], "--steps -2: a number of gradient steps is needed, or 0"),
            (["--policies", "7"], "--policies and --steps are for --fidelity; write that, too"),
            (["--fidelity", "--budget", "macs=8%"], "the space holds 1 different policies at random"),
        ],
    )
    def test_refuses_in_one_line(
        self, real: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        error = said(capsys, "check", str(real), *arguments, status=2)
        assert message in error
        assert error.count("\n") == 1

    def test_needs_something_to_compare_with(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = said(capsys, "check", str(space), "--fidelity", "--steps", "0", status=2)
        assert "Constant' has no slow score and --steps is 0; write --steps 50, or another evaluator" in error

    def test_refuses_what_is_no_number(self, real: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["check", str(real), "--fidelity", "--policies", "many"])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


class TestPlugins:
    def test_lists_every_kind(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = json.loads(said(capsys, "plugins", "random", "--json"))["plugins"]
        assert [plugin["kind"] for plugin in found] == ["controller", "criterion"]

    def test_explains_settings(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = said(capsys, "plugins", "mnasnet")
        assert re.search(r"exponent +float +-100 to 0 +-0.07", text)
        assert "share of the dense network's" in text


class TestStudy:
    def test_of_a_reward_that_trades_need_not_use_the_budget_up(self, space: Path) -> None:
        assert study.build(config.read(space)).budget.fill
        assert not study.build(config.read(space, {"reward": {"use": "r_flops"}})).budget.fill

    def test_tells_a_reward_that_asks_for_it_the_dense_metric(self, space: Path) -> None:
        built = study.build(config.read(space, {"reward": {"use": "guaranteed", "tolerance": 1.0}, "budget": {}}))
        thinnest = built.space.thinnest()
        trial = built.attempt(0, thinnest)
        assert trial.reward == 1 - built.costs["macs"].predict(thinnest) / built.dense["macs"]
        assert "metric" not in built.dense

    def test_records_the_costs_that_budget_and_reward_name(self, space: Path) -> None:
        over = {"reward": {"use": "mnasnet", "cost": "flops"}, "budget": {}}
        assert set(study.build(config.read(space, over)).costs) == {"macs", "params", "flops"}

    def test_leaves_the_network_as_it_was(self, space: Path) -> None:
        task = study.build(config.read(space)).task
        before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
        task.model.train()
        study.build(config.parse({"task": {"use": "given"}, "evaluator": {"use": f"{MINE}:Constant"}}, "x"), task=task)
        assert task.model.training
        assert all(torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items())

    def test_runs_as_asked(self, space: Path, tmp_path: Path) -> None:
        trials = searched(study.build(config.read(space)), tmp_path / "run", 4)
        assert [t.metric for t in trials] == [0.5] * 4
        assert all(t.costs["macs"] <= 30_012 for t in trials)

    def test_comes_back_from_the_run_with_its_precision(self, space: Path, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        threads = torch.get_num_threads()
        try:
            first = searched(study.build(config.read(space)), directory, 2, "bf16")
            built, opened = lifecycle.reopen(directory, trials=9, trust=[f"{MINE}:make", f"{MINE}:Constant"])
            with opened:
                assert (list(opened), built.precision, built.config.search.trials) == (first, "bf16", 9)
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(threads)

    @pytest.mark.parametrize(
        ("file", "old", "new"), [("machine.json", "fp32", "bf16"), ("config.json", '"seed": 0', '"seed": 1')]
    )
    def test_whose_facts_were_changed_by_hand_is_refused(
        self, space: Path, tmp_path: Path, file: str, old: str, new: str
    ) -> None:
        searched(study.build(config.read(space)), tmp_path / "run", 1)
        path = tmp_path / "run" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(RunError, match="was changed since the run began"):
            lifecycle.reopen(tmp_path / "run", trust=[f"{MINE}:make", f"{MINE}:Constant"])

    def test_of_a_controller_that_proposes_sparsities_is_one_line(self, space: Path, tmp_path: Path) -> None:
        built = study.build(config.read(space, {"controller": {"use": f"{MINE}:OldController"}}))
        with pytest.raises(PolicyError, match=r"\(0.5, 0.5 ...\) are not 2 whole numbers, the levels"):
            searched(built, tmp_path / "run", 1)

    def test_takes_short_cuts_where_many_trials_are_planned_and_keeps_that(self, space: Path, tmp_path: Path) -> None:
        few, many = (study.build(config.read(space, {"search.trials": n})) for n in (study.PAYS - 1, study.PAYS))
        assert (few.shortcuts, many.shortcuts) == (False, True)
        with lifecycle.begin(few, tmp_path) as begun:
            assert begun.machine["shortcuts"] is False
        built, opened = lifecycle.reopen(begun.directory, trials=10 * study.PAYS)
        with opened:
            assert not built.shortcuts
            assert built.evaluator.bench.shortcuts is False  # type: ignore[attr-defined]

    def test_of_another_network_is_refused(self, space: Path, tmp_path: Path) -> None:
        searched(study.build(config.read(space)), tmp_path / "run", 1)
        other = study.build(config.read(space, {"space.max_sparsity": 0.5}))
        with pytest.raises(RunError, match=r"begun with another space.max_sparsity"):
            searched(other, tmp_path / "run", 1)

    def test_of_a_task_from_python_is_resumed_from_python(self) -> None:
        with pytest.raises(ConfigError, match=r"autoprune.resume\(directory, task=...\)"):
            study.build(config.parse({"task": {"use": study.GIVEN}}, "config.json"))


class TestStopping:
    """The file under tests/assets stops the process at its fourth network: the first is the rehearsal's."""

    def stop(self, space: Path, how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "autoprune", "search", str(space)]
        environment = {**os.environ, "MINE_STOP": f"{how}:4"}
        return subprocess.run(command, cwd=space.parent, env=environment, capture_output=True, text=True, check=False)

    def test_by_hand_says_how_to_go_on(self, space: Path) -> None:
        done = self.stop(space, "interrupt")
        (directory,) = (space.parent / "runs" / "mine").iterdir()
        assert done.returncode == 130
        assert f"go on with: autoprune resume runs/mine/{directory.name}" in done.stderr
        assert "Traceback" not in done.stderr
        assert journal.count(directory) == 2

    def test_by_force_loses_one_trial_and_changes_none(self, space: Path, tmp_path: Path) -> None:
        assert self.stop(space, "kill").returncode == -9
        (directory,) = (space.parent / "runs" / "mine").iterdir()
        whole = searched(study.build(config.read(space)), tmp_path / "whole", 4)
        built, opened = lifecycle.reopen(directory)
        with opened:
            assert [t.policy for t in opened] == [t.policy for t in whole[:2]]
            search(built.controller(), built.attempt, opened, trials=4)
            assert [t.policy for t in opened] == [t.policy for t in whole]


class TestFromEndToEnd:
    QUICK = "[finetune]\nepochs = 0.5\n[report]\nrandom_trials = 1\n"

    def test_a_search_is_finished_reported_and_applied(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        space.write_text(SPACE.replace(f'[evaluator]\nuse = "{MINE}:Constant"', "") + self.QUICK)
        found = json.loads(said(capsys, "search", str(space), "--trials", "2", "--out", "out", "--json"))
        directory = Path(found["directory"])
        assert directory.parent == Path("out/mine")
        assert journal.count(directory) == 2
        (directory / "report.html").unlink()
        text = said(capsys, "report", str(directory))
        assert "of the MACs" in text
        assert "\nThe search took " in text
        assert " policies/s: ask " in text
        assert (directory / "report.html").exists()
        text = said(capsys, "apply", str(directory / "policy.json"), "--out", "p.safetensors")
        assert "It was finetuned: 1 step of 128 samples" in text
        assert "\np.safetensors (" in text
        assert Path("p.safetensors").stat().st_size < (directory / "model.onnx").stat().st_size
        refusal = said(capsys, "resume", str(directory), "--trials", "1", status=2)
        assert refusal == f"autoprune: error: {directory} holds 2 trials already; write --trials 2 or more\n"

    def test_python_gets_policy_model_and_report(self, space: Path, tmp_path: Path) -> None:
        task = study.build(config.read(space)).task
        result = api.search(
            task,
            budget={"macs": 0.5},
            controller={"use": "random"},
            trials=2,
            seed=5,
            out=tmp_path / "runs",
            finetune={"epochs": 0.0},
            report={"random_trials": 1},
        )
        assert result.directory.name.endswith("-random-s5")
        assert result.model(task.example).shape == (1, 10)
        assert sum(p.numel() for p in result.model.parameters()) == result.report.ours.costs["params"]
        assert result.report.ours.costs["macs"] <= 30_012
        assert len(result.policy) == 2


def test_importing_autoprune_imports_nothing_heavy() -> None:
    code = (
        "import sys, autoprune, autoprune.command.cli; print(autoprune.__version__);"
        "print(sorted({'torch', 'numpy', 'optuna', 'pydantic', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0.1.0\n[]\n"


def test_the_package_names_what_it_has() -> None:
    import autoprune

    assert autoprune.__all__ == sorted(autoprune.__all__)
    for name in autoprune.__all__:
        assert getattr(autoprune, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        autoprune.serach  # noqa: B018
