"""A run's directory: the journal survives whatever happens to it, or says which line did not."""

from __future__ import annotations

import dataclasses
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
from hypothesis import given, settings, strategies as st

from autoprune.errors import PolicyError, RunError, SearchFailed
from autoprune.files import disk
from autoprune.runs import journal, lines
from autoprune.runs.journal import Run, place, stored
from autoprune.runs.rules import Rules
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Outcome, Trial
from tests import ASSETS
from tests.making import done, failed, group

SPACE = SearchSpace("toy", (group("a", 8, ("a", "b")), group("b", 16, ("b",), step=4)))
CONFIG = {"name": "toy", "search": {"trials": 3, "seed": 0}, "budget": {"macs": "50%"}}
GOLDEN = ASSETS / "journal_v1.jsonl"


def trial(number: int, reward: float | None = 0.5, kept: tuple[int, int] = (4, 8)) -> Trial:
    policy = Policy.of(kept)
    if reward is None:
        return failed(number, policy, "out of memory", {"macs": 1.0})
    return done(number, policy, reward, {"macs": 1.0}, seconds={"ask": 0.1})


def sealed(**entry: object) -> str:
    """A line of a journal."""
    return disk.sealed(entry).decode().rstrip("\n")


def lying(number: int = 1, policy: object = (4, 8), **more: object) -> str:
    """A line with a right checksum that holds something wrong."""
    plain: dict[str, object] = {"metric": 0.5, "values": [0.5], "costs": {"macs": 1.0}, "seconds": {}}
    return sealed(number=number, policy=policy, **{**plain, **more})


