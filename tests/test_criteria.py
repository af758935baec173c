"""Criteria: closed forms, and the contract of each on random units."""

from __future__ import annotations

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import criteria
from autoprune.errors import ConfigError, ModelError
from autoprune.models.resnet import ResNet
from autoprune.protocols import Criterion, Units
from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace, trace
from autoprune.task import Images, Task
from autoprune.testing.criteria import toy_units
from autoprune.testing.evaluators import state_of, toy_setting

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0]])


def test_l1() -> None:
    assert criteria.l1(Units(WEIGHT)).tolist() == [7, 0, 2]


def test_l2() -> None:
    assert criteria.l2(Units(WEIGHT)).tolist() == pytest.approx([5, 0, 2**0.5])


def test_group_norm_looks_at_all_that_leaves() -> None:
    coupled = torch.tensor([[3.0, 4.0, 12.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert criteria.group_norm(Units(WEIGHT, coupled=coupled)).tolist() == [13, 2, 0]


def test_bn_scale_is_blind_to_signs() -> None:
    scale = torch.tensor([[-2.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    assert criteria.bn_scale(Units(WEIGHT, scale=scale)).tolist() == [3, 0.5, 0]


def test_fpgm_calls_the_replaceable_one_least_important() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])  # on a line: the one in the middle
    assert criteria.fpgm(Units(weight)).tolist() == [15, 10, 15]


def test_taylor_sums_squared_changes() -> None:
    found = criteria.taylor(Units(WEIGHT, coupled=torch.tensor([[1.0, -2.0]]), grad=torch.tensor([[3.0, 0.5]])))
    assert found.tolist() == [10]


def test_random_differs_by_seed() -> None:
    assert not torch.equal(criteria.random(toy_units(8, 1, seed=0)), criteria.random(toy_units(8, 1, seed=1)))


def test_reading_without_asking_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decorate it with @needs\('coupled'\)"):
        criteria.group_norm(Units(WEIGHT))


@pytest.fixture(scope="module", params=["A", "B"])
def resnet(request: pytest.FixtureRequest) -> tuple[nn.Module, Trace]:
    torch.manual_seed(0)
    model = ResNet(20, option=request.param).eval()
    return model, trace(model, torch.randn(2, 3, 32, 32))


def energy(model: nn.Module) -> float:
    return sum(float(p.detach().double().square().sum()) for p in model.parameters() if p.dim() > 1)


def test_coupled_is_what_pruning_removes(resnet: tuple[nn.Module, Trace]) -> None:
    model, traced = resnet
    for i, choice in enumerate(traced.choices):
        coupled = criteria.units_of(model, traced, i, ["coupled"]).coupled
        assert coupled is not None
        gone = np.arange(0, choice.dense, 3)
        units = [np.arange(g.dense) for g in traced.choices]
        units[i] = np.setdiff1d(units[i], gone)
        removed = energy(model) - energy(prune(model, traced, units))
        assert removed == pytest.approx(float(coupled[gone].double().square().sum()), rel=1e-5)


def test_weight_holds_the_rows_of_every_producer(resnet: tuple[nn.Module, Trace]) -> None:
    model, traced = resnet
    tensors = dict(model.named_parameters())
    for i, cuts in enumerate(traced.edits):
        producers = [c for c in cuts if c.role == "out" and tensors[c.tensor].dim() > 1]
        weight = criteria.units_of(model, traced, i).weight
        rows = [tensors[c.tensor][torch.from_numpy(c.index[3])].flatten() for c in producers]  # of unit 3
        assert torch.equal(weight[3], torch.cat(rows))


def test_scale_holds_the_gammas() -> None:
    task, traced, _ = toy_setting()
    scale = criteria.units_of(task.model, traced, 1, ["scale"]).scale
    assert scale is not None
    assert torch.equal(scale[:, 0], task.model.bn2.weight.detach())  # type: ignore[union-attr]


def test_only_what_is_asked_for_is_gathered() -> None:
    task, traced, _ = toy_setting()
    units = criteria.units_of(task.model, traced, 0)
    assert (units.coupled, units.scale, units.grad, units.generator) == (None, None, None, None)


def test_gradients_are_their_root_mean_square_over_batches() -> None:
    task, _, _ = toy_setting()
    found = criteria.collect_gradients(task.model, task, seed=3)
    count, size = criteria.CALIBRATION
    twin, squares = copy.deepcopy(task.model).eval(), []
    for inputs, targets in islice(task.train.shuffled(size, torch.Generator().manual_seed(3)), count):
        twin.zero_grad()
        task.loss(twin(inputs), targets).backward()
        squares.append(twin.conv2.weight.grad.square())  # type: ignore[union-attr,operator]
    torch.testing.assert_close(found["conv2.weight"], torch.stack(squares).mean(0).sqrt())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("criterion", [criteria.taylor, criteria.bn_scale, criteria.random])
def test_scoring_leaves_the_network_alone(criterion: Criterion, training: bool) -> None:
    task, traced, _ = toy_setting()
    task.model.train(training)
    task.model.conv1.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    before, dice = state_of(task.model), torch.get_rng_state()
    with torch.no_grad():
        found = criteria.scores(task.model, traced, criterion, task=task, seed=0)
    assert [len(s) for s in found] == [g.dense for g in traced.choices]
    assert state_of(task.model) == before
    assert torch.equal(torch.get_rng_state(), dice)


def test_taylor_finds_the_dead_unit() -> None:
    task, traced, _ = toy_setting()
    with torch.no_grad():
        task.model.conv3.weight[:, 5] = 0  # type: ignore[union-attr,index,operator]
        task.model.conv2.weight[5] = 0  # type: ignore[union-attr,index,operator]
    inner = [g.dense for g in traced.choices].index(12)
    assert int(criteria.scores(task.model, traced, criteria.taylor, task=task, seed=0)[inner].argmin()) == 5


def plain_task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    images = Images(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), (0.5,), (0.5,))
    return Task(model, torch.randn(2, 1, 8, 8), images, images, images)


def test_bn_scale_without_batchnorm_names_the_group_and_the_way_out() -> None:
    task = plain_task()
    traced = trace(task.model, task.example)
    with pytest.raises(ConfigError, match=r"BatchNorm behind '0'.*group_norm"):
        criteria.scores(task.model, traced, criteria.bn_scale, task=task, seed=0)


def test_a_flattened_unit_takes_all_its_columns() -> None:
    task = plain_task()
    coupled = criteria.units_of(task.model, trace(task.model, task.example), 0, ["coupled"]).coupled
    assert coupled is not None
    assert coupled.shape == (4, 9 + 36 * 4)


@pytest.mark.parametrize(
    ("criterion", "error", "words"),
    [
        (lambda units: units.weight, ConfigError, r"gave shape \(8, 117\).*\(8,\) is needed"),
        (lambda units: units.weight.sum(1) / 0, ConfigError, "gave NaN or infinity for .*, whose weights are finite"),
        (
            lambda units: units.weight.sum(1).tolist(),
            ConfigError,
            "gave a list for .*; a tensor of 8 numbers is needed",
        ),
        (lambda units: units.weight.sum(1).numpy(), ConfigError, "gave a ndarray for"),
        (lambda units: None, ConfigError, "gave a NoneType for"),
        (lambda units: units.weight.sum(1) * 1j, ConfigError, r"gave a tensor of torch\.complex64 for"),
        (
            lambda units: units.weight.nothing(),
            ConfigError,
            r"fails on 'conv1' \(AttributeError: .* at test_criteria\.py",
        ),
        (
            lambda units: units.coupled.norm(dim=1),
            ConfigError,
            r"fails on 'conv1' .*; coupled, scale, grad, generator of its units are None unless @needs\(\.\.\.\) asks",
        ),
    ],
)
def test_a_wrong_criterion_is_told_so(criterion: Criterion, error: type[Exception], words: str) -> None:
    task, traced, _ = toy_setting()
    with pytest.raises(error, match=words):
        criteria.scores(task.model, traced, criterion, task=task, seed=0)


def test_a_field_that_there_is_not_is_refused_where_it_is_asked_for() -> None:
    """A misspelt one was taken, and the field was None."""
    with pytest.raises(
        ConfigError, match="needs 'couplde' of its units; there are 'coupled', 'scale', 'grad', 'generator'"
    ):
        criteria.needs("couplde")(lambda units: units.weight.sum(1))


def test_weights_that_are_not_finite_are_not_the_criterions_fault() -> None:
    task = plain_task()
    traced = trace(task.model, task.example)
    with torch.no_grad():
        next(task.model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match=r"weights of '0' are NaN or infinite; criterion 'l1' cannot rank its units"):
        criteria.scores(task.model, traced, criteria.l1, task=task, seed=0)
