"""A task: a trained network, its samples in three splits, and the metric that judges it.

`train` is what finetuning and calibration may look at; `holdout` is cut from the training samples and scores the
search; `test` is read once, by the report. What may be a split is said in `autoprune.datasets`, what the network takes
in `autoprune.inputs`, and what judges it in `autoprune.metrics`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from autoprune.addresses import blamed
from autoprune.datasets import DatasetSplit as DatasetSplit, Divide, as_split, divided
from autoprune.errors import ConfigError
from autoprune.inputs import Inputs, tensors
from autoprune.metrics import (
    AgainstDense,
    Judge,
    Metric as Metric,
    accuracy as accuracy,
    judge,
    logits,
    seen,
    top1 as top1,
)
from autoprune.splits import Batch as Batch, Images as Images, Nothing, Split as Split

Loss = Callable[[Any, Any], Tensor]  # outputs, targets


def loss_of(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """What `loss` says of `outputs`; torch's cross-entropy, the default, is of their logits.

    Raises ConfigError where there are no targets, and TrialFailed where the loss raises.
    """
    if targets is None:
        raise ConfigError("the samples have no labels, which the loss needs; batches should be (inputs, targets)")
    with blamed(f"the loss {getattr(loss, '__name__', type(loss).__name__)!r}"):
        return loss(logits(outputs) if loss is nn.functional.cross_entropy else outputs, targets)


def as_the_example(raw: Any) -> Batch:
    """Divide a batch into inputs like the task's example, and targets: as `autoprune.datasets.divided`."""
    raise NotImplementedError("a Task puts its own example in")


@dataclass(frozen=True)
class Task:
    """What is to be pruned, and how its quality is judged.

    Attributes:
        model: the trained network; never changed.
        example: one input batch as the network takes it, a tensor (n, ...), a tuple or a mapping of them; its size is
            the size costs are counted at.
        train, holdout, test: splits; or data sets of samples, map-style or iterable with a length; or DataLoaders of
            such, of which the data set, the collation and, for training, the sampler are taken. `train` may be None:
            then nothing is trained, and what needs inputs alone looks at the holdout's.
        metric: (model, split) -> quality; the default is top-1 accuracy in [0, 1]. `autoprune.metrics` has those that
            need no labels: kl, KL(top=k) and agreement; `autoprune.perplexity` that of text.
        loss: (outputs, targets) -> scalar, for finetuning and gradients. For a network that makes its own of labels
            among its inputs: lambda outputs, targets: outputs.loss.
        name: for run directories and reports; empty: the network's class.
        metric_name: for reports; empty: what the metric calls itself.
        rebuild: "task:model" of a built-in architecture, so that `autoprune.load` needs no code; empty otherwise.
        holdout_seen: whether the network was trained on the holdout, which then flatters it. Reports say so.
        lower_is_better: whether a smaller metric is better; it is turned inside, and printed as it is.
        percent: whether the metric is a share in [0, 1], to be printed in percent.
        batch: makes (inputs, targets) of a batch as a data set or loader gives it; the default takes a pair apart, and
            of a mapping those entries as inputs that `example` has, and "labels" as targets.
    """

    model: nn.Module
    example: Inputs
    train: Split
    holdout: Split
    test: Split
    metric: Metric = top1
    loss: Loss = nn.functional.cross_entropy
    name: str = ""
    metric_name: str = ""
    rebuild: str = ""
    holdout_seen: bool = False
    lower_is_better: bool = False
    percent: bool = False
    batch: Divide = as_the_example

    def __post_init__(self) -> None:
        self._require_kinds()
        object.__setattr__(self, "name", self.name or type(self.model).__name__)
        usual = self.batch is as_the_example
        divide = functools.partial(divided, example=self.example) if usual else self.batch
        for field in ("train", "holdout", "test"):
            given, place = getattr(self, field), f"task {self.name}: its split {field!r}"
            absent = given is None and field == "train"
            split = Nothing(f"task {self.name} has no training split") if absent else as_split(given, divide, place)
            object.__setattr__(self, field, split)

    def _require_kinds(self) -> None:
        """Raise ConfigError for what is of another kind than it should be: it would be noticed much later."""
        of = f"task {self.name!r}: " if isinstance(self.name, str) else ""
        for field in ("name", "metric_name", "rebuild"):
            if not isinstance(given := getattr(self, field), str):
                raise ConfigError(f"{of}{field} = {given!r} is a {type(given).__name__}; a text is right")
        for field in ("lower_is_better", "percent", "holdout_seen"):
            if not isinstance(given := getattr(self, field), bool):
                raise ConfigError(f"{of}{field} = {given!r} is a {type(given).__name__}; True or False is right")
        if not tensors(self.example):
            kinds = "a tensor (n, ...), a tuple or a mapping of tensors is right"
            raise ConfigError(f"{of}the example is {seen(self.example)} and holds no tensor; {kinds}")
        if not callable(self.metric) and not isinstance(self.metric, AgainstDense):
            raise ConfigError(f"{of}metric = {self.metric!r}; a function of (model, split) is right, or none for top-1")
        if not callable(self.loss):
            raise ConfigError(f"{of}loss = {self.loss!r}; a function of (outputs, targets) is right")

    @cached_property
    def judge(self) -> Judge:
        """The metric, higher is better, with its name and how it is shown."""
        return judge(self.metric, self.model, self.metric_name, self.lower_is_better, self.percent)

    def quality(self, model: nn.Module, split: Split) -> float:
        """How good `model` is on `split`, *higher is better*, whatever the metric: what evaluators score with.

        Raises as `Judge`.
        """
        return self.judge(model, split)

    def standing_in(self, model: nn.Module) -> Task:
        """The task of another network in place of the dense one, judged, and compared with the dense one, as it is."""
        it = self.judge
        said: dict[str, Any] = {"metric_name": it.name, "lower_is_better": it.lower_is_better, "percent": it.percent}
        return dataclasses.replace(self, model=model, metric=it.metric, **said)

    @property
    def trains(self) -> bool:
        """Whether there is a training split."""
        return not isinstance(self.train, Nothing)

    @property
    def calibration(self) -> Split:
        """What is looked at for its inputs alone: the training split; the holdout, where there is none."""
        return self.train if self.trains else self.holdout
