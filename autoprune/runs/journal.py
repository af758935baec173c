"""A run on disk: one directory, one append-only journal. What is not in the journal did not happen.

    runs/<space>/<UTC>-<controller>-s<seed>/
        config.json     what was asked, with every default written out
        space.json      the choices, to notice that the network has changed
        machine.json    what was measured or found on the machine that began the run
        trials.jsonl    one line a trial, on the disk before the controller hears of it: the only truth
        best.json       the best trial so far, for people
        *.safetensors   what an evaluator trained for the search, where it does
        lock            held as long as a process works on the run, with its id (POSIX)

A run is continued by opening its directory again with the same config; only the number of trials may differ, and what
changes no trial. What a line of the journal holds is said in `autoprune.runs.lines`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO

from autoprune.errors import PolicyError, RunError, SearchFailed
from autoprune.files import disk
from autoprune.files.disk import Json
from autoprune.runs import lines
from autoprune.runs.differences import differences, plain, replaced
from autoprune.runs.entries import Ask
from autoprune.runs.rules import Rules
from autoprune.values.budget import Limit, Predicts
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

PREPARING = "preparing"  # in machine.json, seconds before the first policy was asked for
RUNS = Path("runs")  # where runs lie, unless it is said
JOURNAL, _OLD = "trials.jsonl", "trials.format1.jsonl"
_NONE: Mapping[str, Predicts] = MappingProxyType({})
_FREE = (  # of the config, what a continued run may have otherwise
    "search.trials",
    "search.time",
    "report.fidelity",
    "task.data",
    "workers.local",
    "workers.gpus",
    "workers.cluster",
)


def place(root: Path, space: str, controller: str, seed: int, now: datetime) -> Path:
    """A directory below `root` that does not exist yet, named after what runs in it and when it began."""
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{stamp}-{_slug(controller)}-s{seed}"
    parent = root / _slug(space)
    candidates = (parent / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def stored(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in a run's file, such as "config.json". Raises RunError where there is none."""
    try:
        return disk.read_json(directory / name)
    except FileNotFoundError:
        raise RunError(f"{directory} is no run: it has no {name}{_below(directory)}") from None
    except OSError as wrong:
        raise RunError(f"{directory} is no run: its {name} cannot be read ({wrong.strerror})") from None


def _below(directory: Path) -> str:
    """What runs lie in a folder that is none; "" where there are none."""
    found = [path.parent for depth in ("*", "*/*") for path in directory.glob(f"{depth}/config.json")]
    latest = max(found, key=lambda path: path.name, default=None)
    return f"; {len(found)} lie below it, the latest is {latest}" if latest else ""


def resuming(directory: Path) -> str:
    """The command that goes on with the run in `directory`."""
    return f"autoprune resume {shlex.quote(str(directory))}"


def require_same(directory: Path, space: SearchSpace) -> None:
    """Raise RunError naming what differs where the run in `directory` was begun with another space than `space`."""
    changed = differences(lines.upgraded(stored(directory, "space.json")), lines.described(space))
    if changed:
        raise RunError(f"{directory} was begun with another network: {', '.join(changed)} differ")


def space_of(directory: Path) -> SearchSpace:
    """The choices of a run, as its space.json says them: levels and names, without what they cost."""
    return lines.space(lines.upgraded(stored(directory, "space.json")))


def trials(directory: Path, rules: Rules) -> list[Trial]:
    """The trials of a run, which are as `rules` say; the run is left as it is, even while it goes on.

    Raises RunError where there is no journal, or a damaged one.
    """
    with _content(directory) as content:
        found = lines.read(directory / JOURNAL, content, rules)
    _require_facts(directory, found)
    return found.trials


def count(directory: Path) -> int:
    """How many trials a run's journal holds, by its lines; 0 where there is none."""
    if not (directory / JOURNAL).exists():
        return 0
    with _content(directory) as content:
        return lines.count(content)


