"""Attention heads as choices: of every way to write them, cut and proven, with the numbers of their modules right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Macs, Params
from autoprune.errors import ModelError
from autoprune.files import export
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.values.space import SearchSpace
from tests.zoo import NETWORKS, Case

WIDTH, HEADS, OF = 12, 3, 4  # three heads, as many as there are queries, keys and values in what is fused
TOKENS = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """What the ways to write it have in common."""

    def __init__(self, fused: bool = False, heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner = heads, OF, heads * OF
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * self.inner)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, self.inner) for _ in range(3))
        self.out = nn.Linear(self.inner, WIDTH)


class Separate(Attention):
    """BERT's: separate layers, fused attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Named(Attention):
    """Its heads are a number on the module; attention by hand, on samples and heads in one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            f(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2).reshape(n * self.num_heads, t, -1)
            for f in (self.q, self.k, self.v)
        )
        mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.out(mixed.view(n, self.num_heads, t, -1).transpose(1, 2).reshape(n, t, self.inner))


class Fused(Attention):
    """timm's: one layer, three dimensions at once, of which two are three."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, self.inner))


class Open(Fused):
    """Swin's: what is left over is a head's own width."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))


class Split(Fused):
    """GPT-2's: one layer, taken apart in parts of a size that is a number on the module."""

    def forward(self, x: Tensor) -> Tensor:
        parts = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in self.qkv(x).split(self.inner, dim=2))
        return self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Inside(Fused):
    """GPT-NeoX's: queries, keys and values of one head after another."""

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).view(*x.shape[:2], self.num_heads, 3 * self.head_dim).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(*heads.chunk(3, -1))
        return self.out(mixed.transpose(1, 2).flatten(2))


class Grouped(Attention):
    """Llama's: two queries to a key, keys repeated, positions turned in."""

    def __init__(self) -> None:
        super().__init__(heads=6)
        self.groups = 2
        self.k, self.v = (nn.Linear(WIDTH, self.inner // 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.arange(x.shape[1])[:, None] / torch.tensor([1.0, 10.0, 1.0, 10.0])
        q, k = (y * angle.cos() + torch.cat((-y[..., 2:], y[..., :2]), -1) * angle.sin() for y in (q, k))
        k, v = (y[:, :, None].expand(-1, -1, self.groups, -1, -1).flatten(1, 2) for y in (k, v))
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Biased(Attention):
    """A learnt bias for each head, and a mask that is written out for all of them."""

    def __init__(self) -> None:
        super().__init__(fused=True)
        self.bias = nn.Parameter(torch.randn(9, HEADS))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        apart = torch.arange(t)[:, None] - torch.arange(t) + t - 1
        mask = torch.ones(t, t).tril().log().view(1, 1, t, t).expand(n, self.num_heads, -1, -1)
        mixed = ((q @ k.transpose(-2, -1)) + self.bias[apart].permute(2, 0, 1) + mask).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, t, -1))


class Torchs(nn.Module):
    """torch's own layer, as most call it: with weights that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x, x, x)[0]


class Nameless(Attention):
    """The numbers of its heads, and of their channels, are called as in the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.d_k = HEADS, OF

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(len(x), -1, self.h, self.d_k).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.contiguous().view(len(x), -1, self.h * self.d_k))


WAYS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # how many heads leave at once
    "separate": (Separate, 3),
    "named": (Named, 3),
    "fused": (lambda: Fused(True), 3),
    "open": (lambda: Open(True), 3),
    "split": (lambda: Split(True), 3),
    "inside": (lambda: Inside(True), 3),
    "grouped": (Grouped, 3),
    "biased": (Biased, 3),
    "torch's": (Torchs, 3),
    "nameless": (Nameless, 3),
}


def traced(attention: nn.Module) -> tuple[nn.Module, Trace]:
    torch.manual_seed(0)
    model = nn.Sequential(attention, nn.Linear(WIDTH, 6), nn.Linear(6, 2)).eval()
    return model, trace(model, TOKENS)


def heads(found: Trace) -> int:
    (place,) = (place for place, choice in enumerate(found.choices) if choice.kind == "head")
    return place


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    def test_heads_are_a_choice_and_proven(self, way: str) -> None:
        make, units = WAYS[way]
        _, found = traced(make())
        assert (found.choices[heads(found)].dense, found.proofs[heads(found)]) == (units, "exact")
        assert found.choices[heads(found)].width % OF == 0

    def test_costs_are_those_of_the_pruned_network(self, way: str) -> None:
        model, found = traced(WAYS[way][0]())
        space = SearchSpace("", found.choices, found.ops, found.parameters)
        macs, params = Macs(space), Params(space)
        for kept in ([0], [2], [0, 2], [0, 1, 2]):
            units = [np.arange(c.dense) for c in found.choices]
            units[heads(found)] = np.array(kept)
            policy = space.dense().of(map(len, units))
            pruned = prune(model, found, units)
            assert macs.predict(policy) == macs.measure(pruned, TOKENS)
            assert params.predict(policy) == params.measure(pruned, TOKENS)

    def test_what_is_left_is_what_the_other_heads_compute(self, way: str) -> None:
        """Cutting the second head is reading nothing of it."""
        model, found = traced(WAYS[way][0]())
        units = [np.arange(c.dense) for c in found.choices]
        units[heads(found)] = np.array([0, 2])
        pruned = prune(model, found, units)
        reads = dict(model.named_parameters())["0.out.weight" if way != "torch's" else "0.out.out_proj.weight"]
        width = reads.shape[1] // 3
        with torch.no_grad():
            dense = model(TOKENS)
            reads[:, width : 2 * width] = 0
            assert torch.allclose(pruned(TOKENS), model(TOKENS), atol=1e-6)
            assert not torch.allclose(dense, model(TOKENS), atol=1e-3)


