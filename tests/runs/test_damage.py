"""What becomes of a journal that was changed, by a person or by a bit of the disk: it is noticed, or was harmless."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from autoprune.costs.arithmetic import Macs
from autoprune.errors import PolicyError, RunError
from autoprune.files import disk
from autoprune.runs import lines
from autoprune.runs.journal import Run
from autoprune.runs.rules import Rules
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Predicts
from autoprune.values.space import Policy
from autoprune.values.trial import Trial
from tests.making import done, failed

SPACE = toy_space(5)
HASH = lines.hashed([{"name": "toy"}])


class Timed:
    """A cost that was measured: what a line says of it cannot be computed anew."""

    unit = "ms"

    def predict(self, policy: Policy) -> float:
        return 0.001 * sum(policy.levels)


COSTS: Mapping[str, Predicts] = {"macs": Macs(SPACE), "time": Timed()}
BUDGET = half(SPACE)
RULES = Rules(SPACE, COSTS, BUDGET.limits)


def some(count: int = 8) -> list[Trial]:
    """Of random policies; one failed, one repeats another."""
    rng, found = np.random.default_rng(0), list[Trial]()
    for number in range(count):
        policy = BUDGET.fit(SPACE.cube.policy(rng.random(len(SPACE.cube))))
        costs = {name: cost.predict(policy) for name, cost in COSTS.items()}
        found.append(done(number, policy, round(rng.random(), 4), costs, seconds={"ask": 0.001, "score": 0.3}))
    found[2] = failed(2, found[2].policy, "the loss is nan", found[2].costs)
    found[5] = Trial(5, found[1].policy, found[1].outcome, {"ask": 0.002}, repeats=1)
    return found


TRIALS = some()
WHOLE = lines.head(HASH) + b"".join(map(lines.line, TRIALS))


def read(whole: bytes, rules: Rules = RULES) -> lines.Held:
    return lines.read(Path("trials.jsonl"), io.BytesIO(whole), rules)


def changed(number: int, **fields: object) -> bytes:
    """The journal with other fields in one trial, and a right checksum."""
    found = WHOLE.split(b"\n")
    entry = disk.unsealed(found[number + 1])
    found[number + 1] = disk.sealed({**entry, **fields}).rstrip(b"\n")
    return b"\n".join(found)


class TestFlippedBits:
    """Of 4,000 flips 867 were accepted once: 48 changed a policy, 23 a metric, and one lost a trial."""

    def test_every_one_is_found_and_its_line_named(self) -> None:
        assert read(WHOLE)[:3] == (HASH, TRIALS, len(WHOLE))
        for bit in some_bits(WHOLE, 4000):
            line = min(WHOLE[: bit // 8].count(b"\n") + 1, len(TRIALS) + 1)
            said = refusal(flipped(WHOLE, bit))
            assert said.startswith(f"trials.jsonl, line {line} is damaged ("), (bit, said)
            assert said.endswith("; restore it, or cut the file before that line")

    def test_in_the_first_format_none_changes_what_a_network_was(self) -> None:
        """It has no checksums: a policy is known by its costs, but a score and its seconds by nothing."""
        whole = b"".join(map(first_format, TRIALS))
        held, accepted = read(whole).trials, 0
        for bit in some_bits(whole, 2000):
            try:
                found = read(flipped(whole, bit)).trials
            except RunError:
                continue
            accepted += 1
            assert [t.policy for t in found] == [t.policy for t in held]
            assert [t.costs["macs"] for t in found] == [t.costs["macs"] for t in held]
            assert [bool(t.error) for t in found] == [bool(t.error) for t in held]
        assert accepted < 400


def flipped(whole: bytes, bit: int) -> bytes:
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(whole: bytes, most: int) -> list[int]:
    """All bits, or `most` of them, the last byte's among them."""
    every = np.random.default_rng(1).permutation(8 * len(whole) - 8)[: most - 8].tolist()
    return [*every, *range(8 * len(whole) - 8, 8 * len(whole))]


def refusal(whole: bytes) -> str:
    """What is said of a journal; "" where it is accepted."""
    try:
        read(whole)
    except RunError as refused:
        return str(refused)
    return ""


