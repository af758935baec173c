"""A run on disk: one directory, one append-only journal. What is not in the journal did not happen.

    runs/<space>/<UTC>-<controller>-s<seed>/
        config.json     what was asked, with every default written out
        space.json      the groups, to notice that the network has changed
        machine.json    what was measured or found on the machine that began the run
        trials.jsonl    one line a trial, on the disk before the controller hears of it: the only truth
        best.json       the best trial so far, for people
        *.safetensors   what an evaluator trained for the search, where it does
        lock            held as long as a process works on the run, with its id (POSIX)

A run is continued by opening its directory again with the same config; only the number of trials may differ, and what
changes no trial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from autoprune.errors import AutopruneError, RunError, SearchFailed
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

Json = Mapping[str, Any]
_FREE = ("search.trials", "report.fidelity")  # of the config, what a continued run may have otherwise


def place(root: Path, space: str, controller: str, seed: int, now: datetime) -> Path:
    """A directory below `root` that does not exist yet, named after what runs in it and when it began."""
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{stamp}-{_slug(controller)}-s{seed}"
    parent = root / _slug(space)
    candidates = (parent / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def stored(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in a run's file, such as "config.json". Raises RunError where there is none."""
    path = directory / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(f"{directory} is no run: it has no {name}") from None
    except ValueError as wrong:
        raise RunError(f"{path} is damaged ({wrong}); it should hold one JSON object") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged; it should hold one JSON object")
    return found


def resuming(directory: Path) -> str:
    """The command that goes on with the run in `directory`."""
    return f"autoprune resume {shlex.quote(str(directory))}"


def require_same(directory: Path, space: SearchSpace) -> None:
    """Raise RunError naming what differs where the run in `directory` was begun with another space than `space`."""
    changed = _differences(stored(directory, "space.json"), _described(space))
    if changed:
        raise RunError(f"{directory} was begun with another network: {', '.join(changed)} differ")


def trials(directory: Path, groups: int) -> list[Trial]:
    """The trials of a run whose space has so many groups; the run is left as it is, even while it goes on.

    Raises RunError where there is no journal, or a damaged one.
    """
    journal = directory / "trials.jsonl"
    try:
        return _read(journal, journal.read_bytes(), groups)
    except OSError as wrong:
        raise RunError(f"{directory} has no trials that can be read ({wrong.strerror})") from None


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
    ) -> None:
        """Begin a run in `directory`, or continue the one that is there. Raises RunError where that cannot be.

        `compared` is the part of `config` that the run was begun with, if there are settings now that there were not.
        """
        self.directory = directory
        self._space = space
        self._journal = -1
        with contextlib.ExitStack() as opened:
            with refused(directory):
                directory.mkdir(parents=True, exist_ok=True)
                opened.callback(os.close, _lock(directory))
                self._describe(config, machine or {}, compared or config)
                self.machine: Json = stored(directory, "machine.json")
                self._trials = _recover(directory / "trials.jsonl", len(space))
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._journal = os.open(directory / "trials.jsonl", flags, 0o644)
                opened.callback(os.close, self._journal)
                _sync_folder(directory)
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
        """Every trial, by number."""
        return tuple(self._trials)

    def append(self, trial: Trial) -> Trial:
        """Write `trial` to the journal; when this returns it is on the disk."""
        if self._journal < 0:
            raise RunError(f"{self.directory} is closed; open it again to append to it")
        if trial.number != len(self):
            raise RunError(f"trial {trial.number} cannot follow {len(self)} trials; its number would be {len(self)}")
        line = (_line(trial) + "\n").encode()
        with refused(self.directory):
            _write_whole(self._journal, line)
        self._trials.append(trial)
        if trial.status == "ok" and self.best() is trial:
            with refused(self.directory):
                self._write_best()
        return trial

    def best(self) -> Trial:
        """The trial of the largest reward, the earlier of equals. Raises SearchFailed where none succeeded."""
        done = [t for t in self._trials if t.reward is not None]
        if not done:
            cause = f"; the last failed with: {self._trials[-1].error}" if self._trials else ""
            raise SearchFailed(f"none of {len(self)} trials in {self.directory} succeeded{cause}")
        return max(done, key=lambda t: (t.reward, -t.number))

    def _describe(self, config: Json, machine: Json, compared: Json) -> None:
        """Write what the run is, or check that it is what was begun."""
        config, compared = _plain(config), _plain(compared)
        written = self.directory / "config.json"
        if not written.exists():
            write_json(self.directory / "space.json", _described(self._space))
            write_json(self.directory / "machine.json", machine)
            write_json(written, config)
            return
        before = stored(self.directory, "config.json")
        changed = [key for key in _differences(before, compared) if key not in _FREE]
        if changed:
            raise RunError(f"{self.directory} was begun with another {', '.join(changed)}; start a new run for that")
        require_same(self.directory, self._space)
        if before != config:
            write_json(written, config)

    def _write_best(self) -> None:
        if any(t.reward is not None for t in self._trials):
            best = self.best()
            kept = zip(self._space, self._space.kept(best.policy), strict=True)
            groups = [{"name": g.name, "kept": k, "of": g.of, "sparsity": g.sparsity(k)} for g, k in kept]
            facts = {"number": best.number, "reward": best.reward, "metric": best.metric, "costs": best.costs}
            write_json(self.directory / "best.json", {**facts, "groups": groups})


