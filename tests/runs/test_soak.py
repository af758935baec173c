"""A soak: thousands of trials through the loop and a journal on disk, and neither memory nor an ask grows."""

from __future__ import annotations

import gc
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from autoprune.controllers.bayes import Bayes
from autoprune.controllers.evolution import Evolution
from autoprune.protocols import Controller
from autoprune.runs.journal import JOURNAL, Run
from autoprune.runs.loop import remembering, search
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Trial
from tests.counting import Calls

RECORD = 2000  # bytes that a trial may take in memory: its policy, costs and seconds by phase, and that it was seen
LINE = 600  # and in the journal
DRAWS = 3  # times the calls of an early ask: a child that was seen is drawn again, up to four times


@dataclass
class Counted:
    """A controller whose asks are counted, ten early and ten late."""

    controller: Controller
    early: int
    late: int
    asked: int = 0
    calls: dict[int, int] = field(default_factory=dict)

    def ask(self) -> Policy:
        counter, number = Calls(), self.asked
        self.asked += 1
        if not any(at <= number < at + 10 for at in (self.early, self.late)):
            return self.controller.ask()
        counter.start()
        policy = self.controller.ask()
        self.calls[number] = counter.stop()
        return policy

    def tell(self, trial: Trial) -> None:
        self.controller.tell(trial)

    @property
    def growth(self) -> float:
        """Calls of a late ask, by those of an early one."""
        return median(n for at, n in self.calls.items() if at >= self.late) / median(
            n for at, n in self.calls.items() if at < self.late
        )


SPACE = toy_space(step=1, width=64)  # of which 20,000 trials see little


def soak(directory: Path, controller: Controller, trials: int, early: int, held: Callable[[], int]) -> str:
    """Search the surrogate for `trials` trials and compare the first `early` with the last; what was seen, in words."""
    counted, seen = Counted(controller, early, trials - 10), list[int]()

    def watch(trial: Trial) -> None:
        if trial.number in (early, trials - 1):
            gc.collect()
            seen.append(held())

    with Run(directory, {"name": "toy"}, SPACE) as run:
        attempt = remembering(lambda number, policy: judge(SPACE, number, policy), run)
        search(counted, attempt, run, trials=trials, watch=watch)
        spent = [1e3 * sum(trial.seconds.values()) for trial in run]
    each, line = (seen[1] - seen[0]) / (trials - early), (directory / JOURNAL).stat().st_size / trials
    said = (
        f"after {early:,} {each:.0f} bytes of memory and {line:.0f} of journal a trial, an ask x {counted.growth:.2f}"
    )
    pace = f"{median(spent[early - 50 : early]):.1f} ms a trial before {early:,}, {median(spent[-50:]):.1f} at the end"
    assert each < RECORD, said
    assert line < LINE, said
    assert counted.growth < DRAWS, said
    return f"{said}; {pace}"


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_trials_of_evolution_hold_their_record_and_no_more(tmp_path: Path) -> None:
    controller = Evolution(SPACE, half(SPACE), brood=2)
    tracemalloc.start()
    try:
        soak(tmp_path, controller, 1000, 300, lambda: tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("make", "trials"), [(partial(Evolution, brood=2), 20_000), (Bayes, 2000)])
def test_a_soak(
    make: Callable[..., Controller], trials: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory grows by the record of each trial, and an ask by no more than its draws."""
    begun = time.process_time()
    said = soak(tmp_path, make(SPACE, half(SPACE)), trials, 1000, resident)
    with capsys.disabled():
        spent = time.process_time() - begun
        sys.stderr.write(f"\n{trials:,} trials: {said}; {spent:.0f} s of processor time\n")