def first(**more: object) -> str:
    """The second line of a journal of format 1, with something wrong."""
    plain = {"number": 1, "policy": [0.5, 0.5], "status": "ok", "metric": 0.5, "reward": 0.5}
    return json.dumps({**plain, "costs": {}, "seconds": {}, "error": "", **more})


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

    @pytest.mark.parametrize(
        "one",
        [
            trial(0),
            trial(0, None),
            Trial(0, Policy((3, 4)), Outcome(0.5, (0.25, -3.0), {"macs": 2.0}), {"prune": 0.5}, rung=2, worker="b:1"),
        ],
    )
    def test_keeps_all_that_a_trial_says(self, tmp_path: Path, one: Trial) -> None:
        second = dataclasses.replace(one, number=1, repeats=0)
        with run(tmp_path) as first:
            first.append(one)
            first.append(second)
        with run(tmp_path) as again:
            assert list(again) == [one, second]

    def test_begins_with_its_format_and_the_facts_of_the_run(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        head = json.loads((tmp_path / "trials.jsonl").read_text())
        assert list(head) == ["format", "facts", "crc"]
        assert head["format"] == 2

    def test_counts_trials_and_no_other_line(self, tmp_path: Path) -> None:
        assert journal.count(tmp_path) == 0
        with run(tmp_path) as first:
            first.append(trial(0))
            first.append(trial(1, None))
        with (tmp_path / "trials.jsonl").open("a") as file:
            file.write(sealed(number=2, policy=[4, 8], asked=2, worker="b") + "\n")
        assert journal.count(tmp_path) == 2
        (tmp_path / "trials.jsonl").write_bytes(GOLDEN.read_bytes())
        assert journal.count(tmp_path) == 3

    def test_passes_over_an_ask_whose_outcome_is_not_known(self, tmp_path: Path) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
        with (tmp_path / "trials.jsonl").open("a") as file:
            file.write(sealed(number=1, policy=[4, 8], asked=1, attempt=1, worker="b") + "\n")
            file.write(lying(asked=1, told=1, attempt=2, note="the worker was lost once") + "\n")
        with run(tmp_path) as again:
            assert [t.metric for t in again] == [0.5, 0.5]

    @pytest.mark.parametrize("at", range(3, 600, 41))
    def test_no_letter_of_it_can_change_unseen(self, tmp_path: Path, at: int) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
            first.append(trial(1))
        file = tmp_path / "trials.jsonl"
        whole = bytearray(file.read_bytes())
        at %= len(whole) - 1
        whole[at] ^= 1
        file.write_bytes(whole)
        with pytest.raises(RunError, match=f"line {whole[:at].count(10) + 1} is damaged"):
            run(tmp_path)

    @pytest.mark.parametrize("file", ["machine.json", "space.json", "config.json"])
    def test_belongs_to_the_facts_it_was_begun_with(self, tmp_path: Path, file: str) -> None:
        run(tmp_path).close()
        facts = stored(tmp_path, file)
        disk.write_json(tmp_path / file, {**facts, "added": 1})
        with pytest.raises(RunError, match=r"was changed since the run began|another (network: )?added"):
            run(tmp_path)
        disk.write_json(tmp_path / file, facts)
        run(tmp_path).close()


class TestFirstFormat:
    """The golden journal: change the format in a way that keeps this."""

    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        """A run of format 1, with a second look at a policy that had been evaluated."""
        entry = json.loads(GOLDEN.read_text().splitlines()[0])
        again = {**entry, "number": 3, "seconds": {"ask": 0.001, "journal": 0.004}}
        run(tmp_path).close()
        (tmp_path / "trials.jsonl").write_text(GOLDEN.read_text() + json.dumps(again) + "\n")
        groups = [
            {"name": c.name, "of": c.dense, "lowest": 1, "step": s, "layers": list(c.layers), "width": c.width}
            for c, s in zip(SPACE, (1, 4), strict=True)
        ]
        disk.write_json(tmp_path / "space.json", {"name": "toy", "groups": groups})
        return tmp_path

    def test_is_read_forever(self, old: Path) -> None:
        with run(old) as read:
            assert [t.metric for t in read] == [0.75, None, 0.8125, 0.75]
            assert [t.repeats for t in read] == [None, None, None, 0]
            assert read.trials[1].error == "the metric is nan; it should be a finite number"
            seconds = {"ask": 0.001, "prune": 0.02, "score": 0.3, "journal": 0.004}
            assert read.best() == done(2, Policy((3, 12)), 0.8125, {"macs": 1234.0, "params": 56.0}, seconds=seconds)

    def test_is_read_where_it_lies(self, old: Path) -> None:
        before = {path.name: path.read_bytes() for path in old.iterdir()}
        assert len(journal.trials(old, Rules(SPACE))) == 4
        journal.require_same(old, SPACE)
        assert {path.name: path.read_bytes() for path in old.iterdir()} == before

    def test_goes_on_as_the_second_and_is_kept(self, old: Path) -> None:
        before = (old / "trials.jsonl").read_bytes()
        with run(old) as read:
            found = list(read)
            read.append(trial(4))
        assert (old / "trials.format1.jsonl").read_bytes() == before
        assert json.loads((old / "space.json").read_text()) == lines.described(SPACE)
        with run(old) as again:
            assert list(again) == [*found, trial(4)]

    def test_cut_short_goes_on_after_its_last_whole_line(self, old: Path) -> None:
        file = old / "trials.jsonl"
        file.write_bytes(file.read_bytes()[:-9])
        with run(old) as read:
            assert len(read) == 3

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (first(number=5), "it is of trial 5, not 1"),
            (first(policy=[0.5]), "not 2 sparsities"),
            (first(policy=[0.5, 1.5]), "policy.1: Input should be less than 1"),
            (first(policy=[0.5, 0.3125]), "'b' cannot keep 11 units; 4, 8, 12 ..., 16 of 16 at most"),
            (first(policy=[0.5, 0.52]), "keeps no whole number of units"),
            ('{"number": 1, "policy": [0.5, 0.5], "costs": {}}', "line 2 is damaged"),
            (first(status="done"), "status: Input should be 'ok' or 'failed'"),
            (first(status="failed"), "status 'failed' with metric 0.5"),
            (first(metric=None), "status 'ok' with metric None"),
            (first(metric=10**400), "metric: Input should be a valid number"),
            (first(metric=True), "metric: Input should be a valid number"),
            (first(reward=float("nan")), "reward: Input should be a finite number"),
            (first(costs=None), "costs: Input should be a valid dict"),
            (first(costs={"macs": "1"}), "costs.macs: Input should be a valid number"),
            (first(seconds={"ask": None}), "seconds.ask: Input should be a valid number"),
            (first(error=None), "error: Input should be a valid string"),
            (first(weather=1), "weather: Extra inputs are not permitted"),
            ("{}", "number: Field required"),
            ("[" * 100_000, "line 2 is damaged"),
            (first()[:-1] + ', "metric": 0.9}', "it has the key 'metric' twice"),
        ],
    )
    def test_damaged_is_evidence(self, old: Path, line: str, reason: str) -> None:
        file = old / "trials.jsonl"
        whole = file.read_text().splitlines()[0] + "\n" + line + "\n"
        file.write_text(whole)
        with pytest.raises(RunError, match=reason):
            run(old)
        assert file.read_text() == whole


