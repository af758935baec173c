"""Generation as what is timed: one token after the other behind a prompt, whose keys and values are kept."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import TargetError
from autoprune.inputs import Inputs

_NAMES = ("cache", "past_key_values")  # of keys and values; transformers' name since 5.24, and before


class Generation:
    """Greedy decoding by a causal language model of `transformers`, from the end of a prompt on.

    The prompt is read once, when this is made; each call writes `tokens` tokens behind it, and forgets them.
    """

    def __init__(self, model: nn.Module, prompt: Inputs, tokens: int) -> None:
        """`prompt` is int64 (n, length), or a mapping with such "input_ids", which are all that is read of it.

        Raises TargetError where the network keeps no keys and values, or the prompt is no text.
        """
        ids = prompt.get("input_ids") if isinstance(prompt, Mapping) else prompt
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
            raise TargetError(f"generate = {tokens}: the task's example is no text; tokens (n, length) are needed")
        known = inspect.signature(model.forward).parameters
        self._name = next((name for name in _NAMES if name in known), "")
        with torch.inference_mode():
            said = model(input_ids=ids, use_cache=True) if self._name else None
        self._kept: Any = getattr(said, self._name, None)
        if not hasattr(self._kept, "crop"):
            raise TargetError(
                f"generate = {tokens}: {type(model).__name__} keeps no keys and values from token to token; "
                "causal language models of transformers do"
            )
        self._model, self._tokens, self._first = model, tokens, _likeliest(said)

    def __call__(self) -> Tensor:
        """The tokens written, int64 (n, tokens)."""
        written = []
        word = self._first
        for _ in range(self._tokens):
            said = self._model(input_ids=word, use_cache=True, **{self._name: self._kept})
            word = _likeliest(said)
            written.append(word)
        self._kept.crop(-self._tokens)
        return torch.cat(written, 1)


def _likeliest(said: Any) -> Tensor:
    """The likeliest word behind the last one, int64 (n, 1)."""
    found: Tensor = said.logits[:, -1:].argmax(-1)
    return found
