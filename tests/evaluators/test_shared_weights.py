"""Weights that all widths share: what is generated and cut, how it is trained, and that a stop loses nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from autoprune import plugins
from autoprune.command.describe import describe
from autoprune.criteria import fpgm, l1, l2
from autoprune.errors import ConfigError, ModelError, PolicyError, TrainingFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.pruningnet import Generator, PruningNet, widths_about
from autoprune.evaluators.shared import resumable_training as course
from autoprune.evaluators.shared.shared_weights import OneShot, blended
from autoprune.evaluators.supernet import Supernet
from autoprune.protocols import silent
from autoprune.structure.trace import Trace, trace
from autoprune.task import Batch, Task
from autoprune.testing.evaluators import toy_setting
from autoprune.train import Recipe, train
from autoprune.values.space import Policy, SearchSpace, levels_of
from tests.making import metric

Setting = tuple[Task, Trace, SearchSpace]
NAMES = ["pruningnet", "supernet"]
STEPS = 8  # of the toy's 512 training images, 64 at a time


@pytest.fixture(scope="module")
def setting() -> Setting:
    return toy_setting()


def made(name: str, setting: Setting, **settings: Any) -> Any:
    return plugins.build("evaluator", {"use": name, "epochs": 1.0, "batch": 64, **settings}, bench=Bench(*setting, l2))


def stopping(after: int) -> Any:
    def watch(what: str, done: int, of: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    return watch


def state(evaluator: OneShot) -> dict[str, Tensor]:
    return evaluator.course.module.state_dict()


def same(one: OneShot, other: OneShot) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one).values(), state(other).values(), strict=True))


# what is shared


def test_a_kernel_depends_on_its_own_widths_and_its_neighbours(setting: Setting) -> None:
    task, traced, space = setting
    names = [choice.name for choice in space]
    seen = widths_about(task.model, traced, space)
    assert set(seen) == {"conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"}
    outer, inner = names.index("conv1"), names.index("conv2")
    assert set(seen["conv2.weight"]) == {outer, inner}
    assert set(seen["fc.weight"]) == {outer, inner}  # that of conv3, the layer before it, too


def test_a_group_that_may_not_be_pruned_says_nothing(setting: Setting) -> None:
    task, traced, space = setting
    whole = dataclasses.replace(space.choices[0], levels=(space.choices[0].dense,))
    limited = SearchSpace("limited", (whole, *space.choices[1:]), space.ops, space.parameters)
    assert all(0 not in groups for groups in widths_about(task.model, traced, limited).values())


def test_kernels_begin_as_the_networks_and_then_differ_with_the_widths(
    setting: Setting,
) -> None:
    evaluator = made("pruningnet", setting)
    weights = evaluator.subnets.weights
    assert isinstance(weights, Generator)
    wide, thin = (torch.full((len(setting[2]),), share) for share in (1.0, 0.25))
    dense = dict(setting[0].model.named_parameters())
    assert all(torch.equal(t, dense[name]) for name, t in weights.full(thin).items())
    evaluator.prepare(None, silent)
    assert not torch.equal(weights.full(wide)["conv2.weight"], weights.full(thin)["conv2.weight"])
    assert torch.equal(weights.full(wide)["bn1.weight"], weights.full(thin)["bn1.weight"])


def test_from_scratch_nothing_of_the_dense_network_is_left(setting: Setting) -> None:
    for name in NAMES:
        evaluator = made(name, setting, start="scratch")
        own = dict(evaluator.subnets.weights.net.named_parameters())
        dense = dict(setting[0].model.named_parameters())
        assert not any(torch.equal(own[k], dense[k]) for k in dense if k.startswith("conv"))
        assert [list(units) for units in evaluator.subnets.weights.ranked] == [list(range(g.dense)) for g in setting[2]]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_what_is_scored(name: str, setting: Setting) -> None:
    evaluator = made(name, setting)
    evaluator.prepare(None, silent)
    space = setting[2]
    policy = space.snap([0.5] * len(space))
    inputs = next(setting[0].holdout.batches(32))[0]
    model = evaluator.subnets.network(policy).model
    trained = evaluator.subnets.outputs(policy.levels, inputs)
    assert torch.allclose(model.train()(inputs), trained, atol=1e-5)
    assert trained.requires_grad


def test_a_narrow_network_is_part_of_a_wider_one(setting: Setting) -> None:
    space, subnets = setting[2], made("supernet", setting).subnets
    wide, thin = (subnets.stay(space.snap([s] * len(space)).levels) for s in (0.25, 0.5))
    for name, dims in wide.items():
        for dim, stays in dims.items():
            assert bool((stays | ~thin[name][dim]).all())


def test_only_the_part_that_is_cut_learns(setting: Setting) -> None:
    space, subnets = setting[2], made("supernet", setting).subnets
    kept = space.thinnest().levels
    subnets.outputs(kept, next(setting[0].train.batches(16))[0]).square().mean().backward()
    weight = subnets.weights.net.get_parameter("conv2.weight")
    rows = torch.from_numpy(subnets.stay(kept)["conv2.weight"][0])
    assert weight.grad is not None
    assert not weight.grad[~rows].any()
    assert weight.grad[rows].any()


def test_widths_are_drawn_within_the_space_and_cover_it(setting: Setting) -> None:
    evaluator, space = made("pruningnet", setting), setting[2]
    drawn = [evaluator.subnets.random(evaluator.course.stream(step)) for step in range(300)]
    assert all(space.contains(Policy.of(kept)) for kept in drawn)
    for place, choice in enumerate(space):
        assert {kept[place] for kept in drawn} == set(choice.levels)
    assert drawn[0] != drawn[1]


# training


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [1, 4, 5, STEPS - 1])
def test_a_training_that_was_stopped_ends_as_one_that_never_was(
    name: str, stop: int, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "KEPT", 2)
    whole, stopped, again = (made(name, setting) for _ in range(3))
    whole.prepare(None, silent)
    with pytest.raises(KeyboardInterrupt):
        stopped.prepare(tmp_path, stopping(stop))
    heard = list[int]()
    again.prepare(tmp_path, lambda what, done, of: heard.append(done))
    assert heard == list(range(stop, STEPS + 1))  # no step is made twice
    assert same(whole, again)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]
    policy = setting[2].thinnest()
    assert metric(whole, policy) == metric(again, policy)


def test_training_takes_no_holdout_image(setting: Setting) -> None:
    task, traced, space = setting

    class Refusing:
        def __len__(self) -> int:
            return 10

        def batches(self, size: int) -> Iterator[Batch]:
            raise AssertionError("the holdout was read")

        def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
            raise AssertionError("the holdout was trained on")

        def head(self, count: int) -> Refusing:
            return self

    guarded = dataclasses.replace(task, holdout=Refusing(), test=Refusing())
    for name in NAMES:
        made(name, (guarded, traced, space)).prepare(None, silent)


def test_the_sandwich_trains_the_widest_the_thinnest_and_random_ones(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, space = made("supernet", setting, drawn=3), setting[2]
    seen = list[tuple[int, ...]]()
    outputs = evaluator._outputs

    def noting(kept: Sequence[int], inputs: Tensor) -> Tensor:
        seen.append(tuple(kept))
        found: Tensor = outputs(kept, inputs)
        return found

    monkeypatch.setattr(evaluator, "_outputs", noting)
    inputs, targets = next(setting[0].train.batches(16))
    evaluator.lesson(0, inputs, targets)
    assert seen[:2] == [space.dense().levels, space.thinnest().levels]
    assert len(seen) == 5


def test_distillation_weighs_labels_against_what_is_taught() -> None:
    outputs, taught, targets = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = nn.functional.cross_entropy
    assert torch.equal(blended(outputs, targets, None, loss, 0.5), loss(outputs, targets))
    alone = loss(outputs, taught.softmax(1))
    assert torch.allclose(blended(outputs, targets, taught, loss, 1.0), alone)
    assert torch.allclose(blended(outputs, targets, taught, loss, 0.25), 0.25 * alone + 0.75 * loss(outputs, targets))


@pytest.mark.parametrize("name", NAMES)
def test_training_from_scratch_learns_the_task(name: str, setting: Setting) -> None:
    policies = [setting[2].snap([share] * len(setting[2])) for share in (0.0, 0.25, 0.5)]
    evaluator = made(name, setting, start="scratch", lr=0.1, epochs=10.0)
    reached = [metric(evaluator, policy) for policy in policies]
    assert min(reached) > 0.4  # of four classes


def test_a_pruningnet_can_learn_from_the_dense_network(setting: Setting) -> None:
    labels, taught = (made("pruningnet", setting, distill=share) for share in (0.0, 1.0))
    inputs, targets = next(setting[0].train.batches(64))
    taught.lesson(0, inputs, (targets + 1) % 4)
    other = made("pruningnet", setting, distill=1.0)
    other.lesson(0, inputs, targets)
    labels.lesson(0, inputs, targets)
    grads = [e.subnets.weights.net.get_parameter("conv2.weight").grad for e in (taught, other, labels)]
    assert torch.equal(grads[0], grads[1])  # labels say nothing
    assert not torch.equal(grads[1], grads[2])


def test_the_supernets_narrow_networks_learn_from_the_widest_alone(setting: Setting) -> None:
    inputs, targets = next(setting[0].train.batches(64))
    found = []
    for labels in (targets, (targets + 1) % 4):
        evaluator = made("supernet", setting)
        evaluator.lesson(0, inputs, labels)
        found.append(evaluator.subnets.weights.net.get_parameter("conv2.weight").grad)
    widest = []
    for labels in (targets, (targets + 1) % 4):
        subnets = made("supernet", setting).subnets
        nn.functional.cross_entropy(subnets.outputs(setting[2].dense().levels, inputs), labels).backward()
        widest.append(subnets.weights.net.get_parameter("conv2.weight").grad)
    assert torch.allclose(found[0] - widest[0], found[1] - widest[1], atol=1e-6)  # only the widest saw the labels
    assert (found[0] - widest[0]).abs().max() > 1e-6


class Noisy(torch.utils.data.Dataset[Any]):
    """Samples that torch's own generator augments, as torchvision's transforms do."""

    def __init__(self, task: Task) -> None:
        self.inputs, self.targets = next(task.train.batches(64))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index] + torch.randn(1), self.targets[index]


def test_augmentation_of_a_users_data_set_is_seeded_and_resumed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "KEPT", 2)
    task, traced, space = setting
    noisy = dataclasses.replace(task, train=Noisy(task)), traced, space
    settings = {"batch": 16, "epochs": 2.0}
    torch.manual_seed(1)
    whole = made("supernet", noisy, **settings)
    whole.prepare(None, silent)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state())  # the caller's randomness is left alone
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        made("supernet", noisy, **settings).prepare(tmp_path, stopping(5))
    again = made("supernet", noisy, **settings)
    again.prepare(tmp_path, silent)
    assert same(whole, again)


@pytest.mark.parametrize("kept", [True, False])
def test_the_same_object_goes_on_after_a_stop(kept: bool, setting: Setting, tmp_path: Path) -> None:
    whole, stopped = made("pruningnet", setting), made("pruningnet", setting)
    whole.prepare(None, silent)
    with pytest.raises(KeyboardInterrupt):
        stopped.prepare(tmp_path if kept else None, stopping(3))
    stopped.prepare(tmp_path if kept else None, silent)
    assert same(whole, stopped)


def test_frozen_parameters_stay_and_stay_frozen(setting: Setting) -> None:
    task, traced, space = setting
    model = toy_setting()[0].model
    model.get_parameter("conv2.weight").requires_grad_(False)
    frozen = dataclasses.replace(task, model=model), traced, space
    evaluator = made("pruningnet", frozen)
    evaluator.prepare(None, silent)
    realised = evaluator.realise(space.dense()).model
    assert not realised.get_parameter("conv2.weight").requires_grad
    ranked = evaluator.subnets.weights.net.get_parameter("conv2.weight")
    assert torch.equal(ranked, model.get_parameter("conv2.weight"))
    model.requires_grad_(False)  # a network to be used, not trained
    whole = made("pruningnet", frozen)
    whole.prepare(None, silent)
    assert not any(p.requires_grad for p in whole.realise(space.dense()).model.parameters())
    assert not torch.equal(whole.subnets.weights.net.get_parameter("conv2.weight"), model.get_parameter("conv2.weight"))


class Tied(nn.Module):
    """Two layers with one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.third = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.third.weight = self.second.weight
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        logits: Tensor = self.fc(self.third(self.second(x).relu()).relu().mean((2, 3)))
        return logits