class TestDamage:
    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_loses_only_a_torn_last_line(self, tmp_path: Path, cut: int) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
            first.append(trial(1))
        file = tmp_path / "trials.jsonl"
        file.write_bytes(file.read_bytes()[:-cut])
        with run(tmp_path) as again:
            assert list(again) == [trial(0)]
            again.append(trial(1, 0.75))
        with run(tmp_path) as last:
            assert list(last) == [trial(0), trial(1, 0.75)]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("garbage", "line 3 is damaged"),
            ("\x00\x00", "line 3 is damaged"),
            ("[]", "line 3 is damaged"),
            ('{"number": 1}', "its checksum does not fit"),
            (sealed(number=1, metric=0.5), "policy: Field required"),
            (lying(5), "it is of trial 5, not 1"),
            (lying(policy=[4]), "are not 2 whole numbers, the levels of toy's choices"),
            (lying(policy=[4, 17]), "'b' cannot keep 17 units"),
            (lying(policy=[4, 7]), "'b' cannot keep 7 units; 4, 8, 12 ..., 16 of 16 at most, are its levels"),
            (lying(policy=[0, 8]), "'a' cannot keep 0 units"),
            (lying(policy=[4, 8.0]), "policy.1: Input should be a valid integer"),
            (lying(policy=[True, 8]), "policy.0: Input should be a valid integer"),
            (lying(policy=[4, -8]), "policy.1: Input should be greater than or equal to 0"),
            (lying(weather=1), "weather: Extra inputs are not permitted"),
            (lying(error="no"), "error: Extra inputs are not permitted"),
            (lying(rung="deep"), "rung: Input should be a valid integer"),
            (lying(rung=True), "rung: Input should be a valid integer"),
            (lying(repeats=-1), "repeats: Input should be greater than or equal to 0"),
            (lying(repeats=1), "it repeats trial 1, which does not come before it"),
            (lying(repeats=0, policy=(8, 8)), "it repeats trial 0, which has another policy"),
            (lying(repeats=0, metric=0.75), "it repeats trial 0, which has another policy, metric"),
            (lying(worker=3), "worker: Input should be a valid string"),
            (lying(metric=None), "metric: Input should be a valid number"),
            (lying(metric=10**400), "metric: Input should be a valid number"),
            (lying(values=[]), "values: List should have at least 1 item"),
            (lying(values=[0.5, "1"]), "values.1: Input should be a valid number"),
            (lying(costs=None), "costs: Input should be a valid dict"),
            (lying(costs={"macs": [1]}), "costs.macs: Input should be a valid number"),
            (lying(seconds=[]), "seconds: Input should be a valid dict"),
            (sealed(number=1, policy=[4, 8], error="", costs={}, seconds={}), "error: String should have at least 1"),
            (sealed(number=1, policy=[4, 8], error=None, costs={}, seconds={}), "error: Input should be a valid str"),
            (sealed(format=2, facts="x"), "number: Field required"),
            (sealed(number=1, policy=[4, 8], worker=1), "worker: Input should be a valid string"),
        ],
    )
    def test_names_the_damaged_line(self, tmp_path: Path, line: str, reason: str) -> None:
        with run(tmp_path) as first:
            first.append(trial(0))
        file = tmp_path / "trials.jsonl"
        whole = file.read_text() + line + "\n" + file.read_text()
        file.write_text(whole)
        with pytest.raises(RunError, match=reason) as caught:
            run(tmp_path)
        assert "trials.jsonl" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert file.read_text() == whole, "a damaged journal is evidence; it is not touched"

    @pytest.mark.parametrize("form", [3, "2", None])
    def test_of_a_format_that_is_not_known_is_refused(self, tmp_path: Path, form: object) -> None:
        run(tmp_path).close()
        (tmp_path / "trials.jsonl").write_text(sealed(format=form, facts="x") + "\n")
        with pytest.raises(RunError, match=f"its format is {form!r}; this version reads 1 and 2"):
            run(tmp_path)

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
        assert best["choices"][0] == {"name": "a", "kept": 3, "of": 8, "sparsity": 0.625}


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
        other = SearchSpace("toy", (group("a", 8, ("a", "b")), group("b", 32, ("b",), step=4)))
        with pytest.raises(RunError, match=r"another network: choices.1.levels differ"):
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

    def test_of_a_folder_of_runs_names_the_latest(self, tmp_path: Path) -> None:
        for name in ("toy/20260101T000000Z-random-s0", "toy/20260102T000000Z-random-s0"):
            run(tmp_path / name).close()
        for folder in (tmp_path, tmp_path / "toy"):
            with pytest.raises(
                RunError, match=r"has no config\.json; 2 lie below it, the latest is .*20260102T000000Z"
            ):
                stored(folder, "config.json")

    def test_where_nothing_can_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot be written"):
            run(tmp_path / "file" / "run")


