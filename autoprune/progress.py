"""The progress bar on stderr: the current trial, the best reward, metric and cost, and the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from autoprune.run import Run
from autoprune.study import ALWAYS, Study
from autoprune.trial import Trial

if TYPE_CHECKING:
    from typing import Self

_BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"


class Progress:
    """One bar for the search, then one for each stage of the work after it."""

    def __init__(self, study: Study, run: Run) -> None:
        self._study = study
        self._run = run
        self._cost = next(iter(study.config.budget), ALWAYS[0])
        self._bar: tqdm[Any] | None = None
        self._stage = ""

    def __enter__(self) -> Self:
        self._show("trial", self._study.config.search.trials, len(self._run))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def trial(self, trial: Trial) -> None:
        """Show one more trial."""
        bar = self._show("trial", self._study.config.search.trials, trial.number)
        bar.set_postfix_str(self._facts(trial), refresh=False)
        bar.update(trial.number + 1 - bar.n)

    def stage(self, what: str, done: int, of: int) -> None:
        """Show how far the work called `what` has come."""
        bar = self._show(what, of, 0)
        bar.update(done - bar.n)

    def _facts(self, trial: Trial) -> str:
        best = max((t.reward for t in self._run if t.reward is not None), default=None)
        if best is None or trial.metric is None:
            return f"failed: {trial.error}"
        share = trial.costs[self._cost] / self._study.dense[self._cost]
        metric = f"{self._study.task.metric_name} {trial.metric:.4f}"
        return f"best reward {best:.4f}, {metric}, {self._cost} {share:.1%}"

    def _show(self, stage: str, total: int, done: int) -> tqdm[Any]:
        if self._bar is None or stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(
                total=total, initial=done, desc=stage, bar_format=_BAR, file=sys.stderr, dynamic_ncols=True, leave=True
            )
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
