"""Attention heads in what scores, recovers and saves networks: criteria, least squares, and the exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import criteria
from autoprune.criteria import l2
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.files import export
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.values.space import Policy, SearchSpace
from tests.structure.test_heads import OF, TOKENS, WAYS, WIDTH, Grouped, heads, traced


def with_two_heads(model: nn.Module, found: Trace) -> nn.Module:
    units = [np.arange(c.dense) for c in found.choices]
    units[heads(found)] = np.array([0, 2])
    return prune(model, found, units)


def test_a_criterion_sees_all_rows_of_a_head() -> None:
    model, found = traced(Grouped())
    scores = criteria.units_of(model, found, heads(found)).weight
    rows = [model[0].q.weight[2 * OF : 4 * OF], model[0].k.weight[OF : 2 * OF], model[0].v.weight[OF : 2 * OF]]
    assert torch.equal(scores[1].sort().values, torch.cat([row.flatten() for row in rows]).sort().values)


@pytest.mark.parametrize("way", ["named", "fused", "grouped"])
def test_least_squares_brings_the_output_of_fewer_heads_nearer_to_the_dense_one(way: str) -> None:
    model, found = traced(WAYS[way][0]())
    tokens = torch.randn(64, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    samples = [(row, 0) for row in tokens]
    task = Task(model, tokens[:1], samples, samples, samples)
    space = SearchSpace("", found.choices, found.ops, found.parameters)
    made = Reconstruct(Bench(task, found, space, l2), images=64, batch=64, recalibrate=0, panel=1)
    policy = Policy.of(2 if choice.kind == "head" else choice.dense for choice in space)
    with torch.no_grad():
        solved, plain = (
            float((net(tokens) - model(tokens)).square().mean())
            for net in (made.realise(policy).model, made.bench.pruned(policy).model)
        )
    assert solved < 0.8 * plain


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_network_comes_back_with_its_heads(way: str, tmp_path: Path) -> None:
    model, found = traced(WAYS[way][0]())
    export.save(pruned := with_two_heads(model, found), tmp_path / "m.safetensors")
    back = export.load(tmp_path / "m.safetensors", model)
    assert torch.equal(back(TOKENS), pruned(TOKENS))
    assert not torch.equal(back(TOKENS), model(TOKENS))
