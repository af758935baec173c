"""The training loop: what it trains, from which randomness, and what it leaves alone."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.errors import ConfigError, TrialFailed
from autoprune.task import Images, Task
from autoprune.testing.evaluators import ToyNet, state_of, toy_images
from autoprune.train import Recipe, forked, ramp, train

RECIPE = Recipe(steps=8, batch=32, lr=0.1)
SPLIT = dataclasses.replace(toy_images(128, 1), pad=1, flip=True)


def trained(
    recipe: Recipe = RECIPE, seed: int = 0, teacher: nn.Module | None = None, split: Images = SPLIT
) -> nn.Module:
    with forked(0):
        model = ToyNet()
    train(model, split, functional.cross_entropy, recipe, seed=seed, teacher=teacher)
    return model


def changed(recipe: Recipe, **fields: float) -> bool:
    """Whether another recipe gives other weights."""
    return state_of(trained(recipe)) != state_of(trained(dataclasses.replace(recipe, **fields)))  # type: ignore[arg-type]


def test_learns() -> None:
    losses: list[float] = []
    model = ToyNet()
    recipe = dataclasses.replace(RECIPE, steps=40)
    train(model, SPLIT, functional.cross_entropy, recipe, seed=0, watch=lambda _, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_same_seed_same_weights_other_seed_others() -> None:
    first = state_of(trained(seed=0))
    assert state_of(trained(seed=0)) == first
    assert state_of(trained(seed=1)) != first


@pytest.mark.parametrize("steps", [0, 1, 4, 11])
def test_every_step_is_watched(steps: int) -> None:
    seen: list[int] = []
    model = ToyNet()
    recipe = dataclasses.replace(RECIPE, steps=steps)
    train(model, SPLIT, functional.cross_entropy, recipe, seed=0, watch=lambda step, _: seen.append(step))
    assert seen == list(range(1, steps + 1))
    assert not model.training


def test_zero_steps_change_nothing() -> None:
    with forked(0):
        untouched = ToyNet().eval()
    assert state_of(trained(dataclasses.replace(RECIPE, steps=0))) == state_of(untouched)


def test_a_batch_larger_than_the_split_is_the_whole_split() -> None:
    train(ToyNet(), toy_images(20, 0), functional.cross_entropy, dataclasses.replace(RECIPE, batch=64), seed=0)


def test_frozen_parameters_stay() -> None:
    model = ToyNet()
    model.conv1.weight.requires_grad_(False)
    before = [p.clone() for p in (model.conv1.weight, model.conv2.weight)]
    train(model, SPLIT, functional.cross_entropy, RECIPE, seed=0)
    assert torch.equal(before[0], model.conv1.weight)
    assert not torch.equal(before[1], model.conv2.weight)


def test_weight_decay_spares_vectors() -> None:
    model = ToyNet()
    with torch.no_grad():
        model.bn1.weight.fill_(2)

    def blind(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0 * outputs.sum()

    before = copy.deepcopy(model.state_dict())
    train(model, SPLIT, blind, dataclasses.replace(RECIPE, weight_decay=0.1), seed=0)
    assert float(model.conv1.weight.detach().norm()) < float(before["conv1.weight"].norm())
    assert torch.equal(model.bn1.weight, before["bn1.weight"])
    assert torch.equal(model.fc.bias, before["fc.bias"])


def test_every_word_of_the_recipe_matters() -> None:
    assert changed(RECIPE, lr=0.05)
    assert changed(RECIPE, batch=16)
    assert changed(RECIPE, warmup=0.5)
    assert changed(RECIPE, weight_decay=0.0)
    assert changed(RECIPE, label_smoothing=0.1)
    assert changed(RECIPE, clip=0.01)


def test_a_teacher_teaches_and_stays_as_it_is() -> None:
    teacher = trained(dataclasses.replace(RECIPE, steps=30))
    before = state_of(teacher)
    inputs, _ = next(SPLIT.batches(128))
    wrong = dataclasses.replace(SPLIT, labels=(SPLIT.labels + 1) % 4)  # so that only the teacher knows what is right

    def distance(recipe: Recipe) -> float:
        model = trained(recipe, seed=1, teacher=teacher, split=wrong)
        with torch.no_grad():
            return float((model(inputs).softmax(1) - teacher(inputs).softmax(1)).abs().mean())

    taught = dataclasses.replace(RECIPE, steps=30, distill=1.0)
    assert distance(taught) < 0.1 < distance(dataclasses.replace(taught, distill=0.0))
    assert state_of(teacher) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_fails_the_trial(value: float) -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * value

    with pytest.raises(TrialFailed, match=r"loss is (nan|-?inf) at step 1 of 8"):
        train(ToyNet(), SPLIT, broken, RECIPE, seed=0)


def test_leaves_global_randomness_alone() -> None:
    before = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), before)


def test_forked_seeds_inside_and_restores() -> None:
    before = torch.get_rng_state()
    with forked(5):
        first = torch.rand(1)
    with forked(5):
        assert torch.equal(torch.rand(1), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_learning_rate_rises_and_falls() -> None:
    values = [ramp(done / 100, 0.2) for done in range(101)]
    assert values[0] == 0
    assert values[20] == 1
    assert values[60] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0, abs=1e-12)
    assert values[:21] == sorted(values[:21])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert all(math.isfinite(ramp(done, 0.0)) for done in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_detector_or_a_regression_has_nothing_to_distill(share: float) -> None:
    """A softmax of whatever came out was learnt from, and nothing said so."""
    recipe = dataclasses.replace(RECIPE, steps=1, batch=4, distill=share)
    numbers, whole = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    for loss, outputs, targets, said in (
        (functional.mse_loss, 3, torch.randn(8, 3), "tasks with a cross-entropy as loss; distill = 0 is right"),
        (functional.cross_entropy, 1, whole, r"outputs \(n, classes\), and these are of shape \(4, 1\); distill = 0"),
    ):
        data = list(zip(numbers, targets, strict=True))
        task = Task(nn.Linear(4, outputs), numbers[:1], data, data, data, loss=loss)
        with pytest.raises(ConfigError, match=f"distill={share} is for {said}"):
            train(task.model, task.train, task.loss, recipe, seed=0, teacher=nn.Linear(4, outputs))
