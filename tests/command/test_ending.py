"""How a command ends that is stopped from outside, or whose output nobody takes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoprune.addresses import failing
from autoprune.command import arguments, ending
from autoprune.command.cli import main
from autoprune.errors import TrialFailed
from autoprune.runs.journal import Run
from autoprune.stops import later
from tests import ASSETS
from tests.making import SMALL_SEARCH

MINE = f"{ASSETS / 'mine.py'}:make"


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Signals as a terminal leaves them: whoever runs tests in the background may have them ignored."""
    before = {one: signal.getsignal(one) for one in ending.STOPS}
    for one in before:
        signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_search_says_how_to_go_on_and_ends_with_the_signals_number(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Run.append

    def stopped(self: Run, trial: object) -> object:
        if tmp_path in self.directory.parents:  # not when all is tried once, small
            os.kill(os.getpid(), number)
        return append(self, trial)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "append", stopped)
    asked = ["search", MINE, "--controller", "random", "--budget", "macs=50%", "--trials", "3", "--out", str(tmp_path)]
    assert main(asked) == 128 + number
    (directory,) = tmp_path.glob("*/*")
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"autoprune: stopped; go on with: autoprune resume {directory}"
    assert "Traceback" not in said


def test_a_stop_inside_an_exporter_is_heard_when_that_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's exporter went on after what a handler raised in it, and ended with 0; or it ended with SIGABRT."""
    export, done = torch.export.export, list[object]()

    def stopped(*given: object, **named: object) -> object:
        if [path for path in tmp_path.glob("*/*") if (path / "trials.jsonl").exists()]:  # not when all is tried small
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(export(*given, **named))  # type: ignore[arg-type]
        return done[-1]

    monkeypatch.setattr(torch.export, "export", stopped)
    config = tmp_path / "mine.toml"
    config.write_text(SMALL_SEARCH)
    assert main(["search", str(config), "--out", str(tmp_path)]) == 143
    (directory,) = tmp_path.glob("*/*")
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"go on with: autoprune resume {directory}")
    assert not (directory / "report.json").exists()
    assert done


def test_a_stop_that_a_users_code_swallows_is_heard_at_the_next_stage() -> None:
    seen = list[int]()
    with ending.stoppable() as stops:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stops.between(seen.append)(1)
    assert not seen


@pytest.mark.parametrize("waits", [False, True])
def test_a_copy_of_the_process_ends_as_it_would_without_us(waits: bool) -> None:
    """`multiprocessing.Pool.terminate` sends SIGTERM to forked workers of a user's: each left a traceback."""
    with ending.stoppable(), later() if waits else contextlib.nullcontext():
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                os.write(tell, b"!")
                time.sleep(60)
            os._exit(70)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_second_stop_does_not_wait() -> None:
    heard = list[str]()

    def twice() -> None:
        with later():
            os.kill(os.getpid(), signal.SIGINT)
            heard.append("the first waits")
            os.kill(os.getpid(), signal.SIGINT)
            heard.append("the second does not")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert heard == ["the first waits"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_stop_that_was_turned_into_an_error_is_a_stop(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP while pydantic's Rust built a schema came out of it as a SchemaError, with a traceback."""

    def turned(directory: Path) -> None:
        if tmp_path not in directory.parents:  # when all is tried once, small
            return
        stop = ""
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as caught:
            stop = type(caught).__name__
        raise ValueError(f"Error building a validator: {stop}:")

    monkeypatch.setattr("autoprune.report.page.write_html", turned)
    config = tmp_path / "mine.toml"
    config.write_text(SMALL_SEARCH)
    assert main(["search", str(config), "--out", str(tmp_path)]) == 128 + number
    (directory,) = tmp_path.glob("*/*")
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"autoprune: stopped; go on with: autoprune resume {directory}"
    assert "Traceback" not in said


def test_a_stop_that_a_users_code_turned_into_an_error_fails_no_trial() -> None:
    def theirs(error: type[Exception]) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise error("a worker was interrupted")  # noqa: B904

    for error in (RuntimeError, TrialFailed):
        with pytest.raises(KeyboardInterrupt), failing():
            theirs(error)


def test_signals_are_as_they_were_afterwards_and_ignored_ones_stay_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending.stoppable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "nohup"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("words", [["plugins"], ["plugins", "--json"]])
def test_a_full_stdout_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "autoprune", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "autoprune: error: stdout cannot be written: No space left on device\n"


def test_a_search_whose_disk_is_full_at_the_end_says_what_is_missing_and_goes_on_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's writer ended the process with SIGABRT while `model.pt2` was written, three times of three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=52k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        config = tmp_path / "mine.toml"
        config.write_text(SMALL_SEARCH)
        assert main(["search", str(config), "--out", str(disk)]) == 2
        (directory,) = (disk / "mine").iterdir()
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{directory}/model.pt2 cannot be written: No space left on device (0.0" in said
        assert said.endswith(f"MiB are free); once that is mended, go on with: autoprune resume {directory}")
        names = {path.name for path in directory.iterdir()}
        assert {"model.pt2", "model.pt2.part", "report.json"}.isdisjoint(names)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert main(["resume", str(directory)]) == 0
        assert (directory / "report.html").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_while_the_command_line_is_read_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 140 kills came then, and left a traceback."""

    def interrupted() -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return None

    monkeypatch.setattr(arguments, "parser", interrupted)
    assert main(["plugins"]) == 130
    assert capsys.readouterr().err.strip() == "autoprune: stopped; nothing was written"
