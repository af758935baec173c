"""Reconstruction layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.costs.arithmetic import Macs
from autoprune.criteria import group_norm, l2
from autoprune.errors import ConfigError
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.sequential import ReconstructSequential
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.tasks.fashion_mnist import fashion_mnist
from autoprune.testing.evaluators import toy_images, toy_setting
from autoprune.values.space import Policy, SearchSpace
from tests.making import metric

ALL = 10**6


def made_for(model: nn.Module, **settings: float) -> ReconstructSequential:
    split = toy_images(512, 1)
    task = Task(model.eval(), next(split.batches(2))[0], split, split, split)
    traced = trace(task.model, task.example)
    space = SearchSpace("net", traced.choices, traced.ops, traced.parameters)
    precision = str(settings.pop("precision", "fp32"))
    return ReconstructSequential(Bench(task, traced, space, l2, precision=precision), **settings)  # type: ignore[arg-type]


def chain(bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=bias), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4, 4, bias=bias),
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_each_layer_is_fitted_on_the_inputs_that_it_now_gets(bias: bool) -> None:
    dense = chain(bias)
    made = made_for(dense, images=256, positions=ALL, ridge=1e-9)
    candidate = made.recover(made.realise(Policy.of([4, 5])))
    model, stay = candidate.model, candidate.stay["2.weight"][0]
    images = made._batch
    with torch.no_grad():
        for end, rows in ((2, stay), (5, slice(None))):
            inputs, wanted = model[:end](images), dense[: end + 1](images)[:, rows]
            nearest = best(inputs, wanted, model[end])
            torch.testing.assert_close(model[end](inputs), nearest, rtol=1e-3, atol=2e-4)


def best(inputs: Tensor, wanted: Tensor, layer: nn.Module) -> Tensor:
    """The outputs of the least-squares weight, by lstsq."""
    columns = inputs if inputs.dim() == 2 else nn.functional.unfold(inputs, 3).transpose(1, 2).flatten(0, 1)
    columns = columns if layer.bias is None else torch.cat([columns, torch.ones(len(columns), 1)], 1)
    targets = wanted if wanted.dim() == 2 else wanted.flatten(2).transpose(1, 2).flatten(0, 1)
    found = columns.double() @ torch.linalg.lstsq(columns.double(), targets.double()).solution
    return (
        found.float() if wanted.dim() == 2 else found.float().view(len(wanted), -1, wanted.shape[1]).mT.view_as(wanted)
    )


def test_what_cannot_be_fitted_keeps_its_weights_and_is_named() -> None:
    made = made_for(chain(True), images=40)
    candidate = made.realise(Policy.of([4, 5]))
    model = candidate.model
    before = model[5].weight.clone()
    made.recover(candidate)
    assert made.notes == ("Reconstruction left the weights of 5 as they are.",)  # 40 samples of 32 columns
    assert torch.equal(model[5].weight, before)
    assert made_for(chain(True), images=64).notes == ()
    assert made_for(chain(True), images=64, columns=40).notes == ("Reconstruction left the weights of 2 as they are.",)


def test_no_hook_stays() -> None:
    made = made_for(chain(True), images=64)
    candidate = made.realise(Policy.of([4, 5]))
    model = candidate.model
    model[5].forward = lambda x: x.new_zeros(len(x), 4)  # type: ignore[method-assign]
    made.recover(candidate)
    assert not any(m._forward_pre_hooks for m in (*model.modules(), *made.bench.task.model.modules()))


def test_solutions_do_not_depend_on_the_precision_of_the_network() -> None:
    found = []
    for precision in ("fp32", "bf16"):
        made = made_for(chain(True), images=128, precision=precision)
        candidate = made.realise(Policy.of([4, 5]))
        model = candidate.model
        before = model[2].weight.clone()
        made.recover(candidate)
        found.append(model[2].weight - before)
    error = (found[0] - found[1]).norm() / found[0].norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize("settings", [{"images": 1}, {"ridge": 0.0}, {"positions": 0}, {"columns": 0}, {"holdout": -1}])
def test_wrong_settings_name_themselves(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=" ?= ?".join(map(str, next(iter(settings.items()))))):
        ReconstructSequential(Bench(*toy_setting(), l2), **settings)  # type: ignore[arg-type]


def test_leaves_less_of_the_error_than_the_dense_inputs_do() -> None:
    """Three quarters of the MACs gone, the same share in every group, and no training."""
    task = fashion_mnist()
    traced = trace(task.model, task.example)
    space = SearchSpace("resnet20", traced.choices, traced.ops, traced.parameters)
    cost = Macs(space)
    policies = (space.snap([percent / 100] * len(space)) for percent in range(100))
    policy = next(p for p in policies if cost.predict(p) <= 0.25 * cost.predict(space.dense()))
    bench = Bench(task, traced, space, group_norm, shortcuts=False)
    closed = Reconstruct(bench, images=128, recalibrate=128, holdout=500)
    stepwise = ReconstructSequential(bench, images=128, holdout=500)
    first, second = (metric(made, policy) for made in (closed, stepwise))
    assert second > first + 0.02