class TestRequire:
    @pytest.mark.parametrize("levels", [(4,), (0.5, 0.5), (True, 8), (4, 8, 8)])
    def test_refuses_what_is_no_policy_of_the_space(self, tmp_path: Path, levels: tuple[int, ...]) -> None:
        with run(tmp_path) as first, pytest.raises(PolicyError, match="2 whole numbers, the levels of toy's choices"):
            first.require(Policy(levels))

    @pytest.mark.parametrize("levels", [(0, 8), (4, 17), (4, 7)])
    def test_refuses_what_no_network_has(self, tmp_path: Path, levels: tuple[int, ...]) -> None:
        with run(tmp_path) as first, pytest.raises(PolicyError, match=r"cannot keep .* space.snap"):
            first.require(Policy(levels))


class TestLeftovers:
    """A kill during export left `.part-*` folders for ever."""

    def test_of_a_killed_process_are_cleared_when_the_run_goes_on(self, tmp_path: Path) -> None:
        run(tmp_path).close()
        before = {path.name for path in tmp_path.iterdir()}
        (tmp_path / ".part-abc").mkdir()
        (tmp_path / ".part-abc" / "model.pt2").write_text("half")
        (tmp_path / "best.json.part").write_text("half")
        run(tmp_path).close()
        assert {path.name for path in tmp_path.iterdir()} == before

    def test_of_a_process_that_works_on_it_stay(self, tmp_path: Path) -> None:
        with run(tmp_path):
            (tmp_path / "best.json.part").write_text("half")
            with pytest.raises(RunError, match="in use by process"):
                run(tmp_path)
            assert (tmp_path / "best.json.part").exists()


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
    disk.write_text(path, "old")

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        disk.write_text(path, "new")
    assert path.read_text() == "old"
