"""The progress bar on stderr: the current trial, the best reward, metric, cost, pace, and the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from autoprune.protocols import Trains
from autoprune.report import words
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.values.trial import FIRST, Trial, policies_per_second, score_of_all

if TYPE_CHECKING:
    from typing import Self

_BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"


class Bars:
    """One bar for each stage of some work; the last one stays open until another stage begins."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
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
        bar = self.show(what, of, 0)
        bar.update(done - bar.n)

    def show(self, stage: str, total: int, done: int) -> tqdm[Any]:
        """The bar of `stage`; a new one begins at `done`."""
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=total, initial=done, desc=stage, bar_format=_BAR, file=sys.stderr, dynamic_ncols=True, leave=True
            )
        return self._bar


class Progress:
    """One bar for the search, then one for each stage of the work after it."""

    def __init__(self, study: Study, run: Run) -> None:
        self._study = study
        self._run = run
        self._before = len(run)
        self._cost = next(iter((*study.config.budget, *study.costs)))
        self._bars = Bars()
        self._warned = False

    def __enter__(self) -> Self:
        if not isinstance(self._study.evaluator, Trains):  # that shows its training first
            self._bars.show("trial", self._study.config.search.trials, self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bars.close()

    def trial(self, trial: Trial) -> None:
        """Show one more trial."""
        bar = self._bars.show("trial", self._study.config.search.trials, trial.number)
        bar.set_postfix_str(self._facts(trial), refresh=False)
        bar.update(trial.number + 1 - bar.n)
        if not self._warned and (same := score_of_all(self._run)) is not None and len(self._run) >= FIRST:
            self._warned = True
            bar.write(words.all_alike(self._study.task.judge, same), file=sys.stderr)

    def stage(self, what: str, done: int, of: int) -> None:
        """Show how far the work called `what` has come."""
        self._bars.stage(what, done, of)

    def _facts(self, trial: Trial) -> str:
        pace = policies_per_second(self._run.trials[self._before :])
        shown = f", {words.rate(pace)}" if pace else ""
        best = max((t.reward for t in self._run if t.reward is not None), default=None)
        if best is None or trial.metric is None:
            return f"failed: {trial.error}{shown}"
        judge = self._study.task.judge
        share = trial.costs[self._cost] / self._study.dense[self._cost]
        metric = f"{judge.name} {words.number(judge.known(trial.metric), percent=judge.percent)}"
        direct = judge.lower_is_better and self._study.config.reward.use == "metric"  # a reward of -3.2 is no news
        reached = (
            f"best {words.number(judge.known(best), percent=judge.percent)}" if direct else f"best reward {best:.4f}"
        )
        return f"{reached}, {metric}, {self._cost} {share:.1%}{shown}"
