"""Evaluators against their contract, the statistics they estimate, and how few images are made up for."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune import config, rewards
from autoprune.criteria import l2
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.finetune import Finetune
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.recovery import replay
from autoprune.evaluators.recovery.batchnorm import recalibrate
from autoprune.evaluators.recovery.replay import Replay, Replayed
from autoprune.evaluators.sequential import ReconstructSequential
from autoprune.protocols import Evaluator, Units
from autoprune.runs import study
from autoprune.runs.loop import attempting
from autoprune.task import Batch, DatasetSplit, Task
from autoprune.testing.evaluators import EvaluatorContract, MakeEvaluator, state_of, toy_images, toy_setting
from autoprune.values.space import Policy
from tests.making import metric

FEW = {"images": 256, "holdout": 100}


class TestFinetuneWithTeacher(EvaluatorContract):
    @pytest.fixture
    def make(self) -> MakeEvaluator:
        return functools.partial(Finetune, **FEW, steps=3, distill=0.5)


class TestOnAnyDataset(EvaluatorContract):
    """Splits that are map-style data sets, which torch's loader reads."""

    @pytest.fixture
    def make(self) -> MakeEvaluator:
        return functools.partial(Recalibrate, **FEW)

    @pytest.fixture
    def setting(self) -> tuple[Task, object, object]:  # type: ignore[override]
        task, traced, space = toy_setting()
        splits = {}
        for name in ("train", "holdout", "test"):
            ((images, labels),) = getattr(task, name).batches(1000)
            splits[name] = DatasetSplit(torch.utils.data.TensorDataset(images, labels))
        return Task(task.model, task.example, **splits), traced, space


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9))
    batches = list(toy_images(96, 0).batches(32))
    recalibrate(model, batches)
    features = torch.stack([model[0](images) for images, _ in batches])  # (batch, n, channel, height, width)
    torch.testing.assert_close(model[1].running_mean, features.mean((0, 1, 3, 4)))
    torch.testing.assert_close(model[1].running_var, features.transpose(1, 2).flatten(2).var(2).mean(0))
    assert (model[1].momentum, model[1].num_batches_tracked) == (0.3, 3)
    assert not any(m.training for m in model.modules())


def test_recalibration_trains_nothing_and_repeats() -> None:
    model = copy.deepcopy(toy_setting()[0].model)
    weights = copy.deepcopy(list(model.parameters()))
    batches = list(toy_images(64, 0).batches(32))
    recalibrate(model, batches)
    once = state_of(model)
    recalibrate(model, batches)
    assert state_of(model) == once
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))


def test_without_batchnorm_nothing_is_run() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))

    def never() -> Iterator[Batch]:
        raise AssertionError
        yield

    recalibrate(model, never())
    assert not model.training


def test_recovery_helps() -> None:
    """Statistics that are plainly wrong are found and put right; training improves a heavily pruned network."""
    task, traced, space = toy_setting()
    evaluator = Recalibrate(Bench(task, traced, space, l2))
    candidate = evaluator.realise(space.dense())
    with torch.no_grad():
        candidate.model.bn2.running_mean += 3  # type: ignore[operator,assignment]
    assert task.metric(candidate.model, task.holdout) < 0.6 < evaluator.score(evaluator.recover(candidate)).metric
    hard = space.snap([0.75] * len(space))
    trained = Finetune(Bench(task, traced, space, l2), steps=40, lr=0.1)
    assert metric(trained, hard) > metric(evaluator, hard)


def test_the_seed_matters_where_chance_decides() -> None:
    task, traced, space = toy_setting()
    policy = space.snap([0.5] * len(space))

    def weights(seed: int) -> list[Tensor]:
        return list(Recalibrate(Bench(task, traced, space, _by_chance, seed=seed)).realise(policy).model.parameters())

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


def _by_chance(units: Units) -> Tensor:
    return torch.rand(len(units), generator=units.generator)


_by_chance.needs = frozenset({"generator"})  # type: ignore[attr-defined]


def test_scores_are_computed_once() -> None:
    calls: list[int] = []

    def counting(units: Units) -> Tensor:
        calls.append(len(units))
        return l2(units)

    task, traced, space = toy_setting()
    evaluator = Recalibrate(Bench(task, traced, space, counting))
    assert not calls  # nothing slow in the constructor
    for sparsity in (0.2, 0.5, 0.7):
        evaluator.realise(space.snap([sparsity] * len(space)))
    assert calls == [g.dense for g in traced.choices]


def test_the_holdout_setting_limits_what_is_scored() -> None:
    task, traced, space = toy_setting()
    seen: list[int] = []

    def counting(model: nn.Module, split: object) -> float:
        seen.append(len(split))  # type: ignore[arg-type]
        return 0.5

    object.__setattr__(task, "metric", counting)
    for holdout in (0, 50, 10_000):
        evaluator = Recalibrate(Bench(task, traced, space, l2), holdout=holdout)
        metric(evaluator, space.dense())
    assert seen == [200, 50, 200]


