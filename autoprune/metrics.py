"""Metrics: how good a network is on a split, which way is better, and how the number is shown.

The house reckons with what is *better when higher*. A metric where lower is better is turned once, in `Judge`, and
turned back where people read it. `top1` needs labels, as does `autoprune.perplexity`; `kl`, `KL(top=k)` and
`agreement` compare with the dense network and need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from autoprune.addresses import blamed
from autoprune.copies import copied
from autoprune.errors import ConfigError, TrialFailed
from autoprune.inputs import Inputs, at_once, call, device_of, moved
from autoprune.splits import Batch, Split
from autoprune.values.plain import measured

Metric = Callable[[nn.Module, Split], float]
GIVE = "give Task(metric=..., metric_name=..., lower_is_better=...)"
_BATCH = 250  # samples at once
_HELD = 2**28  # bytes of the dense network's outputs that are remembered


@runtime_checkable
class AgainstDense(Protocol):
    """A metric that compares a network with the dense one."""

    def against(self, dense: nn.Module) -> Metric:
        """The metric, given the dense network, which is only read."""
        ...


@runtime_checkable
class Described(Protocol):
    """A metric that says what it is called, which way is better, and whether it is a share in [0, 1]."""

    title: str
    lower_is_better: bool
    percent: bool


@runtime_checkable
class PerSample(Protocol):
    """A metric that is the mean of one number a sample, and gives these."""

    def each(self, model: nn.Module, split: Split) -> Tensor:
        """(n,), in the order of the split; their mean is the metric."""
        ...


@dataclass(frozen=True)
class Judge:
    """A task's metric, the higher the better, and how its numbers are shown.

    Attributes:
        metric: as it was given, but for what it must know of the dense network.
        name: for people.
        lower_is_better: whether the metric's own numbers are better when lower.
        percent: whether it is a share in [0, 1], shown in percent.
    """

    metric: Metric
    name: str
    lower_is_better: bool = False
    percent: bool = False

    def __call__(self, model: nn.Module, split: Split) -> float:
        """How good `model` is on `split`, higher is better.

        Raises TrialFailed where the metric raises, or gives anything but a finite number.
        """
        with blamed(f"the metric {self.name!r}"):
            found: Any = self.metric(model, split)
        return self.known(measured(f"the metric {self.name!r}", found))

    def each(self, model: nn.Module, split: Split) -> Tensor | None:
        """How good `model` is on every sample, (n,), higher is better; None where the metric is no mean over samples.

        Raises TrialFailed where the metric raises, or gives anything but a finite number a sample.
        """
        if not isinstance(self.metric, PerSample):
            return None
        what = f"the metric {self.name!r}, each sample alone,"
        with blamed(what):
            found = self.metric.each(model, split).double()
        if found.shape != (len(split),) or not found.isfinite().all():
            raise TrialFailed(f"{what} gives {seen(found)}; {len(split)} finite numbers are right")
        return -found if self.lower_is_better else found

    def known(self, quality: float) -> float:
        """The number that the user knows, from the one that is better when higher; and the other way round."""
        return -quality if self.lower_is_better and quality else quality


def top1(model: nn.Module, split: Split) -> float:
    """Share of samples whose largest logit is the target's, in [0, 1]."""
    return accuracy(model, split.batches(_BATCH))


def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Top-1 over batches, in [0, 1]. Leaves the model in eval mode.

    Raises ConfigError where outputs are not (n, classes) floating-point numbers, at least two a sample, with whole
    numbers (n,) as targets: then top-1 means nothing.
    """
    found = right(model, batches)
    return int(found.sum()) / len(found)


def right(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """As `accuracy`, of each sample, (n,) truth values."""
    model.eval()
    parts = list[Tensor]()
    with torch.inference_mode():
        for inputs, targets in batches:
            found = logits(call(model, inputs))
            _require_classes(found, targets)
            parts.append(found.argmax(1) == targets)
    return torch.cat(parts)


def logits(outputs: Any) -> Any:
    """The outputs; of a mapping or of an object with "logits", as `transformers` models give, these."""
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    return getattr(outputs, "logits", outputs)


def _require_classes(found: Any, targets: Any) -> None:
    scores = isinstance(found, Tensor) and found.is_floating_point() and found.dim() == 2 and found.shape[1] >= 2
    whole = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.dtype == torch.bool)
    if scores and whole and targets.shape == found.shape[:1]:
        return
    given = "no targets" if targets is None else f"targets {seen(targets)}"
    raise ConfigError(
        f"the default metric, top-1, is of outputs (n, 2 or more) and whole-number targets (n,); here are outputs "
        f"{seen(found)} and {given}: {GIVE}"
    )


def seen(value: Any) -> str:
    """What `value` is, for people: the type and shape of a tensor, and of each entry of a mapping or tuple."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {seen(one)}" for name, one in value.items()) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(seen, value))})"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _each(model: nn.Module, split: Split) -> Tensor:
    return right(model, split.batches(_BATCH))


top1.each = _each  # type: ignore[attr-defined]  # `PerSample`
top1.title, top1.lower_is_better, top1.percent = "top-1", False, True  # type: ignore[attr-defined]  # `Described`


def samples_at_once(split: Split) -> int:
    """Samples of `split` at once: of text few, since each token has a number for every word of the vocabulary."""
    inputs, _ = next(split.head(1).batches(1))
    return at_once(inputs, _BATCH)


