"""Reconstruction in closed form against least squares by other means."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Macs
from autoprune.criteria import group_norm, l2
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators import reconstruct
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.recovery import columns as inputs_of, least_squares
from autoprune.evaluators.recovery.columns import Moments, Reader, columns
from autoprune.evaluators.recovery.least_squares import Leading, solve
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.tasks.fashion_mnist import fashion_mnist
from autoprune.testing.evaluators import EvaluatorContract, MakeEvaluator, toy_images, toy_setting
from autoprune.values.space import Policy, SearchSpace
from tests.making import metric

FEW = {"images": 256, "recalibrate": 256, "holdout": 100}
ALL = 10**6


class TestWithoutRecalibration(EvaluatorContract):
    @pytest.fixture
    def make(self) -> MakeEvaluator:
        return functools.partial(Reconstruct, **{**FEW, "recalibrate": 0})


class TestKernelPositionsTogether(EvaluatorContract):
    @pytest.fixture
    def make(self) -> MakeEvaluator:
        return functools.partial(Reconstruct, **FEW, columns=20)


LAYERS = {
    "strided": (nn.Conv2d(5, 4, 3, stride=2, padding=1), (6, 5, 9, 8)),
    "dilated, uneven": (nn.Conv2d(5, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (6, 5, 9, 8)),
    "same": (nn.Conv2d(5, 4, (3, 4), padding="same", dilation=2), (6, 5, 7, 9)),
    "valid": (nn.Conv2d(5, 4, 1, padding="valid", bias=False), (6, 5, 7, 9)),
    "circular": (nn.Conv2d(5, 4, 3, padding=(1, 2), padding_mode="circular"), (6, 5, 7, 9)),
    "one dimension": (nn.Conv1d(5, 4, 3, padding=1), (6, 5, 9)),
    "three dimensions": (nn.Conv3d(5, 4, (1, 2, 3), padding=(0, 1, 1), stride=2), (6, 5, 4, 5, 6)),
    "linear": (nn.Linear(5, 4), (6, 5)),
    "linear over tokens": (nn.Linear(5, 4), (6, 3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_columns_times_weight_is_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    outputs = layer(inputs) if isinstance(layer, nn.Linear) else layer(inputs).flatten(2).transpose(1, 2)
    found = columns(layer, inputs, ALL, torch.Generator()) @ layer.weight.flatten(1).T
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(found + bias, outputs.reshape(-1, 4))


def test_sampled_columns_are_some_of_all() -> None:
    layer, shape = LAYERS["strided"]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    every = columns(layer, inputs, ALL, torch.Generator())
    some = columns(layer, inputs, 3, torch.Generator().manual_seed(1))
    assert some.shape == (6 * 3, 45)
    owners = torch.cdist(some, every, p=float("inf")).argmin(1)
    assert torch.equal(every[owners], some)
    assert torch.equal(owners // (len(every) // 6), torch.arange(6).repeat_interleave(3))  # each image's own


def measured(samples: Tensor, *, centred: bool, shared: bool = False) -> Moments:
    """The moments of `samples`, (n, channels, positions)."""
    found = Moments.empty(Reader(*samples.shape[1:], shared), samples.device)
    for part in samples.split(100):
        found.add(part)
    found.finish(centred)
    return found


def alike(count: int, channels: int, positions: int) -> Tensor:
    """Columns with a mean, which depend on one another."""
    generator = torch.Generator().manual_seed(0)
    size = channels * positions
    mixed = torch.randn(count, size, generator=generator) @ torch.randn(size, size, generator=generator) / size**0.5
    return (mixed + torch.rand(size, generator=generator)).view(count, channels, positions)


@pytest.mark.parametrize("bias", [False, True])
def test_solves_least_squares(bias: bool) -> None:
    samples, stay = alike(900, 6, 4), torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    weight = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    found, lost = solve(weight, stay, measured(samples, centred=bias), 1e-9)
    ones = torch.ones(900, 1, dtype=torch.double)
    inputs = torch.cat(
        [samples[:, stay].flatten(1).double(), ones] if bias else [samples[:, stay].flatten(1).double()], 1
    )
    expected = torch.linalg.lstsq(inputs, samples.flatten(1).double() @ weight.flatten(1).double().T).solution.T
    torch.testing.assert_close(found.flatten(1), expected[:, :16], rtol=1e-3, atol=1e-4)
    if bias:
        torch.testing.assert_close(lost, expected[:, 16], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_positions_together_solve_for_the_channels(bias: bool) -> None:
    """Every removed channel becomes the combination of kept ones that is best over all positions."""
    samples, stay = alike(900, 5, 4), torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).double()
    found, lost = solve(weight, stay, measured(samples, centred=bias, shared=True), 1e-9)
    centre = samples.double() - samples.double().mean(0) * bias
    rows = centre.transpose(1, 2).flatten(0, 1)  # (n * positions, channels)
    combination = torch.linalg.lstsq(rows[:, stay], rows[:, ~stay]).solution  # (kept, removed)
    expected = weight[:, stay] + torch.einsum("kr,orp->okp", combination, weight[:, ~stay])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    if bias:  # on average nothing is lost
        outputs = found.flatten(1) @ samples[:, stay].flatten(1).double().T + lost[:, None]
        dense = weight.flatten(1) @ samples.flatten(1).double().T
        torch.testing.assert_close(outputs.mean(1), dense.mean(1))


def test_too_few_samples_are_shared_among_the_positions() -> None:
    samples = alike(900, 5, 4)
    assert not measured(samples[:40], centred=True).shared
    few, same = measured(samples[:39], centred=True), measured(samples[:39], centred=True, shared=True)
    assert few.shared
    torch.testing.assert_close(few.gram, same.gram)
    torch.testing.assert_close(few.mean, same.mean)
    assert not measured(samples[:3, :, :1], centred=True).shared  # nothing to share


def test_a_strong_ridge_leaves_the_weights() -> None:
    samples, stay = alike(300, 4, 2), torch.tensor([1, 0, 1, 1], dtype=torch.bool)
    weight = torch.randn(3, 4, 2, dtype=torch.double)
    found, _ = solve(weight, stay, measured(samples, centred=False), 1e9)
    torch.testing.assert_close(found, weight[:, stay])


def test_inputs_that_cannot_be_solved_for_fail_the_trial() -> None:
    samples = alike(300, 4, 2)
    broken = measured(samples, centred=False)
    broken.gram -= 10 * torch.eye(8)
    with pytest.raises(TrialFailed, match="ridge"):
        solve(torch.randn(3, 4, 2), torch.tensor([1, 0, 1, 1], dtype=torch.bool), broken, 1e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_one_factorisation_solves_for_every_beginning(bias: bool, shared: bool) -> None:
    samples, order = alike(900, 6, 4), torch.tensor([4, 0, 2, 5, 1, 3])
    weight, seen = torch.randn(3, 6, 4).double(), measured(samples, centred=bias, shared=shared)
    leading, outputs = Leading.of(weight, order, seen, 1e-3), torch.tensor([1, 0, 1], dtype=torch.bool)
    assert leading.shared is shared
    for count in range(1, 7):
        stay = torch.zeros(6, dtype=torch.bool)
        stay[order[:count]] = True
        wanted, bias_wanted = solve(weight, stay, seen, 1e-3)
        found, bias_found = leading.solve(stay, outputs)
        torch.testing.assert_close(found, wanted[outputs], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bias_found, bias_wanted[outputs], rtol=1e-5, atol=1e-6)


class Mixed(nn.Module):
    """A concatenation of two groups and the image, a stride, biases, a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.c = nn.Conv2d(11, 5, 3, stride=2, padding=1)
        self.d, self.e = nn.Linear(5 * 16, 7), nn.Linear(7, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = functional.relu(torch.cat([self.a(x), x, self.b(x)], 1))
        logits: Tensor = self.e(functional.relu(self.d(functional.relu(self.c(both)).flatten(1))))
        return logits


def mixed(**settings: float) -> tuple[Task, Reconstruct]:
    torch.manual_seed(0)
    model, split = Mixed().eval(), toy_images(512, 1)
    task = Task(model, next(split.batches(2))[0], split, split, split)
    traced = trace(model, task.example)
    space = SearchSpace("mixed", traced.choices, traced.ops, traced.parameters)
    return task, Reconstruct(
        Bench(task, traced, space, l2),
        images=512, positions=ALL, batch=128, recalibrate=128, panel=1, **settings,
    )  # fmt: skip


def test_no_other_weight_is_nearer_to_the_dense_outputs() -> None:
    """The squared error has no slope left, in any layer, though two groups are pruned by different amounts."""
    task, made = mixed(ridge=1e-7)
    policy = Policy.of([3, 3, 3, 5])
    candidate = made.realise(policy)
    model, masks = candidate.model, candidate.stay
    x = next(task.train.batches(512))[0]
    for name in "cde":
        dense, layer = task.model.get_submodule(name), model.get_submodule(name)
        stay = torch.from_numpy(masks[f"{name}.weight"][1])
        rows = torch.from_numpy(masks[f"{name}.weight"].get(0, np.ones(4, dtype=np.bool_)))
        inputs = seen(task.model, dense, x)
        error = functools.partial(squared_error, layer, inputs[:, stay], dense(inputs)[:, rows])
        cut = {key: p[rows] for key, p in dense.named_parameters()}
        cut["weight"] = cut["weight"][:, stay]
        assert slope(error, dict(layer.named_parameters())) < 2e-3 * slope(error, cut), name


def seen(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """The input of `layer` in `model`."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]


def squared_error(layer: nn.Module, inputs: Tensor, targets: Tensor, weights: dict[str, Tensor]) -> Tensor:
    outputs: Tensor = torch.func.functional_call(layer, weights, (inputs,))
    return (outputs - targets.detach()).square().mean()


def slope(error: Callable[[dict[str, Tensor]], Tensor], weights: dict[str, Tensor]) -> float:
    weights = {key: value.detach().requires_grad_() for key, value in weights.items()}
    return max(float(g.norm()) for g in torch.autograd.grad(error(weights), list(weights.values())))


def test_a_layer_whose_inputs_all_stay_is_left_alone() -> None:
    task, made = mixed()
    candidate = made.realise(Policy.of([6, 4, 2, 7]))
    model = candidate.model
    assert torch.equal(model.a.weight, task.model.a.weight)
    assert torch.equal(model.c.weight, task.model.c.weight[candidate.stay["c.weight"][0]])
    assert not torch.equal(model.d.weight, task.model.d.weight[:, : 2 * 16])


def test_what_is_too_large_is_solved_for_roughly_or_left_and_named() -> None:
    _, exact = mixed()
    assert exact.notes == ()
    _, rough = mixed(columns=12)  # c has 99 columns, d 80, e 7
    assert rough.notes == (
        "Reconstruction solved for the kernel positions of c, d together: "
        "more than 12 columns, or fewer than 2 samples a column.",
    )
    _, least = mixed(columns=6)
    assert len(least.notes) == 3
    assert least.notes[0] == "Reconstruction left the weights of c as they are: it reads 11 channels."
    shared = {layer: known.shared for made in (rough, least) for layer, known in made._known.items()}
    assert shared == {"c": True, "d": True, "e": False}
    for made in (rough, least):
        metric(made, Policy.of([3, 3, 3, 5]))


class Odd(nn.Module):
    """Layers that cannot be solved for: transposed, tied, never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(1, 6, 3, padding=1), nn.ConvTranspose2d(6, 6, 2, 2)
        self.one, self.uncalled = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.up(self.first(x)).relu()).relu()
        return functional.conv2d(x, self.uncalled.weight, self.uncalled.bias).mean((2, 3))


def test_what_is_no_plain_layer_keeps_its_weights_and_is_named() -> None:
    torch.manual_seed(0)
    model, split = Odd().eval(), toy_images(256, 1)
    task = Task(model, next(split.batches(2))[0], split, split, split)
    traced = trace(model, task.example)
    space = SearchSpace("odd", traced.choices, traced.ops, traced.parameters)
    made = Reconstruct(Bench(task, traced, space, l2), images=128)
    metric(made, space.snap([0.5] * len(space)))
    assert made.notes == (
        "Reconstruction left the weights of up as they are: it is no plain convolution or linear layer.",
        "Reconstruction left the weights of uncalled as they are: it is never called as a layer.",
    )


def test_tied_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    found = trace(model, torch.randn(2, 4))
    names, _ = inputs_of.readers(model, found.edits, 100)
    model.add_module("twin", nn.Linear(4, 3))
    model.twin.weight = model[4].weight
    tied, left = inputs_of.readers(model, found.edits, 100)
    assert set(names) - set(tied) == set(left) == {"4"}


def test_a_group_that_may_not_be_pruned_costs_nothing() -> None:
    task, traced, space = toy_setting()
    choices = [c if c.name == "conv2" else dataclasses.replace(c, levels=(c.dense,)) for c in space]
    made = Reconstruct(Bench(task, traced, SearchSpace("toy", tuple(choices)), l2), **FEW)
    assert set(made._known) == {"conv3"}


def test_remembering_changes_speed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = mixed()
    policy, other = Policy.of([3, 3, 3, 5]), Policy.of([4, 2, 3, 5])
    first = made.realise(policy).model.state_dict()
    made.realise(other)
    assert made._remembered._size > 0
    assert all(torch.equal(a, b) for a, b in zip(first.values(), made.realise(policy).model.state_dict().values()))
    monkeypatch.setattr(reconstruct, "HELD", 2000)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), made.realise(policy).model.state_dict().values()))
    made.realise(other)
    assert made._remembered._size <= 2000


