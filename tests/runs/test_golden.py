"""What earlier versions wrote is read for ever: runs, journals, policies and reports of format 1.

The runs in tests/assets/golden were made by the last version that wrote format 1, of the Fashion-MNIST network that
ships. `golden` (evolution, six trials, MACs and parameters) was afterwards resumed by that version to eight trials: the
policies of the last two are written below, since a resumed search must propose the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.command.cli import main
from autoprune.report import facts
from autoprune.runs import journal, lifecycle, loop
from autoprune.runs.apply import apply_point, apply_policy
from autoprune.targets.pytorch import Torch
from tests import ASSETS

GOLDEN = ASSETS / "golden"
LATER = (  # what the version that wrote the run proposed when it resumed it, and what its evaluator said
    ((0.25, 0.375, 0.625, 0.25, 0.09375, 0.25, 0.1875, 0.125, 0.5, 0.1875), 0.848),
    ((0.1875, 0.25, 0.375, 0.3125, 0.40625, 0.40625, 0.3125, 0.0625, 0.4375, 0.3125), 0.856),
)


def run_of(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def written(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "policy.json").read_text())
    return found


def widths(model: nn.Module) -> list[int]:
    """Of the convolutions that the policy's choices are named after, in the file's order."""
    groups = written(GOLDEN / "golden")["groups"]
    return [model.get_submodule(g["name"]).out_channels for g in groups]  # type: ignore[misc]


def test_a_run_is_resumed_as_it_would_have_been(tmp_path: Path) -> None:
    directory = run_of("golden", tmp_path)
    before = (directory / "trials.jsonl").read_bytes()
    threads = torch.get_num_threads()
    built, opened = lifecycle.reopen(directory, trials=8)
    torch.set_num_threads(threads)
    with opened:
        assert built.shortcuts, "runs of format 1 always took them"
        loop.search(built.controller(), loop.remembering(built.attempt, opened), opened, trials=8)
        assert len(opened) == 8
        for trial, (sparsity, metric) in zip(opened.trials[6:], LATER, strict=True):
            assert built.space.sparsity(trial.policy) == sparsity
            assert trial.metric == pytest.approx(metric, abs=0.012)  # three of 250 images, on another processor
    assert (directory / "trials.format1.jsonl").read_bytes() == before
    assert journal.count(directory) == 8
    built, opened = lifecycle.reopen(directory)
    opened.close()
    assert len(opened) == 8


def test_what_stood_in_the_journal_stands_in_the_new_one(tmp_path: Path) -> None:
    directory = run_of("golden", tmp_path)
    old = [json.loads(line) for line in (directory / "trials.jsonl").read_text().splitlines()]
    built, opened = lifecycle.reopen(directory)
    with opened:
        assert [t.metric for t in opened] == [entry["metric"] for entry in old]
        assert [t.reward for t in opened] == [entry["reward"] for entry in old]
        assert [dict(t.costs) for t in opened] == [entry["costs"] for entry in old]
        assert [dict(t.seconds) for t in opened] == [entry["seconds"] for entry in old]
        assert [list(built.space.sparsity(t.policy)) for t in opened] == [entry["policy"] for entry in old]
        for trial in opened:
            assert {name: cost.predict(trial.policy) for name, cost in built.costs.items()} == dict(trial.costs)


@pytest.mark.parametrize("source", ["", "policy.json"])
def test_a_policy_is_applied(source: str) -> None:
    model = apply_policy(GOLDEN / "golden" / source, finetune=False)
    assert widths(model) == [g["kept"] for g in written(GOLDEN / "golden")["groups"]]


@pytest.mark.parametrize(("name", "at"), [("golden", {"macs": "60%"}), ("golden_latency", {"latency": "90%"})])
def test_a_point_of_a_run_is_applied_and_nothing_is_timed(
    name: str, at: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Torch, "ready", lambda *given: pytest.fail("it timed"))
    digest = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (GOLDEN / name).iterdir()}
    point = apply_point(GOLDEN / name, at, finetune=False)
    best = json.loads((GOLDEN / name / "best.json").read_text())
    assert point.trial.number == best["number"]
    assert widths(point.model) == [g["kept"] for g in best["groups"]]
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (GOLDEN / name).iterdir()} == digest


@pytest.mark.parametrize("name", ["golden", "golden_latency"])
def test_a_report_is_read_and_shown_again(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = run_of(name, tmp_path)
    old = json.loads((directory / "report.json").read_text())
    found = facts.read(directory)
    assert list(found.networks) == [network["role"] for network in old["networks"]]
    assert [n.test for n in found.networks.values()] == [network["test"] for network in old["networks"]]
    assert [c.of for c in found.choices] == [group["of"] for group in old["groups"]]
    assert main(["report", str(directory)]) == 0
    assert str(directory) in capsys.readouterr().out
    assert "<svg" in (directory / "report.html").read_text()


def test_a_damaged_space_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = run_of("golden", tmp_path)
    facts_of = journal.stored(directory, "space.json")
    del facts_of["groups"][0]["of"]
    (directory / "space.json").write_text(json.dumps(facts_of))
    assert main(["resume", str(directory)]) == 2
    assert "space.json is damaged ('of')" in capsys.readouterr().err
