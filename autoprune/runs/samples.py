"""The samples of a task as a run sees them: drawn as the run was begun, and looked at before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune import inputs
from autoprune.addresses import told
from autoprune.copies import copied
from autoprune.errors import ConfigError, ModelError, TrialFailed
from autoprune.inputs import Inputs
from autoprune.metrics import seen
from autoprune.splits import Batch, Nothing, Split, draw
from autoprune.task import Task, loss_of

_FEW, _JUDGED = 2, 64  # samples that the network is run on, and that the metric looks at, before anything begins


def looked_at(task: Task) -> Task:
    """`task`, if its network has finite weights, runs on its example, on a batch of train and holdout, and is judged.

    Raises ModelError or ConfigError, naming what does not fit.
    """
    for name, tensor in task.model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{task.name}: {name!r} holds NaN or infinity; load another checkpoint")
    shape = inputs.shapes(task.example)
    run_once(task.model, task.example, f"the network of {task.name} fails on an input of shape {shape}")
    for name in ("train", "holdout", "test"):
        if not len(split := getattr(task, name)) and not isinstance(split, Nothing):
            raise ConfigError(f"task {task.name}: its split {name!r} is empty; it should hold at least one sample")
    if task.trains:
        look(task, "train")
    look(task, "holdout")
    judged(task)
    return task


def look(task: Task, name: str) -> Batch:
    """A small batch of the split called `name`, if it is one that the network takes; raises as `looked_at`.

    Of the test split that is the shape of what its report will read, before a search that it would be too late after.
    """
    place = f"task {task.name}: its split {name!r}"
    try:
        batch: Any = next(iter(getattr(task, name).batches(_FEW)))
    except (Exception, SystemExit) as wrong:  # whatever a user's data set or collation raises
        raise ConfigError(f"{place} gives no batch of {_FEW} ({told(wrong)})") from wrong
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ConfigError(f"{place} gives {seen(batch)}; a pair (inputs, targets) is right, None for no targets")
    given, _ = batch
    what = f"{place} gives inputs {seen(given)}, but the example is {seen(task.example)}, and the network fails on them"
    run_once(task.model, given, what)
    return batch[0], batch[1]


def judged(task: Task) -> float:
    """What the metric says of the dense network: of few samples, or of all, where few are too few for it.

    Raises ConfigError where it says nothing, and where it changes the network, which would be finetuned so.
    """
    model = copied(task.model).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = _judged(task, model)
    for name, tensor in model.state_dict().items():
        if name not in before or not torch.equal(tensor, before[name].to(tensor.device)):
            what = f"task {task.name}: the metric {task.judge.name!r} changes the network that it judges ({name!r})"
            raise ConfigError(f"{what}; a metric that works on copy.deepcopy(model) is right")
    return found


def _judged(task: Task, model: nn.Module) -> float:
    try:
        return task.quality(model, draw(task.holdout, _JUDGED, 0))
    except TrialFailed:
        try:
            return task.quality(model, task.holdout)
        except TrialFailed as wrong:
            raise ConfigError(f"task {task.name}: {wrong}, for the dense network on the holdout") from wrong


def require_loss(task: Task, asking: str) -> None:
    """Raise ConfigError where the task's loss cannot be had on training samples; `asking` is what needs it."""
    if not task.trains:
        raise ConfigError(f"task {task.name} has no training split, which is needed for {asking}")
    place = f"task {task.name}: its split 'train'"
    given, targets = look(task, "train")
    if targets is None:
        raise ConfigError(f"{place} has no labels, which are needed for {asking}")
    model, device = copied(task.model).eval(), inputs.device_of(task.model)
    try:
        outputs = inputs.call(model, inputs.moved(given, device))
        found: Any = loss_of(task.loss, outputs, inputs.moved(targets, device))
    except (Exception, SystemExit) as wrong:  # whatever a user's loss raises
        reason = told(wrong)
        raise ConfigError(
            f"{place} has targets {seen(targets)}, on which the loss fails ({reason}); give Task(loss=...)"
        ) from wrong
    if not (isinstance(found, torch.Tensor) and found.numel() == 1 and found.requires_grad):
        raise ConfigError(f"task {task.name}: its loss gives {seen(found)}; one number that has a gradient is right")
    if not bool(found.isfinite()):
        raise ConfigError(f"{place}: the loss of the dense network is {found.item()}; a finite number is right")


def run_once(model: nn.Module, given: Inputs, what: str) -> None:
    """One forward pass that leaves the training mode of every module as it was. Raises ModelError saying `what`."""
    try:
        with torch.inference_mode(), inputs.evaluating(model):
            inputs.call(model, given)
    except (Exception, SystemExit) as wrong:  # whatever a user's forward raises
        raise ModelError(f"{what} ({told(wrong)})") from wrong


def as_begun(task: Task, found: Mapping[str, Any]) -> Task:
    """`task` with draws from its holdout as the run made them that is resumed, where `found` is what it found."""
    if not found or found.get("draws"):
        return task
    return dataclasses.replace(task, holdout=_FirstOnes(task.holdout))


@dataclass(frozen=True)
class _FirstOnes:
    """A holdout as runs saw it that were begun when a part of it was its first samples."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int) -> Iterator[Batch]:
        yield from self.split.batches(size)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        yield from self.split.shuffled(size, generator)

    def head(self, count: int) -> Split:
        return self.split.head(count)

    def drawn(self, count: int, seed: int) -> Split:
        return self.split.head(count)