def test_numbers_of_the_module_fall_with_its_heads() -> None:
    model, found = traced(Named())
    pruned = prune(model, found, [np.array([1]), *(np.arange(c.dense) for c in found.choices[1:])])
    assert (pruned[0].num_heads, pruned[0].head_dim, pruned[0].inner) == (1, 4, 4)
    assert (model[0].num_heads, model[0].head_dim, model[0].inner) == (3, 4, 12)


def test_a_number_that_counts_two_layers_ties_them() -> None:
    class Twice(Named):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(WIDTH, self.inner), nn.Linear(OF, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.down(self.up(x).view(*x.shape[:2], self.num_heads, -1)).mean((2, 3))
            return super().forward(x) + parts[:, :, None]

    _, found = traced(Twice())
    frozen = {f.name: f.reason for f in found.frozen}
    assert "is reduced over by mean" in frozen["0.up"]  # and the heads with it, since one number counts both
    assert not any(choice.kind == "head" for choice in found.choices)


def test_a_written_number_of_heads_is_frozen_with_its_reason() -> None:
    class Written(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).view(*x.shape[:2], 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    _, found = traced(Written())
    assert "the Written `0` reshapes to a size that is written down: 3 heads of 4" in [f.reason for f in found.frozen]


def test_numbers_are_plain_again_after_tracing() -> None:
    model, _ = traced(Named())
    assert type(model[0].num_heads) is int


@pytest.fixture(scope="module")
def llama() -> tuple[nn.Module, Trace]:
    pytest.importorskip("transformers")
    one = Case(NETWORKS["transformers/LlamaForCausalLM"])
    return one.model, one.trace


def test_of_numbers_of_paths_and_channels_the_channels_are_units() -> None:
    """As selective kernels are written, whose softmax runs over the paths."""

    class Paths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_paths, self.num_channels = 2, 5
            self.a, self.b = nn.Conv2d(3, 10, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            two = self.a(x.mean((2, 3), keepdim=True)).view(len(x), self.num_paths, self.num_channels, 1, 1)
            return self.b(two.softmax(1).select(1, 0) * 2)

    found = trace(Paths().eval(), torch.randn(2, 3, 4, 4))
    assert [(c.name, c.dense, c.width) for c in found.choices] == [("a", 5, 2)]
    assert [(r.attribute, r.each) for r in found.resizes] == [("num_channels", 1)]


class TestConfig:
    """The config of a network of transformers, which all its layers share."""

    @pytest.mark.parametrize(("kept", "said"), [((1, 1), (2, 1)), ((1, 2), (4, 2))])
    def test_says_the_heads_that_all_layers_have(
        self, llama: tuple[nn.Module, Trace], kept: tuple[int, int], said: tuple[int, int], tmp_path: Path
    ) -> None:
        """Of four queries to two keys; where layers differ, one number cannot say it, and it stays."""
        model, found = llama
        left = iter(kept)
        units = [np.arange(next(left) if c.kind == "head" else c.dense) for c in found.choices]
        export.save(pruned := prune(model, found, units), tmp_path / "m.safetensors")
        for one in (pruned, export.load(tmp_path / "m.safetensors", model)):
            assert (one.config.num_attention_heads, one.config.num_key_value_heads) == said
        assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)

    def test_pruned_networks_generate_with_cached_keys_what_they_do_without(
        self, llama: tuple[nn.Module, Trace]
    ) -> None:
        model, found = llama
        pruned = prune(model, found, [np.arange((c.dense + 1) // 2) for c in found.choices])
        tokens = torch.arange(2, 10)[None]
        told = [pruned.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=c).tolist() for c in (True, False)]
        assert told[0] == told[1]


def test_attention_that_cannot_be_proven_is_one_line() -> None:
    class Alone(Attention):
        def forward(self, x: Tensor) -> Tensor:
            n, t, c = x.shape
            q, k, v = self.qkv(x).reshape(n, t, 3, 3, c // 3).permute(2, 0, 3, 1, 4).unbind(0)
            return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)

    with pytest.raises(ModelError) as caught:
        trace(Alone(True), TOKENS)
    assert "qkv: " in str(caught.value)
    assert "\n" not in str(caught.value)
