"""How well a language model foresees the words that follow: a metric, and the loss that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autoprune.errors import ConfigError
from autoprune.inputs import call, device_of, moved
from autoprune.metrics import logits, samples_at_once, seen
from autoprune.splits import Split

NO_WORD = -100  # the target of a position that does not count, as in torch's cross-entropy


@dataclass(frozen=True)
class Perplexity:
    """The exponential of the mean cross-entropy, in nats, of the words that follow; lower is better, 1 the least.

    Outputs are logits (n, length, words), targets the word behind each position, (n, length), or -100 for none.
    """

    title: str = field(default="perplexity", init=False)
    lower_is_better: bool = field(default=True, init=False)
    percent: bool = field(default=False, init=False)

    def __call__(self, model: nn.Module, split: Split) -> float:
        """The perplexity of `model` on `split`, infinite where it overflows; leaves the model in eval mode."""
        model.eval()
        device, total, count = device_of(model), 0.0, 0
        with torch.inference_mode():
            for inputs, targets in split.batches(samples_at_once(split)):
                found = logits(call(model, moved(inputs, device)))
                _require_words(found, targets)
                words = targets.to(device).flatten()
                total += float(cross_entropy(found.float().flatten(0, 1), words, reduction="sum"))
                count += int((words != NO_WORD).sum())
        return math.exp(min(total / max(count, 1), 700.0)) if math.isfinite(total) else math.nan


perplexity = Perplexity()


def next_word(outputs: Any, targets: Any) -> Tensor:
    """The mean cross-entropy of the words that follow, a loss; outputs and targets as of `Perplexity`."""
    found = logits(outputs)
    _require_words(found, targets)
    return cross_entropy(found.float().flatten(0, 1), targets.flatten())


def _require_words(found: Any, targets: Any) -> None:
    words = isinstance(found, Tensor) and found.is_floating_point() and found.dim() == 3
    whole = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not (words and whole and targets.shape == found.shape[:2]):
        given = "no targets" if targets is None else f"targets {seen(targets)}"
        wanted = "logits (n, length, words) and the words that follow, whole numbers (n, length)"
        raise ConfigError(f"perplexity is of {wanted}; here are outputs {seen(found)} and {given}")
