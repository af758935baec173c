"""torch's attention with heads that may leave: it computes what torch's own does, and is pruned and proven."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.structure.attention import prunable

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "other keys and values": {"kdim": 5, "vdim": 7},
    "without bias": {"bias": False},
    "with a learnt key": {"add_bias_kv": True},
    "with a key of zeros": {"add_zero_attn": True},
}


def sources(made: nn.MultiheadAttention, *, batched: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(2, n, d, generator=generator) for n, d in ((3, 8), (4, made.kdim), (4, made.vdim))]
    return [x if made.batch_first else x.transpose(0, 1) for x in found] if batched else [x[0] for x in found]


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "bool": {"attn_mask": torch.ones(3, 4, dtype=torch.bool).triu(2)},
    "of each head": {"attn_mask": torch.linspace(-1, 1, 2 * 4 * 12).view(8, 3, 4)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 4, [False, False, True, True]])},
    "both": {
        "attn_mask": torch.ones(3, 4, dtype=torch.bool).triu(2),
        "key_padding_mask": torch.tensor([[False] * 4, [False, False, False, True]]),
    },
    "weights of each head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", MASKS)
def test_computes_what_torchs_does(kind: str, masks: str) -> None:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 4, **KINDS[kind]).eval()
    prunable(twin := copy.deepcopy(made))
    for ours, theirs in zip(twin(*sources(made), **MASKS[masks]), made(*sources(made), **MASKS[masks]), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-6)


def test_computes_what_torchs_does_of_one_sample_without_a_batch() -> None:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 4).eval()
    prunable(twin := copy.deepcopy(made))
    mask = torch.tensor([False, False, True, False])
    for ours, theirs in zip(*(net(*sources(made, batched=False), mask) for net in (twin, made)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_drops_weights_in_training_as_torchs_does() -> None:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(8, 4, dropout=0.5)
    prunable(twin := copy.deepcopy(made))
    found = []
    for net in (twin, made):
        torch.manual_seed(1)
        found.append(net(*sources(made))[0])
    assert torch.allclose(*found, atol=1e-6)


def test_an_encoder_of_torchs_takes_no_path_on_which_its_heads_must_all_be_there() -> None:
    """Fused layers and nested tensors read weights of attention by themselves."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    made = nn.TransformerEncoder(layer, 2).eval()
    prunable(twin := copy.deepcopy(made))
    tokens, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        ours, theirs = (net(tokens, src_key_padding_mask=padding) for net in (twin, made))
        assert torch.allclose(ours[~padding], theirs[~padding], atol=1e-5)
        for one in twin.layers:
            one.self_attn.num_heads = 1
            one.self_attn.in_proj_weight = nn.Parameter(torch.randn(6, 8))
            one.self_attn.in_proj_bias = nn.Parameter(torch.randn(6))
            one.self_attn.out_proj.weight = nn.Parameter(torch.randn(8, 2))
        assert twin(tokens, src_key_padding_mask=padding).shape == (2, 5, 8)