def test_a_metric_that_is_not_finite_fails_the_trial() -> None:
    task, traced, space = toy_setting()
    object.__setattr__(task, "metric", lambda model, split: float("nan"))
    evaluator = Recalibrate(Bench(task, traced, space, l2))
    with pytest.raises(TrialFailed, match="is nan; it should be a finite number"):
        metric(evaluator, space.dense())


def test_a_frozen_network_can_be_finetuned() -> None:
    task, traced, space = toy_setting()
    task.model.requires_grad_(False)
    evaluator = Finetune(Bench(task, traced, space, l2), steps=2, **FEW)
    candidate = evaluator.recover(evaluator.realise(space.dense()))
    assert not torch.equal(next(candidate.model.parameters()), next(task.model.parameters()))


def test_bf16_is_honoured() -> None:
    task, traced, space = toy_setting()
    seen: list[bool] = []

    def spying(model: nn.Module, split: object) -> float:
        seen.append(torch.is_autocast_enabled("cpu"))
        return 0.5

    object.__setattr__(task, "metric", spying)
    for name in ("fp32", "bf16"):
        evaluator = Recalibrate(Bench(task, traced, space, l2, precision=name), **FEW)
        metric(evaluator, space.dense())
    assert seen == [False, True]


@pytest.mark.parametrize("settings", [{"images": 64, "batch": 128}, {"batch": 1}, {"holdout": -1}])
def test_wrong_settings_name_themselves(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=" ?= ?".join(map(str, next(iter(settings.items()))))):
        Recalibrate(Bench(*toy_setting(), l2), **settings)


class TestReplayed:
    def test_gives_what_the_split_gives(self) -> None:
        split = toy_images(50, 0)
        ready = Replayed(split)
        for size in (16, 50, 16):
            for (images, labels), (same, targets) in zip(split.batches(size), ready.batches(size), strict=True):
                assert torch.equal(images, same)
                assert torch.equal(labels, targets)
        assert len(ready) == 50
        assert len(ready.head(20)) == 20

    def test_reads_its_source_once(self) -> None:
        reads: list[int] = []

        def source() -> Iterator[Batch]:
            reads.append(1)
            yield from toy_images(50, 0).batches(16)

        made = Replay(source)
        next(iter(made))  # given up half-way: nothing is held
        assert [len(list(made)) for _ in range(3)] == [4, 4, 4]
        assert len(reads) == 2

    def test_holds_nothing_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "HELD", 1000)
        made = Replay(lambda: toy_images(50, 0).batches(16))
        assert [len(list(made)) for _ in range(2)] == [4, 4]
        assert not made._held


class TestFewImages:
    """What other networks say about a trial's few calibration images makes up for how few they are."""

    def statistics(self, model: nn.Module) -> Tensor:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return torch.cat([torch.stack([n.running_mean, n.running_var.sqrt()]) / n.running_var.sqrt() for n in norms], 1)

    def test_their_statistics_come_near_to_those_of_many(self) -> None:
        task, traced, space = toy_setting()
        for sparsity in (0.2, 0.5):
            found = {}
            for name, images, reference, probes in (
                ("many", 512, 0, 0), ("few", 32, 0, 0), ("by the dense", 32, 512, 0), ("by probes, too", 32, 512, 16),
            ):  # fmt: skip
                evaluator = Recalibrate(
                    Bench(task, traced, space, l2),
                    images=images, batch=32, reference=reference, panel=1, probes=probes,
                )  # fmt: skip
                candidate = evaluator.recover(evaluator.realise(space.snap([sparsity] * len(space))))
                found[name] = self.statistics(candidate.model)
            errors = {name: float((found[name] - found["many"]).square().mean().sqrt()) for name in found}
            assert errors["by the dense"] < 0.5 * errors["few"]
            assert errors["by probes, too"] < errors["by the dense"]

    def test_the_dense_network_alone_says_all_of_itself(self) -> None:
        task, traced, space = toy_setting()
        few = Recalibrate(Bench(task, traced, space, l2), images=32, batch=32, reference=512, panel=1, probes=0)
        many = Recalibrate(Bench(task, traced, space, l2), images=512, batch=32)
        one, other = (self.statistics(made.recover(made.realise(space.dense())).model) for made in (few, many))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_is_prepared_is_prepared_in_full_precision() -> None:
    """A network's statistics may be rounded; what corrects them must not be, whoever asks for it first."""
    found: list[list[Tensor]] = []
    for beforehand in (True, False):
        bench = Bench(*toy_setting(), l2, precision="bf16")
        evaluator = Recalibrate(bench, images=32, batch=16, probes=4)
        if beforehand:
            assert evaluator._fast.recovery.peculiar
        policy = bench.space.snap([0.4, 0.6])
        found.append([tensor.clone() for tensor in evaluator.recover(evaluator.realise(policy)).model.buffers()])
    assert found[0]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("make", "images"), [(Recalibrate, "images"), (Reconstruct, "recalibrate")])
