"""A task from a network and a few batches, for those who write no Task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from autoprune import inputs, metrics
from autoprune.datasets import LABELS, divided
from autoprune.errors import ConfigError, one_line
from autoprune.inputs import Inputs, joined
from autoprune.splits import Batch, Samples
from autoprune.task import Task

SHARES = (0.6, 0.2, 0.2)  # of the samples for train, holdout and test, where nobody says
SPLITS = ("train", "holdout", "test")
FEWEST = 10  # samples that can be cut in three


def task_of(model: nn.Module, data: object, *, seed: int = 0, example: Inputs = None, **said: Any) -> Task:
    """The task of `model` on `data`.

    Args:
        model: the trained network.
        data: batches as a loader gives them, pairs (inputs, targets), inputs alone, or mappings; they are held in
            memory, and cut by chance into 60 % train, 20 % holdout and 20 % test. Or a mapping of "train", "holdout"
            and "test", each of them whatever a Task takes, or such batches.
        seed: of the cut.
        example: a batch of inputs of the size that costs are counted at; the first sample, unless it is given.
        said: what else a Task takes, such as metric and loss. Without labels the metric is `autoprune.metrics.kl`.

    Raises ConfigError for data of other kinds, and of fewer than ten samples.
    """
    if isinstance(data, Mapping):
        parts: dict[str, Any] = {name: _split(data[name]) if name in data else None for name in SPLITS}
        if unknown := [str(name) for name in data if name not in SPLITS]:
            raise ConfigError(f"data has {', '.join(unknown)}; train, holdout and test are right, or a list of batches")
        held = next((part for part in parts.values() if isinstance(part, Samples)), None)
    else:
        held = _held(data)
        if len(held) < FEWEST:
            raise ConfigError(f"data holds {len(held)} samples; at least {FEWEST}, to be cut in three, are right")
        parts = dict(zip(SPLITS, held.cut(SHARES, seed), strict=True))
    if example is None and held is None:
        raise ConfigError("data holds no batches to take an example from; give example=, one batch of inputs")
    if held is not None and held.batch[1] is None:
        said = {"metric": metrics.kl, **said}
    example = inputs.first(held.batch[0], 1) if example is None and held is not None else example
    return Task(model, example, **parts, **said)


def _split(data: Any) -> Any:
    """Batches in a list as samples in memory; all else as it is, for a Task to take."""
    return _held(data) if isinstance(data, list | tuple) and data and not _is_sample(data[0]) else data


def _is_sample(entry: object) -> bool:
    """Whether it is a sample of a data set rather than a batch: its inputs or its label have no dimension for them."""
    found = inputs.tensors(entry)
    return not found or any(tensor.dim() == 0 for tensor in found)


def _held(data: object) -> Samples:
    """All batches as one."""
    if not isinstance(data, Iterable):
        raise ConfigError(f"data is a {type(data).__name__}; a list of batches, or a DataLoader, is right")
    found = [_divided(raw) for raw in data]
    if not found:
        raise ConfigError("data holds no batch; a list of batches, or a DataLoader, is right")
    try:
        while len(found) > 1:
            found = [joined(*found[at : at + 2]) if found[at + 1 :] else found[at] for at in range(0, len(found), 2)]
    except (RuntimeError, TypeError, ValueError) as wrong:
        raise ConfigError(f"the batches of data do not go together: {one_line(wrong)}; one shape is right") from None
    return Samples(found[0])


def _divided(raw: Any) -> Batch:
    if isinstance(raw, Mapping):
        return divided(raw, {name: entry for name, entry in raw.items() if name not in LABELS})
    return divided(raw, raw[0] if isinstance(raw, tuple | list) and raw else raw)
