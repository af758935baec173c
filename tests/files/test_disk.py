"""Files are written whole or not at all, also by two at once and on a full disk; nothing leads out of a directory."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.errors import FileError, RunError
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


def test_a_pipe_or_a_second_name_in_the_place_of_a_part_is_removed(run: Path, outside: Path) -> None:
    os.mkfifo(run / "best.json.part")
    disk.write_json(run / "best.json", {"a": 1})
    os.link(outside, run / "policy.json.part")
    disk.write_json(run / "policy.json", {"a": 1})
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in run.iterdir()) == ["best.json", "policy.json"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_with_what_is_missing(small: Path) -> None:
    disk.write_bytes(small / "model.pt2", b"old")
    with pytest.raises(
        FileError, match=r"model.pt2 cannot be written: No space left .* \(1 MiB are needed, 0.2.* free"
    ):
        disk.write_bytes(small / "model.pt2", bytes(2**20))
    with pytest.raises(FileError, match=r"trials.jsonl cannot be written: No space left"):
        disk.append_to(small / "trials.jsonl", bytes(2**20))
    assert (small / "model.pt2").read_bytes() == b"old"
    assert (small / "trials.jsonl").read_bytes() == b""
    assert not list(small.glob("*.part"))


def test_a_read_only_folder_is_one_line(small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(FileError, match=r"report.html cannot be written: Read-only file system$"):
        disk.write_text(small / "report.html", "page")


def test_two_writers_of_one_file_leave_one_of_both_whole(run: Path) -> None:
    path, failed = run / "timings.jsonl", list[BaseException]()
    contents = [bytes([65 + at]) * 200_000 for at in range(4)]

    def write(content: bytes) -> None:
        try:
            for _ in range(20):
                disk.write_bytes(path, content)
                assert path.read_bytes() in contents
        except BaseException as wrong:
            failed.append(wrong)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [entry.name for entry in run.iterdir()] == ["timings.jsonl"]


def test_what_was_left_half_written_is_cleared_and_nothing_else(run: Path, outside: Path) -> None:
    (run / "model.pt2.part").write_text("half")
    (run / ".part-x1").mkdir()
    (run / ".part-x1" / "model.onnx").write_text("half")
    (run / ".part-x2").symlink_to(outside.parent)
    (run / "report.html.part").symlink_to(outside)
    (run / "department").write_text("mine")
    disk.clear(run)
    assert [entry.name for entry in run.iterdir()] == ["department"]
    assert outside.read_text() == "mine"


def test_a_line_that_is_interrupted_is_taken_back(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.append_to(run / "trials.jsonl", b"one\n")

    def stopped(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        disk.append_to(run / "trials.jsonl", b"two\n")
    assert (run / "trials.jsonl").read_bytes() == b"one\n"