class TestTheSlowScore:
    def test_is_had_again_with_all_other_images(
        self, make: MakeEvaluator, images: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task, traced, space = toy_setting()
        looked: list[set[bytes]] = []

        def noting(model: nn.Module, batches: Iterator[Batch], precision: str) -> None:
            held = list(batches)
            looked.append({image.numpy().tobytes() for inputs, _ in held for image in inputs})
            recalibrate(model, held, precision)

        monkeypatch.setattr("autoprune.evaluators.recovery.careful.recalibrate", noting)
        slow = make(Bench(task, traced, space, l2), batch=64, reference=256, **{images: 64}).careful()  # type: ignore[attr-defined]
        again = slow.again()
        for one in (slow, again):
            metric(one, space.snap([0.5] * len(space)))
        first, second = looked
        assert len(first) == len(second) == 256
        assert not first & second
        assert again.again() is None  # of the 512

    def test_is_not_had_again_where_nothing_is_drawn(self, make: MakeEvaluator, images: str) -> None:
        made = make(Bench(*toy_setting(), l2), **{images: 0})
        assert made.careful().again() is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [Recalibrate, Reconstruct, ReconstructSequential])
class TestTheFastOnes:
    def test_careful_is_what_the_score_comes_near_to(self, make: MakeEvaluator) -> None:
        task, traced, space = toy_setting()
        evaluator = make(Bench(task, traced, space, l2))
        for policy in (space.dense(), space.snap([0.3] * len(space)), space.snap([0.6] * len(space))):
            careful = evaluator.careful()  # type: ignore[attr-defined]
            slow, fast = metric(careful, policy), metric(evaluator, policy)
            assert abs(slow - fast) <= 0.03

    def test_careful_looks_at_the_whole_holdout(self, make: MakeEvaluator) -> None:
        task, traced, space = toy_setting()
        seen: list[int] = []

        def counting(model: nn.Module, split: object) -> float:
            seen.append(len(split))  # type: ignore[arg-type]
            return 0.5

        object.__setattr__(task, "metric", counting)
        evaluator = make(Bench(task, traced, space, l2), holdout=50)
        for one in (evaluator, evaluator.careful()):  # type: ignore[attr-defined]
            metric(one, space.dense())
        assert seen == [50, 200]

    def test_says_where_its_time_went(self, make: MakeEvaluator) -> None:
        task, traced, space = toy_setting()
        attempt = attempting(make(Bench(task, traced, space, l2)), {}, rewards.metric, {})
        spent = attempt(0, space.dense()).seconds
        assert set(spent) == {"prune", "recover", "score"}
        assert min(spent.values()) > 0

    def test_threads_change_no_number(self, make: MakeEvaluator) -> None:
        task, traced, space = toy_setting()
        before, found = torch.get_num_threads(), []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                evaluator = make(Bench(task, traced, space, l2))
                found.append(metric(evaluator, space.snap([0.5] * len(space))))
        finally:
            torch.set_num_threads(before)
        assert abs(found[0] - found[1]) <= 0.005 + 1e-9  # one image of 200, at most


def growth(evaluator: Evaluator, ask: Callable[[], Policy]) -> float:
    """Resident memory after 2,000 evaluations, against that after the first hundred."""
    resident = {}
    for number in range(2000):
        metric(evaluator, ask())
        if number + 1 in (100, 2000):
            status = Path("/proc/self/status").read_text().splitlines()
            resident[number + 1] = int(next(line.split()[1] for line in status if line.startswith("VmRSS")))
    return resident[2000] / resident[100]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("make", [Recalibrate, Reconstruct])
def test_two_thousand_evaluations_leak_nothing(make: MakeEvaluator) -> None:
    """Resident memory at the end is that after the first hundred, within 5%."""
    task, traced, space = toy_setting()
    evaluator = make(Bench(task, traced, space, l2))
    generator = torch.Generator().manual_seed(0)
    assert growth(evaluator, lambda: space.snap((0.8 * torch.rand(len(space), generator=generator)).tolist())) <= 1.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("use", ["recalibrate", "reconstruct"])
def test_nor_do_two_thousand_of_a_real_network(use: str) -> None:
    built = study.build(config.find("fashion_mnist", {"evaluator": {"use": use, "holdout": 600}}))
    assert growth(built.evaluator, built.controller("random").ask) <= 1.05
