"""What a command says while it works: quietly, in lines for programs, in a shell's completion, in a new file."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from autoprune import config
from autoprune.command import completion
from autoprune.command.cli import main
from tests import ASSETS
from tests.making import SMALL_SEARCH, no_programs

MINE = f"{ASSETS / 'mine.py'}:make"


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    no_programs(monkeypatch)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(SMALL_SEARCH)
    return path


class TestProgress:
    def test_is_not_shown_where_nobody_wants_it_and_told_to_programs(
        self, space: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = space.parent / "events.jsonl"
        assert main(["search", str(space), "--quiet", "--events", str(file), "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        report = json.loads(out)
        events = [json.loads(line) for line in file.read_text().splitlines()]
        assert [events[0]["event"], events[0]["command"]] == ["began", "search"]
        assert [events[-1]["event"], events[-1]["status"]] == ["ended", 0]
        (run,) = (one for one in events if one["event"] == "run")
        assert run["directory"] == report["directory"]
        trials = [one for one in events if one["event"] == "trial"]
        assert [one["number"] for one in trials] == [0, 1]
        assert [one["metric"] for one in trials] == [one["metric"] for one in report["trials"]]
        assert {"tracing the network", "export"} <= {one["what"] for one in events if one["event"] == "stage"}
        assert all(one["time"] > 1.7e9 for one in events)

    def test_in_a_file_ends_with_what_was_wrong(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = space.parent / "events.jsonl"
        assert main(["search", "none.toml", "--events", str(file)]) == 2
        last = json.loads(file.read_text().splitlines()[-1])
        assert (last["event"], last["status"]) == ("ended", 2)
        assert "none.toml cannot be read" in last["error"]

    def test_that_cannot_be_written_is_one_line(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", str(space), "--events", "nowhere/e.jsonl"]) == 2
        said = capsys.readouterr().err
        assert said == "autoprune: error: --events nowhere/e.jsonl cannot be written: No such file or directory\n"
        assert main(["check", str(space), "--events", "/dev/full"]) == 2
        assert "--events /dev/full cannot be written: No space left on device" in capsys.readouterr().err


class TestFinetune:
    def test_is_given_or_left_out_on_the_command_line(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for given, steps in (["--epochs", "0.5"], 1), (["--no-finetune"], 0):
            assert main(["search", str(space), "--json", "--quiet", *given]) == 0
            assert json.loads(capsys.readouterr().out)["finetune"]["steps"] == steps

    @pytest.mark.parametrize("epochs", ["-1", "many", "nan", "inf"])
    def test_of_no_number_is_refused(self, epochs: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["search", MINE, f"--epochs={epochs}"])
        assert f"{epochs!r} is no number of epochs; write a number from 0 on, such as 2" in capsys.readouterr().err

    def test_is_not_asked_for_and_refused_at_once(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", str(space), "--no-finetune", "--epochs", "1"]) == 2
        assert "--no-finetune and --epochs: one of them is right" in capsys.readouterr().err


class TestInit:
    def test_writes_a_search_space_that_works(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "new.toml"
        assert main(["init", MINE, "--out", str(out), "--quiet"]) == 0
        assert "new.toml: 2 choices, 1 frozen" in capsys.readouterr().out
        text = out.read_text()
        for seen in (
            "60.02 k dense, 7.7% of that",
            "0: 8 channels, at least 2 stay",
            "3: 12 channels",
            "7, which is the",
        ):
            assert seen in text
        made = config.read(out)
        assert dict(made.budget) == {"macs": "50%"}
        assert (made.evaluator.use, made.controller.use, made.search.trials) == ("recalibrate", "evolution", 60)
        assert main(["check", str(out), "--quiet"]) == 0

    def test_writes_over_nothing(self, space: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The fixture's file is called as the task is."""
        assert main(["init", MINE]) == 2
        assert "mine.toml is there already, and is not written over" in capsys.readouterr().err
        assert main(["init", "mine.toml"]) == 2
        assert space.read_text() == SMALL_SEARCH

    def test_takes_the_target_and_its_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["init", MINE, "--target", f"{ASSETS / 'mine.py'}:make"]) == 2  # no target
        assert not (tmp_path / "mine.toml").exists()

    @pytest.mark.slow  # a minute: a latency model is fitted
    def test_budgets_latency_on_a_target(self, tmp_path: Path) -> None:
        out = tmp_path / "new.toml"
        assert main(["init", "fashion_mnist", "--target", "torch", "--out", str(out), "--quiet"]) == 0
        tables = tomllib.loads(out.read_text())
        assert (list(tables["budget"]), tables["space"]["step"], tables["target"]) == (
            ["latency"],
            "auto",
            {"use": "torch"},
        )

    def test_leaves_room_where_little_can_go(self) -> None:
        from autoprune.runs import advice, study
        from tests.assets import mine

        tables = {"name": "mine", "task": {"use": study.GIVEN}, "space": {"max_sparsity": 0.25}}
        built = study.build(config.parse(tables, "test"), task=mine.make(), found={"precision": "fp32"})
        least = built.costs["macs"].predict(built.space.thinnest()) / built.dense["macs"]
        share, why = advice.budget(built, "macs")
        assert 0.4 < least < share < 1
        assert "half of what can go at all" in why


class TestCompletion:
    def completed(self, *words: str) -> list[str]:
        script = completion._bash()
        line = " ".join(f"'{word}'" for word in ("autoprune", *words))
        ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _autoprune; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        bash = shutil.which("bash")
        assert bash
        done = subprocess.run([bash, "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, cwd="/")
        return done.stdout.split()

    def test_of_bash_offers_what_can_be_written(self) -> None:
        assert self.completed("re") == ["resume", "report"]
        assert self.completed("search", "--contr") == ["--controller"]
        assert self.completed("search", "x.toml", "--controller", "bay") == ["bayes", "bayes-gp"]
        assert self.completed("search", "x.toml", "--device", "")[:2] == ["cpu", "cuda"]
        assert "fashion_mnist" in self.completed("check", "fash")
        assert self.completed("completion", "fi") == ["fish"]
        assert "--budget" not in self.completed("check", "")

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_of_every_shell_names_every_command(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(f"{name}" in script for name in completion._commands())
        assert "no-finetune" in script