def test_only_what_reads_several_groups_is_solved_for_anew_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(least_squares, "solve", lambda *given: calls.append(1) or solve(*given))
    _, made = mixed()
    assert [layer for layer, known in made._known.items() if isinstance(known, Moments)] == ["c"]
    for _ in range(2):
        made.realise(Policy.of([3, 3, 3, 5]))
    assert len(calls) == 1


def test_solving_at_once_and_anew_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task, traced, space = toy_setting()
    policy = space.snap([0.5] * len(space))
    fast = Reconstruct(Bench(task, traced, space, l2), **FEW)
    assert all(isinstance(known, Leading) for known in fast._known.values())
    anew = Reconstruct(Bench(task, traced, space, l2), **FEW)
    monkeypatch.setattr(anew, "_order", lambda layer: None)
    found, wanted = (dict(made.realise(policy).model.named_parameters()) for made in (fast, anew))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_columns_that_cannot_be_factorised_fail_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **settings: object) -> dict[str, Moments]:
        found = collect(*given, **settings)  # type: ignore[arg-type]
        for seen in found.values():
            seen.gram -= 1e3 * torch.eye(len(seen.gram))
        return found

    collect = inputs_of.collect
    monkeypatch.setattr(inputs_of, "collect", broken)
    task, traced, space = toy_setting()
    with pytest.raises(TrialFailed, match="is too small"):
        Reconstruct(Bench(task, traced, space, l2), **FEW).realise(space.snap([0.5] * len(space)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"images": 64}, "images=64"), ({"batch": 1}, "batch=1"), ({"recalibrate": 1}, "recalibrate=1"),
     ({"ridge": 0.0}, "ridge=0"), ({"positions": 0}, "positions=0"), ({"columns": 0}, "columns=0"),
     ({"holdout": -1}, "holdout=-1")],
)  # fmt: skip
def test_wrong_settings_name_themselves(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("=", " ?= ?")):
        Reconstruct(Bench(*toy_setting(), l2), **settings)


def test_beats_statistics_alone_on_a_trained_resnet() -> None:
    """Half of the MACs gone, the same share in every group, and no training."""
    task = fashion_mnist()
    traced = trace(task.model, task.example)
    space = SearchSpace("resnet20", traced.choices, traced.ops, traced.parameters)
    cost = Macs(space)
    policies = (space.snap([percent / 100] * len(space)) for percent in range(100))
    policy = next(p for p in policies if cost.predict(p) <= 0.5 * cost.predict(space.dense()))
    bench = Bench(task, traced, space, group_norm, shortcuts=False)
    plain = Recalibrate(bench, images=128, holdout=500, batch=128)
    solved = Reconstruct(bench, images=128, recalibrate=128, holdout=500, batch=128)
    found = [metric(made, policy) for made in (plain, solved)]
    assert found[1] > found[0] + 0.02