class Run:
    """The trials of one search, in memory and on disk.

    Attributes:
        directory: where the run lies.
        machine: what was found on the machine that began it; what a resumed run goes on with.
    """

    def __init__(
        self,
        directory: Path,
        config: Json,
        space: SearchSpace,
        machine: Json | None = None,
        *,
        compared: Json | None = None,
        costs: Mapping[str, Predicts] = _NONE,
        limits: Sequence[Limit] = (),
    ) -> None:
        """Begin a run in `directory`, or continue the one that is there. Raises RunError where that cannot be.

        `compared` is the part of `config` that the run was begun with, if there are settings now that there were not.
        Trials are held to `costs` and `limits` as `Rules` says.
        """
        self.directory = directory
        self._space = space
        self._rules = Rules(space, costs, limits)
        self._journal = -1
        with contextlib.ExitStack() as opened:
            with disk.refused(directory):
                directory.mkdir(parents=True, exist_ok=True)
                opened.callback(os.close, _lock(directory))
                disk.clear(directory)
                self._describe(config, machine or {}, compared or config)
                self.machine: Json = stored(directory, "machine.json")
                self._held = self._recovered()
                self._trials = self._held.trials
                self._journal = disk.opened(directory / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                opened.callback(os.close, self._journal)
                disk.sync_folder(directory)
                self._best = max((t for t in self._trials if t.reward is not None), key=rank, default=None)
                self._write_best()
            self._opened = opened.pop_all()

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(tuple(self._trials))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory. Closing twice is harmless."""
        self._opened.close()
        self._journal = -1

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial, in the order of telling: a view that grows with the run, so that nobody needs a copy."""
        return self._trials

    def require(self, policy: Policy) -> None:
        """Raise PolicyError where `policy`, as a controller proposed it, is none of the space or exceeds the budget."""
        if wrong := self._rules.of_policy(policy):
            raise PolicyError(
                f"the controller proposed no policy of the space: {wrong}; space.snap(sparsities) makes such a policy"
            )
        if wrong := self._rules.over(policy):
            raise PolicyError(f"the controller proposed what {wrong}; budget.fit(policy) makes it meet the budget")

    @property
    def asks(self) -> Mapping[int, Ask]:
        """By number, what was asked for ahead of the trial before; none in a run of one ask after the other."""
        return self._held.asks

    def ask(self, number: int, policy: Policy) -> Ask:
        """Write down that `policy` was asked for, before it is evaluated, with as many trials told as there are."""
        ask = Ask(number, policy, len(self))
        self._write(lines.ask_line(ask))
        self._held.asks[number] = ask
        return ask

    def append(self, trial: Trial) -> Trial:
        """Write `trial` to the journal; when this returns it is on the disk."""
        if trial.number != len(self):
            raise RunError(f"trial {trial.number} cannot follow {len(self)} trials; its number would be {len(self)}")
        self._write(lines.line(trial))
        return self._told(trial)

    def keep(self, trial: Trial, place: int) -> None:
        """Write `trial`, that was asked for ahead and is told when `place` others were, to the journal; see `turn`."""
        if trial.number not in self.asks or place < len(self) or place in self._held.early:
            raise RunError(f"trial {trial.number} was not asked for, or is there already")
        self._write(lines.line(trial, place))
        self._held.early[place] = trial

    def turn(self) -> Trial | None:
        """The next trial to be told, now one of the run's, if it was kept."""
        trial = self._held.early.pop(len(self), None)
        return None if trial is None else self._told(trial)

    @property
    def early(self) -> set[tuple[Policy, int]]:
        """The policies of trials that are kept, whose turn has not come."""
        return {(trial.policy, trial.rung) for trial in self._held.early.values()}

    def evaluated(self) -> set[int]:
        """The numbers of the asks whose trials are in the journal, told or not."""
        return {trial.number for trial in (*self._trials, *self._held.early.values())}

    def _write(self, line: bytes) -> None:
        if self._journal < 0:
            raise RunError(f"{self.directory} is closed; open it again to append to it")
        with disk.refused(self.directory):
            disk.append(self._journal, line)

    def _told(self, trial: Trial) -> Trial:
        self._trials.append(trial)
        if trial.reward is not None and (self._best is None or rank(trial) > rank(self._best)):
            self._best = trial
            with disk.refused(self.directory):
                self._write_best()
        return trial

    def best(self) -> Trial:
        """The trial of the largest reward at the highest rung, the earlier of equals.

        Raises SearchFailed where none succeeded.
        """
        if self._best is None:
            cause = f"; the last failed with: {self._trials[-1].error}" if self._trials else ""
            raise SearchFailed(f"none of {len(self)} trials in {self.directory} succeeded{cause}")
        return self._best

    def _describe(self, config: Json, machine: Json, compared: Json) -> None:
        """Write what the run is, or check that it is what was begun."""
        config, compared = plain(config), plain(compared)
        written = self.directory / "config.json"
        if not written.exists():
            disk.write_text(self.directory / "space.json", lines.space_text(self._space))
            disk.write_json(self.directory / "machine.json", machine)
            disk.write_json(written, config)
            return
        before = stored(self.directory, "config.json")
        changed = [key for key in differences(before, compared) if key not in _FREE]
        if changed:
            raise RunError(f"{self.directory} was begun with another {', '.join(changed)}; start a new run for that")
        require_same(self.directory, self._space)
        now = replaced(before, config, _FREE)
        if before != now:
            disk.write_json(written, now)

    def _recovered(self) -> lines.Held:
        """What the journal holds, which then is of format 2 and ends with a whole line.

        A last line that a crash cut short is cut off; any other damage is refused. A journal of format 1 is kept beside
        the new one.
        """
        journal = self.directory / JOURNAL
        with _content(self.directory) if journal.exists() else io.BytesIO() as content:
            found = lines.read(journal, content, self._rules)
            size = content.seek(0, os.SEEK_END)
        _require_facts(self.directory, found)
        if found.facts:
            if found.end < size:
                disk.cut(journal, found.end)
            return found
        if found.trials:
            disk.write_bytes(self.directory / _OLD, disk.read_bytes(journal))
            disk.write_text(self.directory / "space.json", lines.space_text(self._space))
        disk.write_bytes(journal, lines.head(_hashed(self.directory)) + b"".join(map(lines.line, found.trials)))
        return found

    def _write_best(self) -> None:
        if self._best is not None:
            best = self._best
            levels = zip(self._space, best.policy.levels, strict=True)
            kept = [{"name": c.name, "kept": k, "of": c.dense, "sparsity": c.sparsity(k)} for c, k in levels]
            facts = {"number": best.number, "reward": best.reward, "metric": best.metric, "costs": dict(best.costs)}
            disk.write_json(self.directory / "best.json", {**facts, "choices": kept})


def rank(trial: Trial) -> tuple[int, float, int]:
    """The larger, the better: whoever got higher is ahead, since rewards of different rungs are not to be compared."""
    return (trial.rung, trial.reward or 0.0, -trial.number)


def _slug(word: str) -> str:
    """`word` as a file name: an address such as "my/file.py:Mine" becomes "Mine"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word.rpartition(":")[2]).strip("-.") or "unnamed"


def _lock(directory: Path) -> int:
    """The open lock file of `directory`. It is let go when closed, or when the process ends, however it ends."""
    file = disk.opened(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 32).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise RunError(f"{directory} is in use by process {owner}; wait until it ends, or stop it") from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _content(directory: Path) -> BinaryIO:
    """A run's journal, open to be read. Raises RunError where it cannot be."""
    try:
        return disk.reading(directory / JOURNAL)
    except OSError as wrong:
        raise RunError(f"{directory / JOURNAL} cannot be read ({wrong.strerror}); a run's journal is needed") from None


def _require_facts(directory: Path, held: lines.Held) -> None:
    """Raise RunError where the run's files are not those that its journal was begun with."""
    if held.facts not in ("", _hashed(directory)):
        what = "config.json, space.json or machine.json was changed since the run began"
        raise RunError(f"{directory}: {what}; restore them, or begin a new run")


def _hashed(directory: Path) -> str:
    """A hash of the run's facts: what was asked, but for what may change, the choices, the machine, but for seconds."""
    config, space, machine = (stored(directory, name) for name in ("config.json", "space.json", "machine.json"))
    machine.pop(PREPARING, None)
    return lines.hashed([replaced(config, {}, _FREE), space, machine])
