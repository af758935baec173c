"""Files of a directory that came from elsewhere: nothing is written outside it, and nothing waits for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoprune.errors import RunError
from autoprune.files import disk


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.txt"
    path.write_text("mine")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_link_in_the_place_of_a_part_does_not_lead_outside(run: Path, outside: Path) -> None:
    (run / "report.html.part").symlink_to(outside)
    disk.write_text(run / "report.html", "theirs")
    assert outside.read_text() == "mine"
    assert (run / "report.html").read_text() == "theirs"
    assert not (run / "report.html.part").exists()


def test_a_link_in_the_place_of_a_file_is_replaced(run: Path, outside: Path) -> None:
    (run / "best.json").symlink_to(outside)
    disk.write_json(run / "best.json", {"a": 1})
    assert outside.read_text() == "mine"
    assert not (run / "best.json").is_symlink()


def test_nothing_is_appended_to_or_cut_off_behind_a_link(run: Path, outside: Path) -> None:
    (run / "trials.jsonl").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        disk.append_to(run / "trials.jsonl", b"theirs")
    with pytest.raises(OSError, match="symbolic"):
        disk.cut(run / "trials.jsonl", 0)
    (run / "lock").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        disk.opened(run / "lock", os.O_RDWR | os.O_CREAT)
    assert outside.read_text() == "mine"


@pytest.mark.timeout(20)
def test_a_pipe_does_not_hang(run: Path) -> None:
    os.mkfifo(run / "config.json")
    with pytest.raises(OSError, match="no regular file"):
        disk.read_json(run / "config.json")
    with pytest.raises(OSError, match="No such device"):
        disk.append_to(run / "config.json", b"x")


def test_json_in_a_thousand_brackets_is_damaged(run: Path) -> None:
    (run / "config.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="is damaged"):
        disk.read_json(run / "config.json")