@dataclass(frozen=True)
class KL:
    """Mean Kullback-Leibler divergence of a network's predictions from the dense network's, in nats; lower is better.

    It needs no labels. Where the inputs have an "attention_mask" of a number a position, positions at 0 do not count.

    Attributes:
        top: how many of the dense network's most likely classes are told apart, the rest being one class more: for
            large vocabularies. 0 tells all apart.
        dim: of the classes, in outputs of more than two dimensions; -1 is the last, as in text.
    """

    top: int = 0
    dim: int = -1
    lower_is_better: bool = field(default=True, init=False)
    percent: bool = field(default=False, init=False)

    @property
    def title(self) -> str:
        """As `Described`."""
        return f"KL to dense (top {self.top})" if self.top else "KL to dense"

    def against(self, dense: nn.Module) -> Metric:
        """As `AgainstDense`."""
        return _Compared(dense, self.dim, self._kept, self._differs)

    def _kept(self, found: Tensor) -> tuple[Tensor, ...]:
        logs = found.log_softmax(-1)
        if not 0 < self.top < logs.shape[-1]:
            return (logs,)
        values, places = logs.topk(self.top, -1)
        return values, places

    def _differs(self, found: Tensor, *kept: Tensor) -> Tensor:
        logs, (dense, *places) = found.log_softmax(-1), kept
        if places:
            dense, logs = (torch.cat([some, _rest(some)], -1) for some in (dense, logs.gather(-1, places[0])))
        return (dense.exp() * (dense - logs)).sum(-1)


def _rest(logs: Tensor) -> Tensor:
    """The logarithm of the probability that is left by those with these logarithms, (..., 1)."""
    return (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=1e-9).log()


@dataclass(frozen=True)
class Agreement:
    """Share of samples (of text: positions) whose likeliest class is the dense network's, in [0, 1].

    Attributes:
        dim: as of `KL`, as is which positions count.
    """

    dim: int = -1
    title: str = field(default="agreement with dense", init=False)
    lower_is_better: bool = field(default=False, init=False)
    percent: bool = field(default=True, init=False)

    def against(self, dense: nn.Module) -> Metric:
        """As `AgainstDense`."""
        return _Compared(dense, self.dim, self._kept, self._agrees)

    def _kept(self, found: Tensor) -> tuple[Tensor, ...]:
        return (found.argmax(-1),)

    def _agrees(self, found: Tensor, dense: Tensor) -> Tensor:
        return found.argmax(-1) == dense


kl, agreement = KL(), Agreement()


@dataclass
class _Compared:
    """The mean, over samples, of how a network's logits differ from what was kept of the dense network's.

    What is kept is remembered for the split that was looked at last.
    """

    dense: nn.Module
    dim: int
    keep: Callable[[Tensor], tuple[Tensor, ...]]
    differs: Callable[..., Tensor]
    _last: tuple[Split, list[tuple[Tensor, ...]]] | None = field(default=None, init=False, repr=False)

    def __call__(self, model: nn.Module, split: Split) -> float:
        """The metric; `model` is left in eval mode."""
        model.eval()
        device, total, count = device_of(model), 0.0, 0.0
        with torch.inference_mode():
            for (inputs, _), kept in zip(split.batches(samples_at_once(split)), self._of_dense(split), strict=True):
                found = self._logits(model, moved(inputs, device))
                each = self.differs(found, *(tensor.to(device) for tensor in kept)).double()
                weights = _counted(inputs, each.shape).to(each)
                total += float((each * weights).sum())
                count += float(weights.sum())
        return total / count

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}

    def _of_dense(self, split: Split) -> Iterator[tuple[Tensor, ...]]:
        if self._last is not None and self._last[0] is split:
            yield from self._last[1]
            return
        held, size, twin = list[tuple[Tensor, ...]](), 0, copied(self.dense).eval()
        device = device_of(twin)
        for inputs, _ in split.batches(samples_at_once(split)):
            with torch.autocast(device.type, enabled=False):
                kept = self.keep(self._logits(twin, moved(inputs, device)))
            size += sum(tensor.nbytes for tensor in kept)
            if size <= _HELD:
                held.append(kept)
            yield kept
        if size <= _HELD:
            self._last = split, held

    def _logits(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """(n, ..., classes)."""
        found = logits(call(model, inputs))
        if not (isinstance(found, Tensor) and found.is_floating_point() and found.dim() >= 2):
            raise ConfigError(f"a comparison with the dense network is of logits (n, classes); here are {seen(found)}")
        if found.dim() > 3 and self.dim == -1:
            raise ConfigError(f"outputs are {seen(found)}: say which dimension is of classes, as in KL(dim=1)")
        return found.movedim(self.dim, -1).float()


def _counted(inputs: Inputs, shape: torch.Size) -> Tensor:
    """1 for each sample or position that counts, 0 for padding."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.shape == shape else torch.ones(shape)


def judge(metric: Metric | AgainstDense, dense: nn.Module, name: str, lower_is_better: bool, percent: bool) -> Judge:
    """The judge of a task; what the metric says of itself holds beside what the task says of it."""
    bound: Any = metric.against(dense) if isinstance(metric, AgainstDense) else metric
    called = name or getattr(metric, "__name__", type(metric).__name__)
    if isinstance(metric, Described):
        called = name or metric.title
        lower_is_better, percent = lower_is_better or metric.lower_is_better, percent or metric.percent
    return Judge(bound, called, lower_is_better, percent)
