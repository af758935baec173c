"""A run's directory that somebody else sent: nothing leads out of it, nothing waits for ever, no change goes unseen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprune.command.cli import main
from autoprune.files import disk
from autoprune.runs.journal import stored
from tests import ASSETS
from tests.making import SMALL_SEARCH


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, whole."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "mine.toml").write_text(SMALL_SEARCH)
    assert main(["search", str(folder / "mine.toml"), "--out", str(folder)]) == 0
    (directory,) = (folder / "mine").iterdir()
    return directory


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.txt"
    path.write_text("mine")
    return path


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says when it refuses."""
    capsys.readouterr()
    assert main([*words, "--trust", f"{ASSETS / 'mine.py'}:make"] if words[0] != "report" else words) == 2
    found = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert found.startswith("autoprune: error: ")
    return found


@pytest.mark.parametrize("name", ["lock", "trials.jsonl"])
def test_a_link_in_the_place_of_what_is_written_to_is_refused(
    name: str, run: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / name).read_bytes()
    outside.write_bytes(before)
    (run / name).unlink()
    (run / name).symlink_to(outside)
    assert f"{run} cannot be written: Too many levels of symbolic links" in said(["resume", str(run)], capsys)
    assert outside.read_bytes() == before


def test_links_in_the_places_of_parts_do_not_lead_outside(run: Path, outside: Path) -> None:
    names = ("report.html", "best.json", "report.json", "policy.json", "model.pt2")
    for name in names:
        (run / f"{name}.part").symlink_to(outside)
        (run / name).unlink()
    assert main(["resume", str(run), "--trust", f"{ASSETS / 'mine.py'}:make"]) == 0
    assert outside.read_text() == "mine"
    assert all((run / name).is_file() for name in names)
    assert not list(run.glob("*.part"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["config.json", "space.json", "machine.json", "trials.jsonl", "lock", "report.json"])
def test_a_pipe_in_the_place_of_a_file_hangs_nothing(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    assert str(run) in said(["resume", str(run)], capsys)


@pytest.mark.parametrize("words", [["resume"], ["apply", "--at", "macs=60%"]])
@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "config.json",
            {"search": {"trials": 2, "seed": 7}},
            "was changed since the run began; restore them, or begin",
        ),
        ("machine.json", {"precision": "bf16"}, "was changed since the run began; restore them, or begin a new run"),
        ("machine.json", {"precision": "zz"}, "machine.json is damaged at precision: input should be '', 'fp32'"),
    ],
)
def test_a_seed_or_a_precision_written_by_hand_is_noticed(
    words: list[str], name: str, change: dict[str, object], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.write_json(run / name, {**stored(run, name), **change})
    found = said([words[0], str(run), *words[1:]], capsys)
    assert told in found


def test_a_cost_written_by_hand_names_its_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = run / "trials.jsonl"
    head, one, two = journal.read_bytes().splitlines(keepends=True)
    entry = disk.unsealed(two)
    journal.write_bytes(head + one + disk.sealed({**entry, "costs": {**entry["costs"], "macs": 1.0}}))
    found = said(["resume", str(run)], capsys)
    assert "trials.jsonl, line 3 is damaged (its macs are 1, where those of its policy are" in found
    assert found.endswith("restore it, or cut the file before that line")
    assert json.loads((run / "report.json").read_text())["name"] == "mine"


def test_a_report_in_a_read_only_folder_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    try:
        shutil.copytree(run, folder / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for words in (["report", str(folder / "run")], ["resume", str(folder / "run"), "--trials", "3"]):
            assert "cannot be written: Read-only file system" in said(words, capsys)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
