"""A program of the user's: bounded in time and in what it prints, with all that it started."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from autoprune.targets import program


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_says_how_it_ended_and_what_it_printed_last() -> None:
    done = program.run(python("import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)"), 20)
    assert (done.status, done.out, done.err) == (3, "a\n", "b\n")


def test_endless_output_fills_no_memory() -> None:
    done = program.run(python("print('x' * 3_000_000); print('1.5')"), 30)
    assert done.out.endswith("x\n1.5\n")
    assert len(done.out) <= program.TAIL


def test_what_it_started_ends_with_its_time(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with pytest.raises(TimeoutError):
        program.run(python(code), 5)
    pid = int(mark.read_text())
    for _ in range(100):
        if not _is_running(pid):
            return
        time.sleep(0.1)
    pytest.fail("the grandchild lives on")


def test_a_child_that_keeps_the_output_open_is_not_waited_for() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)']); print(2)"
    begun = time.monotonic()
    assert program.run(python(code), 25).out == "2\n"
    assert time.monotonic() - begun < 25


def _is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
