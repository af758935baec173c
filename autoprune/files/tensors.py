"""Tensors as the bytes of a safetensors file, the same bytes each time.

The library writes the words of a header in an order of their own, another in each process; here they are sorted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

_LENGTH = 8  # bytes that say how long the header is, little end first; tensors begin at a multiple of that


def written(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> bytes:
    """A safetensors file of `tensors` whose header says `words`."""
    content = safetensors.torch.save(dict(tensors), metadata=dict(words))
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH:end])
    header["__metadata__"] = dict(sorted(words.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text + content[end:]
