"""The progress on stderr: the trial, the best reward, metric, cost, pace and the time left; in a file, as lines."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from tqdm import tqdm

from autoprune.command.events import Events
from autoprune.protocols import SavesTime, Trains
from autoprune.report import words
from autoprune.runs.journal import Run, rank
from autoprune.runs.study import Study
from autoprune.runs.workers import Crew
from autoprune.values.trial import FIRST, Tally, Trial

if TYPE_CHECKING:
    from typing import Self

EVERY = 30  # seconds between two lines, at least
_ONE = "{desc} {elapsed}"
_BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"


class Shown(Protocol):
    """How far one stage is, as it is shown; what `tqdm` has of it."""

    n: float

    def update(self, n: float, /) -> object:
        """So much more is done."""
        ...

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        """What is to be said beside the numbers."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Lines:
    """One stage in lines, where nobody watches: as it begins, every half minute at most, and as it ends.

    One that is not counted is told as it ends, if it took so long.
    """

    def __init__(self, stage: str, total: int, done: int) -> None:
        self.n: float = done
        self._stage, self._total, self._said = stage, total, ""
        self._begun = self._last = time.monotonic()
        if total > 1:
            self._print(f"{stage} {done}/{total}")

    def update(self, n: float, /) -> None:
        """As `Shown`."""
        self.n += n
        if time.monotonic() - self._last >= EVERY:
            self._show()

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """As `Shown`."""
        self._said = f", {s}"

    def close(self) -> None:
        """As `Shown`."""
        if self._total > 1:
            self._show()
        elif (spent := time.monotonic() - self._begun) >= EVERY:
            self._print(f"{self._stage}, {words.duration(spent)}")

    def _show(self) -> None:
        self._last = time.monotonic()
        spent = words.duration(self._last - self._begun)
        self._print(f"{self._stage} {self.n:g}/{self._total}, {spent}{self._said}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@dataclass
class Unseen:
    """One stage that nobody is shown."""

    n: float

    def update(self, n: float, /) -> None:
        """As `Shown`."""
        self.n += n

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """As `Shown`."""

    def close(self) -> None:
        """As `Shown`."""


class Bars:
    """One bar for each stage of some work; the last one stays open until another stage begins.

    Where stderr is no terminal there are lines: a log file is not to be filled with bars that overwrite each other.

    Attributes:
        quiet: whether nothing is shown.
        events: where the same is told to programs.
    """

    def __init__(self, *, quiet: bool = False, events: Events | None = None) -> None:
        self.quiet = quiet
        self.events = events or Events()
        self._bar: Shown | None = None
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the bar that is shown, if one is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def stage(self, what: str, done: int, of: int) -> None:
        """Show how far the work called `what` has come."""
        self.events.stage(what, done, of)
        bar = self.show(what, of, 0)
        bar.update(done - bar.n)

    def warn(self, text: str) -> None:
        """Show a line that a person should read."""
        self.events.tell("warning", text=text)
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def show(self, stage: str, total: int, done: int) -> Shown:
        """The bar of `stage`; a new one begins at `done`."""
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage, self._bar = stage, Unseen(done) if self.quiet else _begun(stage, total, done)
        return self._bar


def is_watched() -> bool:
    """Whether somebody sees bars: in a terminal or a notebook."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _begun(stage: str, total: int, done: int) -> Shown:
    if not is_watched():
        return Lines(stage, total, done)
    rich = _in_notebook() and importlib.util.find_spec("ipywidgets") is not None
    made = importlib.import_module("tqdm.notebook" if rich else "tqdm").tqdm
    form = _BAR if total > 1 else _ONE
    bar: Shown = made(total=total, initial=done, desc=stage, bar_format=form, file=sys.stderr, dynamic_ncols=True)
    return bar


class _Ear(logging.Handler):
    """Shows what the library warns of between the bars."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(logging.WARNING)
        self._bars = bars

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler`."""
        self._bars.warn(record.getMessage())


class Progress:
    """One bar for the search, then one for each stage of the work after it."""

    def __init__(self, study: Study, run: Run, bars: Bars | None = None, crew: Crew | None = None) -> None:
        self._study, self._crew, self._begun = study, crew, time.monotonic()
        self._before = self._told = len(run)
        self._failed = sum(bool(trial.error) for trial in run)
        self._all, self._new = Tally.of(run), Tally()  # trials; those of them that this process made
        self._best = max((t for t in run if t.reward is not None), key=rank, default=None)
        self._cost = next(iter((*study.config.budget, *study.costs)))
        self._bars = bars or Bars()
        self._warned = False
        self._said = ""

    def __enter__(self) -> Self:
        self._ear = _Ear(self._bars)
        logging.getLogger("autoprune").addHandler(self._ear)
        if isinstance(self._study.evaluator, Trains):
            return self  # that shows its training first
        if isinstance(self._study.evaluator, SavesTime):
            self._bars.stage("the first trial, and what is prepared once for all of them", 0, 1)
        else:
            self._searching(self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        logging.getLogger("autoprune").removeHandler(self._ear)
        self._bars.close()

    def trial(self, trial: Trial) -> None:
        """Show one more trial."""
        self._all.add(trial)
        self._new.add(trial)
        self._told, self._failed = self._told + 1, self._failed + bool(trial.error)
        if trial.reward is not None and (self._best is None or rank(trial) > rank(self._best)):
            self._best = trial
        self._said = self._facts(trial)
        self._searching(self._told)
        self._bars.events.trial(trial)
        if not self._warned and (same := self._all.same) is not None and self._told >= FIRST:
            self._warned = True
            self._bars.warn(words.all_alike(self._study.task.judge, same))

    def stage(self, what: str, done: int, of: int) -> None:
        """Show how far the work called `what` has come."""
        self._bars.stage(what, done, of)

    def _searching(self, done: int) -> None:
        """Show that so many trials are done; where the time is set, how much of it is spent."""
        asked = self._study.config.search
        if asked.time:
            of = math.ceil(asked.time)
            bar, reached = self._bars.show("searching, seconds", of, 0), min(of, round(self._all.seconds))
        else:
            bar, reached = self._bars.show("trial", asked.trials, self._before), done
        bar.set_postfix_str(self._said, refresh=False)
        bar.update(reached - bar.n)

    def _pace(self, trial: Trial) -> str:
        """How fast it goes; with workers, too, who works, how many trials failed, and how long it may still take."""
        if self._crew is None or (pool := self._crew.pool) is None:
            return f", {words.rate(self._new.pace)}" if self._new.pace else ""
        done, spent = self._told - self._before, time.monotonic() - self._begun
        asked = self._study.config.search
        rest = asked.time - spent if asked.time else spent / done * (asked.trials - self._told)
        return (
            f", {words.rate(done / spent)}, {pool.busy} under way, {self._failed} failed, "
            f"{pool.staff} workers alive, {words.duration(max(0.0, rest))} left"
        )

    def _facts(self, trial: Trial) -> str:
        shown = self._pace(trial)
        best = self._best.reward if self._best else None
        if best is None or trial.metric is None:
            return f"failed: {trial.error}{shown}"
        if self._study.config.search.time:
            shown = f", trial {trial.number}{shown}"
        if trial.rung:
            shown = f", rung {trial.rung}{shown}"
        judge = self._study.task.judge
        share = trial.costs[self._cost] / self._study.dense[self._cost]
        metric, most = (words.number(judge.known(value), percent=judge.percent) for value in (trial.metric, best))
        reached = f"best {most}" if self._study.config.reward.use == "metric" else f"best reward {best:.4f}"
        return f"{reached}, this one {metric} {judge.name}, {self._cost} {share:.1%}{shown}"
