"""Files of tensors that are the same to the last byte."""

from __future__ import annotations

import itertools

import safetensors
import safetensors.torch
import torch

from autoprune.files.tensors import written

TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16), "ä": torch.tensor(7)}
WORDS = {f"word {n}": 'says "ä" \n' * n for n in range(8)}


def test_the_same_tensors_are_the_same_bytes() -> None:
    """The words of the header came in another order each time, so that no two exports had one hash."""
    orders = itertools.islice(itertools.permutations(WORDS.items()), 0, 40_000, 4_000)
    assert len({written(TENSORS, dict(order)) for order in orders}) == 1


def test_is_read_as_it_was_written(tmp_path: object) -> None:
    content = written(TENSORS, WORDS)
    found = safetensors.torch.load(content)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    path = f"{tmp_path}/x.safetensors"
    with open(path, "wb") as file:
        file.write(content)
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == WORDS
    assert int.from_bytes(content[:8], "little") % 8 == 0
