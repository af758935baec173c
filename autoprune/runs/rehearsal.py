"""Before the first trial: all that the end of a run needs, once and small, so that no search is lost by its end.

One step of the finetune with the real loss on a real batch, the weights written and read back, the policy, the report
and its page written into a folder that is thrown away. What fails there is one line before anything was done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.addresses import failing
from autoprune.copies import copied
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.recovery.scorer import first_images, refuse_nonfinite
from autoprune.finetuning import finetune, takes_data
from autoprune.inputs import first
from autoprune.runs import deliver, samples
from autoprune.runs.study import Study
from autoprune.splits import Batch, by_row
from autoprune.structure.prune import Candidate
from autoprune.train import forked, no_batch

_FEW = 8  # samples of the step


def rehearse(study: Study) -> None:
    """Raise ConfigError or ModelError for what would fail when the search is done; nothing is left behind."""
    with forked(study.seed):
        candidate = study.rehearse()
        with _told("one step of the finetune"):
            _one_step(study)
        if _is_finite(study, candidate):
            with _told("writing the results"), tempfile.TemporaryDirectory() as folder:
                deliver.written(study, Path(folder), candidate, samples.judged(study.task))


def _is_finite(study: Study, candidate: Candidate) -> bool:
    """Whether a network that thin says anything: what it writes could not be compared with what it says else."""
    try:
        refuse_nonfinite(candidate.model.eval(), first_images(study.task.holdout))
    except TrialFailed:
        return False
    return True


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        with failing():
            yield
    except TrialFailed as wrong:
        raise ConfigError(f"{what} fails, before anything was begun: {wrong}") from wrong


def _one_step(study: Study) -> None:
    """A step of training, of a copy of the dense network on a part of a batch."""
    task, recipe = study.task, study.finetune
    if not recipe.steps:
        return
    if recipe.use and not takes_data(recipe):  # it reads data of its own, which may be many
        finetune(copied(task.model), task, dataclasses.replace(recipe, epochs=0), seed=study.seed)
        return
    batch = next(iter(task.train.shuffled(recipe.batch, torch.Generator().manual_seed(study.seed))), None)
    if batch is None:
        raise no_batch(task.train, recipe)
    part = _One(first(batch, _FEW) if by_row(batch) else batch)
    once = dataclasses.replace(recipe, steps=1, epochs=1, accumulate=1)
    finetune(copied(task.model), dataclasses.replace(task, train=part), once, seed=study.seed)


@dataclass(frozen=True)
class _One:
    """A split of one batch."""

    batch: Batch

    def __len__(self) -> int:
        return 1

    def batches(self, size: int) -> Iterator[Batch]:
        yield self.batch

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield self.batch

    def head(self, count: int) -> _One:
        return self
