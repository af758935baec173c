"""Nothing is lost by kills at random moments: `pytest -m chaos --kills N`. What is promised: docs/reliability.md."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import chaos

ROOT = Path(chaos.__file__).parent.parent


def alone() -> dict[str, str]:
    """The surroundings of a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_run_that_was_killed_again_and_again_is_the_run_that_never_was(request: pytest.FixtureRequest) -> None:
    kills = request.config.getoption("--kills")
    words = [sys.executable, "-m", "tests.chaos", str(kills), "0"]  # a process of its own: it makes copies of itself
    done = subprocess.run(words, cwd=ROOT, env=alone(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(count for what, count in told.items() if what != "seconds") >= kills


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_process_as_users_start_it_is_killed_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    space = tmp_path / "mine.toml"
    space.write_text(chaos.space_of("evolution"))
    program = [sys.executable, "-m", "autoprune"]
    for out in ("never", "killed"):
        words = [*program, "search", str(space), "--out", str(tmp_path / out)]
        with subprocess.Popen(words, env=alone(), stderr=subprocess.PIPE, text=True) as process:
            journal = f"{out}/mine/*/trials.jsonl"
            while out == "killed" and not any(len(j.read_bytes()) > 500 for j in tmp_path.glob(journal)):
                assert process.poll() is None
                time.sleep(0.01)
            if out == "killed":
                process.send_signal(number)
            said = process.communicate()[1]
            assert process.returncode in ((0,) if out == "never" else (-number, 128 + number)), said
            assert "Traceback" not in said
    (never,), (killed,) = (list(tmp_path.glob(f"{out}/mine/*")) for out in ("never", "killed"))
    subprocess.run([*program, "resume", str(killed)], env=alone(), check=True, capture_output=True)
    assert chaos.facts_of(killed) == chaos.facts_of(never)