def first_format(trial: Trial) -> bytes:
    """The line that format 1 had."""
    seconds = {**trial.seconds, "prune": 0.1}
    said = {"status": "failed" if trial.error else "ok", "metric": trial.metric, "costs": dict(trial.costs)}
    policy = [round(s, 9) for s in SPACE.sparsity(trial.policy)]
    entry = {"number": trial.number, "policy": policy, **said, "reward": trial.reward, "error": trial.error}
    return json.dumps({**entry, "seconds": seconds}).encode() + b"\n"


class TestTornLines:
    def test_cutting_anywhere_loses_the_last_line_and_no_other(self) -> None:
        head = len(lines.head(HASH))
        for size in range(head, len(WHOLE)):
            kept = WHOLE[:size].count(b"\n") - 1
            try:
                assert read(WHOLE[:size]).trials == TRIALS[:kept]
            except RunError as refused:
                pytest.fail(f"cut to {size} bytes: {refused}")

    @pytest.mark.parametrize("tail", [b"\x00" * 300, b'{"number": 8, "pol', b"\xff\xfe"])
    def test_what_a_crash_left_behind_the_last_break_is_no_trial(self, tail: bytes) -> None:
        assert read(WHOLE + tail)[:3] == (HASH, TRIALS, len(WHOLE))

    def test_a_last_line_whose_break_was_changed_is_not_lost(self) -> None:
        with pytest.raises(RunError, match=r"line 9 is damaged \(its line break was changed\)"):
            read(WHOLE[:-1] + b"\x0b")

    def test_a_head_whose_break_was_changed_is_not_forgotten(self) -> None:
        with pytest.raises(RunError, match=r"line 1 is damaged \(its line break was changed\)"):
            read(lines.head(HASH)[:-1] + b"\x0b")


class TestCosts:
    """A wrong cost once ended in "report.json is damaged", after the whole search."""

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"costs": {"macs": 5.0, "time": 0.1}}, "its macs are 5, where those of its policy are"),
            ({"costs": {"macs": -1e308, "time": 0.1}}, "its macs are -1e"),
            ({"costs": {"time": 0.1}}, "it lacks the cost 'macs'"),
            ({"costs": {}}, "it lacks the cost 'macs'"),
            ({"costs": {"macs": 5.0, "time": 0.1, "joules": 1.0}}, "it has the cost 'joules', which this run"),
        ],
    )
    @pytest.mark.parametrize("number", [0, 2, 7])
    def test_that_are_not_those_of_the_policy_name_the_line(
        self, fields: dict[str, object], reason: str, number: int
    ) -> None:
        with pytest.raises(RunError, match=rf"trials.jsonl, line {number + 2} is damaged \({reason}.*cut the file"):
            read(changed(number, **fields))

    def test_of_another_policy_are_noticed(self) -> None:
        other = list(TRIALS[3].policy.levels)
        other[0] += 2
        with pytest.raises(RunError, match=r"line 5 is damaged \(its macs are"):
            read(changed(3, policy=other))

    def test_that_were_measured_are_taken_as_they_are(self) -> None:
        costs = {**TRIALS[3].costs, "time": 9.0}
        assert read(changed(3, costs=costs)).trials[3].costs["time"] == 9.0

    def test_may_be_absent_where_they_were_not_asked_for(self) -> None:
        costs = {"macs": TRIALS[3].costs["macs"]}
        found = read(changed(3, costs=costs), Rules(SPACE, COSTS, BUDGET.limits, optional=frozenset({"time"})))
        assert found.trials[3].costs == costs


class TestBudget:
    def test_a_policy_above_it_is_refused_with_its_line(self) -> None:
        dense = SPACE.dense()
        costs = {name: cost.predict(dense) for name, cost in COSTS.items()}
        with pytest.raises(RunError, match=r"line 5 is damaged \(\d+ MAC exceed the budget of \d+ MAC .macs.\)"):
            read(changed(3, policy=list(dense.levels), costs=costs))

    def test_a_controller_that_exceeds_it_is_told_what_fits(self, tmp_path: Path) -> None:
        with Run(tmp_path, {"name": "toy"}, SPACE, costs=COSTS, limits=BUDGET.limits) as run:
            run.require(BUDGET.fit(SPACE.dense()))
            with pytest.raises(PolicyError, match=r"the controller proposed what \d+ MAC exceed .* budget.fit"):
                run.require(SPACE.dense())
