"""A run's directory: the journal survives whatever happens to it, or says which line did not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import RunError, SearchFailed
from autoprune.runs.journal import Run, place, stored, write_text
from autoprune.values.space import Group, SearchSpace
from autoprune.values.trial import Trial
from tests import ASSETS

SPACE = SearchSpace("toy", (Group("a", 8, ("a", "b")), Group("b", 16, ("b",), step=4)))
CONFIG = {"name": "toy", "search": {"trials": 3, "seed": 0}, "budget": {"macs": "50%"}}
GOLDEN = ASSETS / "journal_v1.jsonl"


def trial(number: int, reward: float | None = 0.5, kept: tuple[int, int] = (4, 8)) -> Trial:
    policy = SPACE.policy(kept)
    if reward is None:
        return Trial(number, policy, "failed", costs={"macs": 1.0}, error="out of memory")
    return Trial(number, policy, "ok", reward, {"macs": 1.0}, reward, seconds={"ask": 0.1})


def run(directory: Path, **changes: object) -> Run:
    return Run(directory, {**CONFIG, **changes}, SPACE, {"precision": "fp32"})


class TestJournal:
    @settings(max_examples=20)
    @given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), max_size=12))
    def test_gives_back_what_was_appended(self, rewards: list[float | None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            written = [trial(n, reward) for n, reward in enumerate(rewards)]
            with run(Path(folder) / "r") as first:
                assert [first.append(t) for t in written] == written
            with run(Path(folder) / "r") as again:
                assert list(again) == written

    def test_of_the_first_version_is_read_forever(self, tmp_path: Path) -> None:
        """The golden journal: change the format in a way that keeps this, or write a reader for the old one."""
        run(tmp_path).close()
        (tmp_path / "trials.jsonl").write_bytes(GOLDEN.read_bytes())
        with run(tmp_path) as read:
            assert [t.status for t in read] == ["ok", "failed", "ok"]
            assert read.best() == Trial(
                number=2,
                policy=SPACE.policy((3, 12)),
                metric=0.8125,
                costs={"macs": 1234.0, "params": 56.0},
                reward=0.8125,
                seconds={"ask": 0.001, "prune": 0.02, "score": 0.3, "journal": 0.004},
            )
        assert (tmp_path / "trials.jsonl").read_bytes() == GOLDEN.read_bytes()

    def test_is_written_as_the_golden_one(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        (tmp_path / "trials.jsonl").write_bytes(GOLDEN.read_bytes())
        with run(tmp_path) as read, run(tmp_path / "copy") as copy:
            for one in read:
                copy.append(one)
        assert (tmp_path / "copy" / "trials.jsonl").read_bytes() == GOLDEN.read_bytes()

    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_loses_only_a_torn_last_line(self, tmp_path: Path, cut: int) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
            first.append(trial(1))
        journal = tmp_path / "trials.jsonl"
        journal.write_bytes(journal.read_bytes()[:-cut])
        with run(tmp_path) as again:
            assert list(again) == [trial(0)]
            again.append(trial(1, 0.75))
        with run(tmp_path) as last:
            assert list(last) == [trial(0), trial(1, 0.75)]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("garbage", "line 2 is damaged"),
            ("\x00\x00", "line 2 is damaged"),
            ("[]", "line 2 is damaged"),
            ('{"number": 1}', "line 2 is damaged"),
            ('{"number": 5, "policy": [0.5, 0.5], "status": "failed"}', "it is of trial 5, not 1"),
            ('{"number": 1, "policy": [0.5], "status": "failed"}', "not 2 sparsities"),
            ('{"number": 1, "policy": [0.5, 1.5], "status": "failed"}', "not 2 sparsities"),
            ('{"number": 1, "policy": [0.5, 0.5], "status": "ok"}', "status 'ok' with metric None"),
            ('{"number": 1, "policy": [0.5, 0.5], "status": "done"}', "status 'done'"),
            ('{"number": 1, "policy": [0.5, 0.5], "status": "failed", "weather": 1}', "weather"),
        ],
    )
    def test_names_the_damaged_line(self, tmp_path: Path, line: str, reason: str) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
        journal = tmp_path / "trials.jsonl"
        whole = journal.read_text() + line + "\n" + journal.read_text()
        journal.write_text(whole)
        with pytest.raises(RunError, match=reason) as caught:
            run(tmp_path)
        assert "trials.jsonl" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert journal.read_text() == whole, "a damaged journal is evidence; it is not touched"

    def test_is_on_the_disk_when_append_returns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        with run(tmp_path) as first:
            monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
            first.append(trial(0))
            assert (tmp_path / "trials.jsonl").stat().st_size in synced

    def test_is_whole_after_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(file: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
            write(file, data[:10])
            raise OSError(28, "No space left on device")

        with run(tmp_path) as first:
            first.append(trial(0))
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", full)
                with pytest.raises(RunError, match="No space left"):
                    first.append(trial(1))
            assert len(first) == 1
            first.append(trial(1))
        with run(tmp_path) as again:
            assert list(again) == [trial(0), trial(1)]

    def test_refuses_a_number_out_of_turn(self, tmp_path: Path) -> None:
        with run(tmp_path) as first, pytest.raises(RunError, match="trial 1 cannot follow 0 trials"):
            first.append(trial(1))

    def test_refuses_to_grow_when_closed(self, tmp_path: Path) -> None:
        first = run(tmp_path)
        first.close()
        first.close()
        with pytest.raises(RunError, match="is closed"):
            first.append(trial(0))


class TestBest:
    def test_is_the_earlier_of_equals(self, tmp_path: Path) -> None:
        with run(tmp_path) as first:
            for number, reward in enumerate([0.1, None, 0.7, 0.7, -1.0]):
                first.append(trial(number, reward))
            assert first.best().number == 2
            assert json.loads((tmp_path / "best.json").read_text())["number"] == 2

    def test_may_be_negative(self, tmp_path: Path) -> None:
        with run(tmp_path) as first:
            first.append(trial(0, -2.0))
            assert first.best().reward == -2.0

    def test_of_failures_only_is_an_error_with_the_cause(self, tmp_path: Path) -> None:
        with run(tmp_path) as first:
            first.append(trial(0, None))
            with pytest.raises(SearchFailed, match=r"none of 1 trials .* out of memory"):
                first.best()

    def test_is_written_for_people_even_after_a_crash_before_it(self, tmp_path: Path) -> None:
        with run(tmp_path) as first:
            first.append(trial(0, kept=(3, 8)))
        (tmp_path / "best.json").unlink()
        with run(tmp_path):
            best = json.loads((tmp_path / "best.json").read_text())
        assert best["groups"][0] == {"name": "a", "kept": 3, "of": 8, "sparsity": 0.625}


class TestContinuing:
    def test_with_another_config_is_refused_naming_what_differs(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        with pytest.raises(RunError, match=r"begun with another budget.macs, search.seed; start a new run"):
            run(tmp_path, budget={"macs": "60%"}, search={"trials": 3, "seed": 1})

    def test_with_more_trials_is_allowed_and_remembered(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        run(tmp_path, search={"trials": 30, "seed": 0}).close()
        assert stored(tmp_path, "config.json")["search"]["trials"] == 30

    def test_with_another_network_is_refused(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        other = SearchSpace("toy", (Group("a", 8, ("a", "b")), Group("b", 32, ("b",), step=4)))
        with pytest.raises(RunError, match=r"another network: groups.1.of differ"):
            Run(tmp_path, CONFIG, other)

    def test_keeps_what_was_found_on_the_first_machine(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        with Run(tmp_path, CONFIG, SPACE, {"precision": "bf16"}) as again:
            assert again.machine == {"precision": "fp32"}

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_damaged_config_is_named(self, tmp_path: Path, text: str) -> None:
        run(tmp_path).close()
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match=r"config.json is damaged"):
            run(tmp_path)

    def test_of_no_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"is no run: it has no config.json"):
            stored(tmp_path, "config.json")

    def test_where_nothing_can_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot be written"):
            run(tmp_path / "file" / "run")


class TestLock:
    def test_refuses_a_second_process_naming_the_first(self, tmp_path: Path) -> None:
        with run(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            run(tmp_path)
        run(tmp_path).close()

    def test_is_let_go_by_an_opening_that_fails(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        with pytest.raises(RunError, match="another"):
            run(tmp_path, name="other")
        run(tmp_path).close()

    def test_dies_with_a_killed_process(self, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path; import tests.runs.test_journal as t\n"
            "r = t.run(Path(sys.argv[1])); r.append(t.trial(0)); print('ready', flush=True); time.sleep(60)"
        )
        arguments = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(RunError, match=f"in use by process {other.pid}"):
                run(tmp_path)
            other.send_signal(signal.SIGKILL)
        with run(tmp_path) as again:
            assert list(again) == [trial(0)]


class TestPlace:
    NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)

    def test_says_space_time_controller_and_seed(self, tmp_path: Path) -> None:
        east = self.NOW.astimezone(timezone(timedelta(hours=9)))
        assert place(tmp_path, "toy", "random", 3, east) == tmp_path / "toy" / "20250304T050607Z-random-s3"

    def test_is_another_one_within_the_same_second(self, tmp_path: Path) -> None:
        first = place(tmp_path, "toy", "random", 3, self.NOW)
        first.mkdir(parents=True)
        second = place(tmp_path, "toy", "random", 3, self.NOW)
        assert second.name == f"{first.name}-2"

    def test_turns_addresses_into_file_names(self, tmp_path: Path) -> None:
        found = place(tmp_path, "../my space", "some/file.py:Mine", 0, self.NOW)
        assert found == tmp_path / "my-space" / "20250304T050607Z-Mine-s0"


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(path, "new")
    assert path.read_text() == "old"
