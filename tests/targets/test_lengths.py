"""How long a text is that targets time."""

from __future__ import annotations

import torch

from autoprune.targets.inputs import of_length
from autoprune.targets.pytorch import Torch


def test_texts_are_repeated_or_cut_and_nothing_else() -> None:
    example = {"input_ids": torch.arange(6).view(2, 3), "pixels": torch.zeros(2, 3)}
    longer, shorter = of_length(example, 5), of_length(example, 2)
    assert longer["input_ids"].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]
    assert shorter["input_ids"].tolist() == [[0, 1], [3, 4]]
    assert longer["pixels"].shape == (2, 3)
    assert of_length(example, 0)["input_ids"].shape == (2, 3)


def test_the_length_is_part_of_what_timings_are_kept_under() -> None:
    assert "tokens" not in Torch().key
    assert Torch(tokens=512).key["tokens"] == 512


def test_it_is_what_runs() -> None:
    seen = []
    table = torch.nn.Embedding(10, 2)
    table.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
    Torch(tokens=7).ready(table, torch.ones(1, 3, dtype=torch.int64))()
    assert set(seen) == {7}
