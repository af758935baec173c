"""Long runs: a trial costs as much after thousands as after a few, in time and in memory."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from autoprune.controllers.random import Random
from autoprune.runs import lines
from autoprune.runs.journal import JOURNAL, Run
from autoprune.runs.loop import remembering, search
from autoprune.runs.rules import Rules
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.trial import Trial
from tests.counting import Calls, Meter, Work
from tests.making import done

SPACE = toy_space(depth=6)
BUDGET = half(SPACE)
NEW = 6


@cache
def past(trials: int) -> list[Trial]:
    """Any policies, and rewards by lot."""
    rng = np.random.default_rng(1)
    drawn = zip(rng.random((trials, len(SPACE))).tolist(), rng.random(trials).tolist(), strict=True)
    return [done(number, SPACE.snap(point), reward) for number, (point, reward) in enumerate(drawn)]


def begun(directory: Path, trials: int) -> Run:
    """A run that holds so many trials already."""
    Run(directory, {"name": "toy"}, SPACE).close()
    with (directory / JOURNAL).open("ab") as file:
        file.write(b"".join(map(lines.line, past(trials))))
    return Run(directory, {"name": "toy"}, SPACE)


def work_of_a_trial(directory: Path, trials: int) -> Work:
    """What one more trial takes, asked, attempted, written, told and looked at, where there are so many already."""
    meter, found = Meter(), list[Work]()

    def watch(trial: Trial) -> None:
        if trial.number > trials:
            found.append(meter.stop())
        if trial.number < trials + NEW - 1:
            meter.start()

    with begun(directory, trials) as run:
        attempt = remembering(lambda number, policy: judge(SPACE, number, policy), run)
        search(Random(SPACE, BUDGET), attempt, run, trials=trials + NEW, watch=watch)
    assert len(found) == NEW - 1
    return Work(min(work.calls for work in found), min(work.held for work in found))


def test_appending_a_trial_does_not_look_through_all_trials(tmp_path: Path) -> None:
    """1.6 ms a trial became 9.4 by the 3,000th: each was looked for among copies of all."""
    few, many = work_of_a_trial(tmp_path / "few", 50), work_of_a_trial(tmp_path / "many", 3000)
    assert many.calls < 1.3 * few.calls
    assert many.held < few.held + 12_000  # a copy of 3,000 references is 24,000 bytes


def test_a_run_shows_its_trials_without_a_copy(tmp_path: Path) -> None:
    with begun(tmp_path, 3) as run:
        seen = run.trials
        run.append(judge(SPACE, 3, SPACE.dense()))
        assert len(seen) == 4
        assert seen[-1] is run.trials[3]
        assert [trial.number for trial in seen[-2:]] == [2, 3]


def first_format(trial: Trial) -> bytes:
    """A line of a journal as the first version wrote it."""
    sparsity, reward = SPACE.sparsity(trial.policy), trial.reward
    entry = {"number": trial.number, "policy": sparsity, "metric": reward, "reward": reward, "costs": {}}
    return json.dumps({**entry, "status": "ok", "error": "", "seconds": {"ask": 0.1, "prune": 0.1}}).encode() + b"\n"


@pytest.mark.parametrize("old", [False, True])
def test_a_journal_is_read_in_as_much_work_a_line_however_long_it_is(old: bool) -> None:
    """Every line of the first format was compared with all before it."""

    def calls(trials: int) -> int:
        written = [first_format(t) if old else lines.line(t) for t in past(trials)]
        whole = b"".join(written if old else [lines.head("facts"), *written])
        counter = Calls()
        counter.start()
        held = lines.read(Path("trials.jsonl"), io.BytesIO(whole), Rules(SPACE))
        found = counter.stop()
        assert [trial.policy for trial in held.trials] == [trial.policy for trial in past(trials)]
        return found

    assert calls(900) < 1.1 * 3 * calls(300)