def write_json(path: Path, value: Json) -> None:
    """Write `value` so that `path` holds all of it or what it held before."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or what it held before."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _slug(word: str) -> str:
    """`word` as a file name: an address such as "my/file.py:Mine" becomes "Mine"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word.rpartition(":")[2]).strip("-.") or "unnamed"


def _lock(directory: Path) -> int:
    """The open lock file of `directory`. It is let go when closed, or when the process ends, however it ends."""
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 32).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise RunError(f"{directory} is in use by process {owner}; wait until it ends, or stop it") from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


@contextlib.contextmanager
def refused(place: Path) -> Iterator[None]:
    """Inside, what the operating system refuses becomes a RunError that names `place`."""
    try:
        yield
    except AutopruneError:
        raise
    except OSError as wrong:
        raise RunError(f"{place} cannot be written: {wrong.strerror or wrong}") from wrong


def _write_whole(file: int, line: bytes) -> None:
    """Append `line` and bring it to the disk; where that fails, cut off what was written of it."""
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _line(trial: Trial) -> str:
    entry = dataclasses.asdict(trial)
    entry["policy"] = list(trial.policy.sparsity)
    return json.dumps(entry, allow_nan=False)


def _recover(journal: Path, groups: int) -> list[Trial]:
    """The trials in `journal`. A last line that a crash cut short is cut off the file; any other damage is refused."""
    if not journal.exists():
        return []
    whole = journal.read_bytes()
    trials = _read(journal, whole, groups)
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(journal, end)
    return trials


def _read(journal: Path, whole: bytes, groups: int) -> list[Trial]:
    """The trials in what `journal` holds, without a last line that was cut short."""
    lines = whole[: whole.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [_trial(line, number, groups, journal) for number, line in enumerate(lines)]


def _trial(line: bytes, number: int, groups: int, journal: Path) -> Trial:
    try:
        entry = json.loads(line)
        trial = Trial(**entry | {"policy": Policy(tuple(float(s) for s in entry["policy"]))})
        _check(trial, number, groups)
    except (ValueError, TypeError, KeyError) as wrong:
        raise RunError(
            f"{journal}, line {number + 1} is damaged ({wrong}); restore it, or cut the file before that line"
        ) from None
    return trial


def _check(trial: Trial, number: int, groups: int) -> None:
    if trial.number != number:
        raise ValueError(f"it is of trial {trial.number}, not {number}")
    if len(trial.policy) != groups or not all(0 <= s < 1 for s in trial.policy.sparsity):
        raise ValueError(f"its policy is not {groups} sparsities in [0, 1)")
    if trial.status == "failed":
        good = trial.metric is None and trial.reward is None
    else:
        good = trial.status == "ok" and _finite(trial.metric) and _finite(trial.reward)
    if not good:
        raise ValueError(f"status {trial.status!r} with metric {trial.metric!r} and reward {trial.reward!r}")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _described(space: SearchSpace) -> dict[str, Any]:
    """What space.json holds."""
    return _plain({"name": space.name, "groups": _groups(space)})


def _groups(space: SearchSpace) -> list[dict[str, object]]:
    words = ("name", "of", "layers", "lowest", "step", "width")
    return [{word: getattr(group, word) for word in words} for group in space]


def _plain(value: Json) -> dict[str, Any]:
    """`value` as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _differences(before: object, now: object, at: str = "") -> list[str]:
    """Where two JSON values differ, as dotted paths."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{at}.{k}".lstrip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [d for i, (old, new) in pairs for d in _differences(old, new, f"{at}.{i}")]
    return [] if before == now else [at]
