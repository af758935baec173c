"""torch's attention with heads that may leave: `nn.MultiheadAttention` insists that they are as wide as what it reads.

A network is traced, and runs once something has left it, with `PrunableAttention` in its place. That computes the same,
from the same tensors, as ordinary layers do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional


class PrunableAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention`, whose heads together may be narrower than the queries."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As that of `nn.MultiheadAttention`; `is_causal` is a hint, and `attn_mask` is what counts."""
        batched, along = query.dim() == 3, 0 if query.dim() == 3 and not self.batch_first else None
        sources = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        q, k, v = self._projected([x if along is None else x.transpose(0, 1) for x in sources])  # (n, length, inner)
        mask = self._mask(q, attn_mask, key_padding_mask)
        k, v, mask = self._longer(k, v, mask)
        q, k, v = (x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for x in (q, k, v))
        dropped = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)  # (n, heads, length, others)
            weights = functional.dropout((scores if mask is None else scores + mask).softmax(-1), dropped)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropped)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if along is None else out.transpose(0, 1), weights

    def _projected(self, sources: list[Tensor]) -> Iterator[Tensor]:
        if self.in_proj_weight is not None:
            kernels: tuple[Tensor, ...] = self.in_proj_weight.chunk(3)
        else:
            kernels = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return map(functional.linear, sources, kernels, biases)

    def _mask(self, q: Tensor, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores, (., ., length, others)."""
        found: Tensor | None = None
        if attention is not None:
            found = _added(attention, q)
            found = found.view(len(q), -1, *found.shape[1:]) if found.dim() == 3 else found
        if padding is not None:
            hidden = _added(padding if padding.dim() == 2 else padding.unsqueeze(0), q)[:, None, None]
            found = hidden if found is None else found + hidden
        return found

    def _longer(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """With a learnt key and value, and one of zeros, behind the others, where there are such."""
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, one.expand(len(x), -1, -1)], 1) for x, one in ((k, self.bias_k), (v, self.bias_v)))
            mask = mask if mask is None else functional.pad(mask, (0, 1))
        if self.add_zero_attn:
            k, v = (torch.cat([x, torch.zeros_like(x[:, :1])], 1) for x in (k, v))
            mask = mask if mask is None else functional.pad(mask, (0, 1))
        return k, v, mask


def prunable(model: nn.Module) -> None:
    """Let heads leave from all of torch's attention in `model`, whose fused paths are not taken then."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            module.__class__ = PrunableAttention
        if isinstance(module, PrunableAttention):
            module._qkv_same_embed_dim = False  # nn.TransformerEncoderLayer asks that before it goes another way
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def widths(module: nn.MultiheadAttention) -> dict[str, int]:
    """The size attributes, but for the heads, that `module` should have by its weights."""
    if module.in_proj_weight is not None:
        return dict.fromkeys(("embed_dim", "kdim", "vdim"), module.in_proj_weight.shape[1])
    kernels = {"embed_dim": module.q_proj_weight, "kdim": module.k_proj_weight, "vdim": module.v_proj_weight}
    return {word: kernel.shape[1] for word, kernel in kernels.items()}


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask, true where nothing is seen, as numbers that are added to scores."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
