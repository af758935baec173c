"""The same command gives the same result: policies, metrics and weights, whatever the clock says at the time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.command.cli import main
from autoprune.engine import precision, speed
from autoprune.runs import lifecycle
from tests import ASSETS
from tests.command.test_cli import said

MINE = ASSETS / "mine.py"
SPACE = f"""
[task]
use = "{MINE}:make"
[budget]
macs = "50%"
[evaluator]
use = "recalibrate"
images = 64
batch = 32
[controller]
use = "CONTROLLER"
[search]
trials = 5
[finetune]
epochs = 1.0
batch = 64
[report]
random_trials = 2
fidelity = 0
"""


def searched(folder: Path, controller: str = "random", more: str = "") -> Path:
    """The directory of a whole run in `folder`, which is new."""
    folder.mkdir()
    (folder / "mine.toml").write_text(SPACE.replace("CONTROLLER", controller).replace("[search]", f"[search]\n{more}"))
    assert main(["search", str(folder / "mine.toml"), "--out", str(folder / "runs")]) == 0
    return run_in(folder)


def run_in(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("*/*")
    return found


def outcome(directory: Path) -> dict[str, Any]:
    """What must be the same: trials but for their seconds, the report's networks, the weights to the last bit."""
    lines = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()[1:]]
    report = json.loads((directory / "report.json").read_text())
    return {
        "begun": (directory / "trials.jsonl").read_text().splitlines()[0],  # a hash of all facts, but for seconds
        "trials": [{key: value for key, value in line.items() if key not in ("seconds", "crc")} for line in lines],
        "networks": report["networks"],
        "finetune": report["finetune"],
        "policy": json.loads((directory / "policy.json").read_text())["choices"],
        "weights": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("controller", ["random", "evolution", "bayes", "ddpg"])
def test_the_same_command_gives_the_same_result(
    controller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was 0.870 once and 0.865 once, by how busy the machine was for a fraction of a second."""
    first = outcome(searched(tmp_path / "a", controller))
    jumps = itertools.count(1)
    for clock in ("perf_counter", "process_time", "monotonic", "time"):
        monkeypatch.setattr(time, clock, lambda: float(next(jumps) ** 3 % 1013 + 1e3 * next(jumps)))
    assert outcome(searched(tmp_path / "b", controller)) == first


def test_another_process_with_other_hashes_gives_the_same_result(tmp_path: Path) -> None:
    first = outcome(searched(tmp_path / "a", "evolution"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.toml").write_text((tmp_path / "a" / "mine.toml").read_text())
    command = [sys.executable, "-m", "autoprune", "search", "mine.toml"]
    run = {"PYTHONHASHSEED": "12", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, cwd=tmp_path / "b", env={**os.environ, **run}, check=True, capture_output=True)
    assert outcome(run_in(tmp_path / "b")) == first


def test_the_final_finetune_never_depends_on_how_fast_the_machine_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fresh caches scores may take another precision; the recipe of the finetune is the same."""
    found = []
    monkeypatch.setattr(precision, "in_hardware", lambda device: True)
    for name, gain in (("slow", 0.5), ("fast", 3.0)):
        monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / f"cache-{name}"))
        monkeypatch.setattr("autoprune.runs.calibration.speedup", lambda *ways, gain=gain: gain)
        directory = searched(tmp_path / name)
        facts = json.loads((directory / "report.json").read_text())
        found.append((facts["machine"]["precision"] == "fp32", facts["finetune"]["precision"]))
    assert found == [(True, "bf16"), (False, "bf16")]


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_a_pinned_precision_is_taken_and_nothing_is_timed(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_timed", lambda *given: pytest.fail("it was timed"))
    directory = searched(tmp_path / "a", more=f'precision = "{asked}"')
    machine = json.loads((directory / "machine.json").read_text())
    assert (machine["precision"], machine["training"], machine["because"]) == (asked, asked, "it was asked for")
    facts = json.loads((directory / "report.json").read_text())
    assert facts["machine"]["precision"] == facts["finetune"]["precision"] == asked
    assert json.loads((directory / "config.json").read_text())["search"]["precision"] == asked


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = searched(tmp_path / "a")
    before = json.loads((directory / "machine.json").read_text())
    monkeypatch.setattr(precision, "choose", lambda *given: pytest.fail("it was chosen again"))
    built, opened = lifecycle.reopen(directory, trials=6)
    with opened:
        how = built.arithmetic
        assert (how.score, how.training, how.because) == tuple(before[k] for k in ("precision", "training", "because"))


def test_an_unknown_precision_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(SPACE.replace("[search]", '[search]\nprecision = "fp16"'))
    error = said(capsys, "check", str(tmp_path / "mine.toml"), status=2)
    assert "search.precision = 'fp16'" in error
    assert error.count("\n") == 1


def test_check_says_which_precision_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = [0.5, 1.0, 0.75, 1.0]
    monkeypatch.setattr(precision, "in_hardware", lambda device: True)
    monkeypatch.setattr("autoprune.runs.calibration.speedup", lambda *ways: gains.pop(0))
    file = tmp_path / "mine.toml"
    file.write_text(SPACE.replace("CONTROLLER", "random"))
    line = "networks are scored in fp32 and trained in bf16: bf16 is {} times as fast as fp32, and 1.2 times would pay"
    assert line.format("0.50") in said(capsys, "check", str(file))
    assert line.format("0.50") in said(capsys, "check", str(file))
    assert line.format("0.75") in said(capsys, "check", str(file), "--calibrate")
    found = json.loads(said(capsys, "check", str(file), "--json"))["precision"]
    assert (found["score"], found["training"]) == ("fp32", "bf16")
