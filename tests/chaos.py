"""Kills at random moments: a search, its end, a report or an apply is stopped again and again, and goes on.

One process imports everything and then hands out copies of itself (fork), each of which runs one command line as
`python -m autoprune` does; so a kill costs a second, not the ten that the imports take. What comes of a run that was
killed many times must be, but for the seconds, what comes of one that never was.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from autoprune.command.cli import main
from autoprune.plugins import OURS

_SMALL = "hidden = [8]\nwarmup = 3\ngradient_steps = 2\nbatch = 4"
_LADDER = "[ladder]\nsteps = [1, 3]\nkeep = 2"
RUNS: dict[str, tuple[str, str]] = {  # the controller of each, and what stands below it: its settings, or a ladder
    **{name: (name, _SMALL if name in ("ddpg", "ddpg-portable", "td3", "sac") else "") for name in OURS["controller"]},
    "ladder": ("evolution", _LADDER),
    "ladder of images": ("random", _LADDER + "\nimages = [32]"),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
MEANT = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}  # the exit status that says so
FILES = {
    "best.json", "config.json", "lock", "machine.json", "model.onnx", "model.pt2", "model.safetensors", "policy.json",
    "report.html", "report.json", "space.json", "trials.jsonl",
}  # fmt: skip
BEGUN = {"lock", "space.json", "machine.json", "space.json.part", "machine.json.part", "config.json.part"}
EACH = 16  # kills of one run
TASK = Path(__file__).parent / "assets" / "mine.py"
SPACE = """
name = "mine"
[task]
use = "{task}:make"
[budget]
macs = "60%"
[evaluator]
use = "recalibrate"
images = 100
[controller]
use = "{controller}"
{more}
[search]
trials = 8
[finetune]
epochs = 1
batch = 64
[report]
random_trials = 2
"""


def forked(words: Sequence[str], log: Path) -> int:
    """The id of a process that runs `autoprune` with these words and writes what it says to `log`."""
    if child := os.fork():
        return child
    status = 70
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and `&` ignore these, and that is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        status = main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@dataclass
class Chaos:
    """Kills at random moments.

    Attributes:
        root: where all is written.
        seed: of the moments, the signals and the controllers.
        kills: how many there were, by what was going on and the signal.
        seconds: what a whole command takes, by its name; kills fall within.
    """

    root: Path
    seed: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._log = self.root / "log.txt"

    @property
    def count(self) -> int:
        """How many kills there were."""
        return sum(self.kills.values())

    def whole(self, *words: object) -> None:
        """Run a command to its end."""
        begun = time.monotonic()
        status = os.waitpid(forked([str(word) for word in words], self._log), 0)[1]
        self.seconds.setdefault(str(words[0]), time.monotonic() - begun)
        assert os.waitstatus_to_exitcode(status) == 0, self.said()

    def killed(self, *words: object) -> bool:
        """Run a command and kill it at a random moment; False where it had ended before."""
        name, said, number = str(words[0]), len(self.said()), self._dice.choice(SIGNALS)
        begun = time.monotonic()
        moment = begun + self._dice.uniform(0.0, 0.8 * self.seconds[name])
        child = forked([str(word) for word in words], self._log)
        ended, status = 0, 0
        while time.monotonic() < moment and not ended:
            time.sleep(0.002)
            ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, self.said()[said:]
            self.seconds[name] = time.monotonic() - begun
            return False
        os.kill(child, number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = self.said()[said:]
        if status == 0:  # it was just about to end
            return False
        self.kills[f"{name} {number.name}"] += 1
        assert status in (-number, MEANT.get(number)), f"{name} ended with {status} after {number.name}: {told}"
        assert status < 0 or told.splitlines()[-1].startswith("autoprune: stopped"), told
        assert "Traceback" not in told, told
        return True

    def said(self) -> str:
        """What all commands said."""
        return self._log.read_text() if self._log.exists() else ""

    def run(self, space: Path, out: Path) -> Path:
        """A search that is killed up to `EACH` times, and then comes to its end."""
        for _ in range(EACH):
            if not self.killed(*self._going_on(space, out)):
                break
        self.whole(*self._going_on(space, out))
        (run,) = self._begun(out)
        return run

    def _going_on(self, space: Path, out: Path) -> tuple[object, ...]:
        """The command that begins a run in `out`, or goes on with the one that is there."""
        if begun := self._begun(out):
            return ("resume", *begun)
        self.require_nothing_lost(out)
        return ("search", space, "--out", out)

    def _begun(self, out: Path) -> list[Path]:
        return [place for place in out.glob("mine/*") if (place / "config.json").exists()]

    def require_nothing_lost(self, out: Path) -> None:
        """A folder of a run that did not begin holds no trial, and nothing but what a run begins with."""
        for place in out.glob("mine/*"):
            assert {path.name for path in place.iterdir()} <= BEGUN, sorted(place.iterdir())


def facts_of(run: Path) -> dict[str, Any]:
    """All that a run holds, but for the seconds."""
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"trials": [_timeless(trial) for trial in trials]}
    found["files"] = sorted(path.name for path in run.iterdir())
    for name in ("config.json", "space.json", "machine.json", "best.json", "policy.json", "report.json"):
        found[name] = _timeless(json.loads((run / name).read_text()))
    found["weights"] = (run / "model.safetensors").read_bytes()
    return found


def _timeless(value: Any) -> Any:
    """Without what a clock said."""
    if isinstance(value, list):
        return [_timeless(of) for of in value]
    if not isinstance(value, dict):
        return value
    clocked = ("seconds", "crc", "made", "policies_per_second", "exports", "preparing")
    return {key: _timeless(of) for key, of in value.items() if key not in clocked}


def space_of(controller: str, more: str = "") -> str:
    """The TOML of a search by `controller`, with what stands below its name."""
    return SPACE.format(task=TASK, controller=controller, more=more)


def chaos(root: Path, kills: int, seed: int = 0) -> Counter[str]:
    """Kill until there were so many kills; gives how many, by command and signal. Raises AssertionError."""
    told, names = Chaos(root, seed), list(RUNS)
    random.Random(seed).shuffle(names)  # few kills see few of them, and not always the same
    for number in range(1_000_000):
        name = names[number % len(names)]
        space, here = root / f"{name}.toml", root / f"{number}"
        never = root / f"never-{name}"
        if not space.exists():
            space.write_text(space_of(*RUNS[name]))
            told.whole("search", space, "--out", never)
            told.seconds["resume"] = told.seconds["search"]
        (first,) = never.glob("mine/*")
        run = told.run(space, here)
        wanted, found = facts_of(first), facts_of(run)
        assert FILES <= set(wanted["files"]) <= FILES | {"agent.safetensors"}, sorted(wanted["files"])
        for fact in ("machine.json", *wanted):
            assert found[fact] == wanted[fact], f"{fact} differs in {run} from {first}"
        _after(told, run, number)
        if number % 3 == 0:
            _twice(told, run)
        if told.count >= kills:
            return told.kills
    raise AssertionError("never enough")


def _after(told: Chaos, run: Path, number: int) -> None:
    """Kill a report and an apply of a whole run, and do each once more."""
    before, network = facts_of(run), run.parent / f"{number}.safetensors"
    if "report" not in told.seconds:
        told.whole("report", run)
        told.whole("apply", run, "--out", network)
        network.unlink()
    told.killed("report", run)
    told.killed("apply", run, "--out", network)
    told.whole("report", run)
    told.whole("apply", run, "--out", network)
    assert facts_of(run) == before
    assert {path.name for path in run.parent.iterdir() if path.is_file()} == {network.name}


def _twice(told: Chaos, run: Path) -> None:
    """Two processes go on with one run, whose last file is missing: one of them does, and the other is refused."""
    before = facts_of(run)
    (run / "report.html").unlink()
    said = len(told.said())
    children = [forked(["resume", str(run)], told.root / "log.txt") for _ in range(2)]
    ends = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert ends[0] == 0, told.said()[said:]
    assert ends[1] == 0 or "is in use by process" in told.said()[said:], told.said()[said:]
    assert facts_of(run) == before


def warmed(root: Path) -> None:
    """Run every command once in this process, so that its copies have imported everything."""
    tqdm.monitor_interval = 0  # no thread: it would not be copied
    torch.set_num_threads(1)
    space = root / "warm.toml"
    space.write_text(space_of("bayes"))
    with open(root / "warm.txt", "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main(["search", str(space), "--out", str(root / "warm")]) == 0
        (run,) = (root / "warm").glob("mine/*")
        assert main(["report", str(run)]) == 0
        assert main(["apply", str(run), "--out", str(root / "warm.safetensors")]) == 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        os.environ |= {"AUTOPRUNE_CACHE": folder, "AUTOPRUNE_ALLOWED": f"{folder}/allowed.txt"}
        warmed(Path(folder))
        told = chaos(Path(folder), int(sys.argv[1]), int(sys.argv[2]))
        sys.stdout.write(json.dumps({**told, "seconds": round(time.monotonic() - begun)}, indent=2) + "\n")