def test_a_network_with_tied_weights_is_trained_and_read_again(setting: Setting, tmp_path: Path) -> None:
    task = dataclasses.replace(setting[0], model=Tied())
    traced = trace(task.model, task.example)
    tied = task, traced, SearchSpace("tied", traced.choices, traced.ops, traced.parameters)
    for name in NAMES:
        first, second = made(name, tied), made(name, tied)
        first.prepare(tmp_path, silent)
        second.prepare(tmp_path, silent)
        assert same(first, second)
        assert np.isfinite(metric(second, tied[2].thinnest()))


# what goes wrong


def test_the_order_of_units_belongs_to_the_weights(setting: Setting, tmp_path: Path) -> None:
    task, traced, space = setting
    first = PruningNet(Bench(task, traced, space, l1), epochs=1.0, batch=64)
    first.prepare(tmp_path, silent)
    second = PruningNet(Bench(task, traced, space, fpgm, seed=3), weights=str(tmp_path))
    policy = space.snap([0.5] * len(space))
    one, other = (made.realise(policy).model for made in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_weights_of_fewer_widths_are_refused(setting: Setting, tmp_path: Path) -> None:
    task, traced, space = setting
    narrow = tuple(dataclasses.replace(c, levels=levels_of(c.dense, c.dense // 2)) for c in space)
    made("supernet", (task, traced, SearchSpace("narrow", narrow))).prepare(tmp_path, silent)
    with pytest.raises(ModelError, match=r"was never trained with 1 of 8 units, which \[space\] allows"):
        made("supernet", setting, weights=str(tmp_path)).rehearse(space.thinnest())
    coarse = tuple(dataclasses.replace(c, levels=levels_of(c.dense, step=2)) for c in space)
    (tmp_path / "supernet.safetensors").unlink()
    made("supernet", (task, traced, SearchSpace("coarse", coarse))).prepare(tmp_path, silent)
    with pytest.raises(ModelError, match="was never trained with 1 of 8 units"):
        made("supernet", setting, weights=str(tmp_path)).rehearse(space.thinnest())


@pytest.mark.parametrize("name", NAMES)
def test_distillation_is_refused_where_outputs_are_no_classes(name: str, setting: Setting) -> None:
    task, traced, space = setting
    other = dataclasses.replace(task, loss=nn.functional.mse_loss), traced, space
    with pytest.raises(ConfigError, match="distill = 0 is right for this"):
        made(name, other, distill=1.0)
    with pytest.raises(ConfigError, match=r"shape \(4, 1\)"):
        blended(torch.zeros(4, 1), torch.zeros(4), torch.zeros(4, 1), task.loss, 1.0)


def test_a_split_that_gives_no_batch_is_refused() -> None:
    class Empty:
        def __len__(self) -> int:
            return 3

        def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
            return iter(())

    it = course.Course(nn.Linear(1, 1), Recipe(steps=1, batch=8), 0, {}, {})
    split: Any = Empty()
    with pytest.raises(ConfigError, match="3 images give no batch of 8; a smaller batch is right"):
        it.run(split, lambda step, inputs, targets: inputs, None, lambda done, of: None)
    with pytest.raises(ConfigError, match="3 images give no batch of 8"):
        train(nn.Linear(1, 1), split, nn.functional.mse_loss, Recipe(steps=1, batch=8), seed=0)


@pytest.mark.parametrize("change", [{"schema": "99"}, {"course": "{}"}, {"course": "[]"}, {"course": "no JSON"}])
def test_a_file_that_says_something_else_is_refused(change: dict[str, str], setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "supernet.safetensors"
    made("supernet", setting).prepare(tmp_path, silent)
    with safetensors.safe_open(file, "pt") as opened:
        words = opened.metadata()
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, {**words, **change})
    with pytest.raises(ModelError, match="is no file that training wrote"):
        made("supernet", setting).prepare(tmp_path, silent)


def test_a_file_of_another_recipe_is_not_gone_on_with(setting: Setting, tmp_path: Path) -> None:
    made("supernet", setting).prepare(tmp_path, silent)
    for word, settings in (("recipe", {"lr": 0.001}), ("recipe", {"epochs": 2.0}), ("settings", {"distill": 0.5})):
        with pytest.raises(ModelError, match=f"another {word}"):
            made("supernet", setting, **settings).prepare(tmp_path, silent)
        with pytest.raises(ModelError, match=f"another {word}"):
            made("supernet", setting, **settings).take_up(tmp_path)
    task, traced, space = setting
    other = Supernet(Bench(task, traced, space, l1), epochs=1.0, batch=64)
    with pytest.raises(ModelError, match="another criterion"):
        other.prepare(tmp_path, silent)


def test_a_flipped_bit_is_noticed(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "supernet.safetensors"
    made("supernet", setting).prepare(tmp_path, silent)
    whole = bytearray(file.read_bytes())
    whole[-9] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ModelError, match="its tensors are not those that were written"):
        made("supernet", setting).prepare(tmp_path, silent)


def test_weights_that_are_not_finite_are_not_kept(setting: Setting, tmp_path: Path) -> None:
    evaluator = made("supernet", setting, epochs=0.1, warmup=0.0)
    evaluator.lr = evaluator.clip = 1e38  # more than may be asked for
    with pytest.raises(TrainingFailed, match="the training weights is"):
        evaluator.prepare(tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["step", "seconds", "recipe", "details", "about", "place"])
def test_facts_of_another_type_are_refused(word: str, setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "supernet.safetensors"
    made("supernet", setting).prepare(tmp_path, silent)
    with safetensors.safe_open(file, "pt") as opened:
        words = opened.metadata()
    facts = json.dumps({**json.loads(words["course"]), word: "8"})
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, {**words, "course": facts})
    with pytest.raises(ModelError, match="is no file that training wrote"):
        made("supernet", setting).prepare(tmp_path, silent)


def test_every_setting_of_every_plugin_has_a_type() -> None:
    for kind in plugins.OURS:
        for name in plugins.OURS[kind]:
            assert all(setting.type != "any" for setting in describe(kind, name).settings), name


@pytest.mark.parametrize(
    "settings",
    [{"epochs": "ten"}, {"batch": 2.5}, {"lr": math.inf}, {"hidden": 1.5}, {"weights": 3}, {"distill": True}],
)
def test_settings_of_another_type_are_refused(settings: dict[str, Any], setting: Setting) -> None:
    with pytest.raises(ConfigError, match=f"'{next(iter(settings))}' is"):
        made("pruningnet", setting, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_stops_with_what_would_be_right(name: str, setting: Setting, tmp_path: Path) -> None:
    evaluator = made(name, setting)
    evaluator.lr = evaluator.clip = 1e30  # more than may be asked for
    with pytest.raises(TrainingFailed, match=r"at step \d of 8; begin a new run with another recipe, .* below 1e\+30"):
        evaluator.prepare(tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_width_vector_that_the_network_cannot_take_is_refused(setting: Setting) -> None:
    space = setting[2]
    evaluator = made("pruningnet", setting)
    with pytest.raises(PolicyError, match=r"numbers were given"):
        evaluator.realise(Policy((5,)))
    dense = space.dense().levels
    for level in (0, -2, dense[0] + 1):
        with pytest.raises(PolicyError, match=rf"'{space.choices[0].name}' with {level} of {dense[0]} units"):
            evaluator.realise(Policy((level, *dense[1:])))
    assert evaluator.course.step == 0  # nothing was trained for that


def test_a_file_of_something_else_is_refused(setting: Setting, tmp_path: Path) -> None:
    made("pruningnet", setting).prepare(tmp_path, silent)
    with pytest.raises(ModelError, match="another start"):
        made("pruningnet", setting, start="scratch").prepare(tmp_path, silent)
    with pytest.raises(ModelError, match="another hidden"):
        made("pruningnet", setting, hidden=7).prepare(tmp_path, silent)
    task, traced, space = setting
    model = toy_setting()[0].model
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(ModelError, match="another dense network"):
        made("pruningnet", (dataclasses.replace(task, model=model), traced, space)).prepare(tmp_path, silent)


def test_a_damaged_file_is_refused(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "supernet.safetensors"
    made("supernet", setting).prepare(tmp_path, silent)
    whole = file.read_bytes()
    for wrong in (whole[: len(whole) // 2], b"", b"\x80\x04 no tensors"):
        file.write_bytes(wrong)
        with pytest.raises(ModelError, match="is no file that training wrote"):
            made("supernet", setting).prepare(tmp_path, silent)


def test_weights_of_another_run_are_used_and_kept(setting: Setting, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    first = made("pruningnet", setting)
    first.prepare(theirs, silent)
    for source in (theirs, theirs / "pruningnet.safetensors"):
        second = made("pruningnet", setting, weights=str(source), epochs=3.0)
        second.prepare(ours, silent)
        assert same(first, second)
        assert second.course.step == second.course.recipe.steps == STEPS
    third = made("pruningnet", setting, weights=str(tmp_path / "gone"))
    third.prepare(ours, silent)  # what lies in the run's own directory comes first
    assert same(first, third)


def test_weights_that_are_missing_or_half_trained_are_refused(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="cannot be read \\(No such file"):
        made("supernet", setting, weights=str(tmp_path / "gone")).prepare(None, silent)
    monkeypatch.setattr(course, "KEPT", 2)
    with pytest.raises(KeyboardInterrupt):
        made("supernet", setting).prepare(tmp_path, stopping(4))
    with pytest.raises(ModelError, match="not trained to the end, only for 4 of 8 steps"):
        made("supernet", setting, weights=str(tmp_path)).prepare(None, silent)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("pruningnet", {"start": "warm"}, "start = 'warm'; 'dense' or 'scratch' is right"),
        ("pruningnet", {"hidden": 0}, "setting 'hidden' is 0: a"),
        ("pruningnet", {"distill": 2.0}, "setting 'distill' is 2.0: a"),
        ("pruningnet", {"epochs": 0.0}, "setting 'epochs' is 0.0: a"),
        ("pruningnet", {"lr": -1.0}, "setting 'lr' is -1.0: a"),
        ("pruningnet", {"images": 1}, "setting 'images' is 1: a"),
        ("supernet", {"drawn": -1}, "setting 'drawn' is -1: a"),
        ("supernet", {"warmup": 1.0}, "setting 'warmup' is 1.0: a"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    name: str, settings: dict[str, Any], said: str, setting: Setting
) -> None:
    with pytest.raises(ConfigError, match=said):
        made(name, setting, **settings)


def test_the_file_says_what_it_is_of(setting: Setting, tmp_path: Path) -> None:
    made("supernet", setting).prepare(tmp_path, silent)
    with safetensors.safe_open(tmp_path / "supernet.safetensors", "pt") as opened:
        facts = json.loads(opened.metadata()["course"])
        assert not any(name.startswith("momentum/") for name in opened.keys())  # noqa: SIM118 - no mapping
    assert facts["step"] == STEPS
    assert facts["about"]["groups"] == [[g.name, g.dense] for g in setting[2]]
    assert facts["details"]["widths of [space]"] == [list(g.levels) for g in setting[2]]


def test_both_say_in_the_report_what_was_trained(setting: Setting) -> None:
    for name, kind in zip(NAMES, (PruningNet, Supernet), strict=True):
        evaluator = made(name, setting)
        assert isinstance(evaluator, kind)
        evaluator.prepare(None, silent)
        assert f"weights of a {name} of" in evaluator.notes[0]
        assert "trained from dense for 8 steps of 64 images" in evaluator.notes[0]


def test_a_careful_score_is_of_the_same_weights(setting: Setting) -> None:
    evaluator = made("pruningnet", setting)
    policy = setting[2].snap([0.25] * len(setting[2]))
    fast = metric(evaluator, policy)
    careful = evaluator.careful()
    assert abs(metric(careful, policy) - fast) < 0.05


class Named(nn.Module):
    """Takes its image by name, and gives a mapping."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(image)}


@pytest.mark.parametrize("distill", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_mappings_are_trained_as_those_of_tensors(name: str, distill: float, setting: Setting) -> None:
    task, _, space = setting
    model, example = Named(task.model), {"image": task.example}
    traced = trace(model, example)
    named = SearchSpace("named", traced.choices, traced.ops, traced.parameters)
    widths = [choice.levels[0] for choice in space]
    images, labels = next(iter(task.train.batches(64)))
    plain, other = (
        made(name, given, distill=distill)
        for given in (setting, (dataclasses.replace(task, model=model, example=example), traced, named))
    )
    assert widths == [choice.levels[0] for choice in named]
    assert torch.allclose(plain.lesson(0, images, labels), other.lesson(0, {"image": images}, labels), atol=1e-5)
