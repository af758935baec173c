"""Which holdout images a trial looks at, and what it says of all of them."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from autoprune.criteria import l2
from autoprune.engine.fused import Fuser
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.evaluators.finetune import Finetune
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.reconstruct import Reconstruct
from autoprune.evaluators.recovery import panel, scorer
from autoprune.evaluators.recovery.batchnorm import Peculiar, Seen
from autoprune.evaluators.recovery.panel import Panel
from autoprune.evaluators.recovery.sampling import probes
from autoprune.evaluators.sequential import ReconstructSequential
from autoprune.splits import pick
from autoprune.structure.trace import Trace
from autoprune.task import Batch, Split, Task, top1
from autoprune.testing.evaluators import MakeEvaluator, toy_images, toy_setting
from autoprune.values.space import SearchSpace
from tests.making import metric

Floats = NDArray[np.float64]
FEW = {"images": 256}
MANY, SOME = 1000, 500


def invented(networks: int, images: int, seed: int) -> Floats:
    """Margins of networks of different ability on images of different difficulty, which are the same for every seed."""
    difficulty = np.random.default_rng(0).normal(0, 2.5, images)
    rng = np.random.default_rng((1, seed))
    return rng.uniform(2, 5, (networks, 1)) - difficulty + rng.normal(0, 1, (networks, images))


def test_a_panel_is_some_images_and_stands_for_all() -> None:
    made = Panel.of(invented(8, 1000, 1), 600)
    assert len(made.picked) == len(set(made.picked)) == 600
    assert (np.diff(made.picked) > 0).all()
    right = (invented(8, 1000, 1) > 0).mean(0)
    assert set(np.flatnonzero(right == 0.5)) <= set(made.picked)  # the networks differ on them
    rest = np.setdiff1d(np.arange(1000), made.picked)
    assert set(right[rest]) == {0, 1}  # and on no other


def test_it_says_more_of_all_images_than_as_many_at_random() -> None:
    made, networks = Panel.of(invented(8, 1000, 1), 500), invented(300, 1000, 2)
    true = (networks > 0).mean(1)
    found = np.array([made.top1(one[made.picked]) for one in networks])
    plain = (networks[:, :500] > 0).mean(1)
    assert abs((found - true).mean()) < 0.005
    assert (found - true).std() < 0.6 * (plain - true).std()


def test_a_small_panel_moves_top1_by_no_more_than_its_share() -> None:
    easy = np.full((20, 850), 5.0)  # right in every network

    def networks(seed: int) -> Floats:
        return np.concatenate([invented(20, 150, seed), easy], axis=1)

    made = Panel.of(networks(1), 150)
    errors = [made.top1(one[made.picked]) - (one > 0).mean() for one in networks(2)]
    assert np.abs(errors).max() < 0.01


@pytest.mark.parametrize(("share", "wanted"), [(0.85, 600), (0.95, 800), (0.99, 900)])
def test_a_panel_makes_up_a_share_of_what_tells_networks_apart(share: float, wanted: int) -> None:
    probes = np.ones((16, 2000))
    probes[::2, :600] = -1  # a variance of 64 / 256
    probes[:1, 600:900] = -1  # of 15 / 256
    assert panel.enough(probes, share, 100) == wanted


@pytest.mark.parametrize(
    ("images", "differing", "step", "wanted"),
    [(2000, 100, 100, 500), (2000, 100, 300, 600), (550, 550, 100, 550), (2000, 0, 100, 2000)],
    ids=["not too few", "in whole steps", "no more than there are", "nothing to go by"],
)
def test_how_many_images_are_enough(images: int, differing: int, step: int, wanted: int) -> None:
    probes = np.repeat(np.linspace(0.5, 1, images)[None], 7, axis=0)
    probes += np.random.default_rng(0).normal(0, 1e-7, probes.shape)  # they differ by rounding
    probes[::2, :differing] *= -1
    assert panel.enough(probes, 0.99, step) == wanted


def test_the_scale_of_the_logits_says_nothing() -> None:
    made, one = Panel.of(invented(8, 1000, 1), 500), invented(1, 1000, 2)[0][:500]
    assert made.top1(7 * one) == pytest.approx(made.top1(one))


def test_what_is_said_is_a_share() -> None:
    made = Panel.of(invented(8, 1000, 1), 500)
    assert 0 <= made.top1(np.linspace(-2, -1, 500)) < 0.1
    assert 0.9 < made.top1(np.linspace(1, 2, 500)) <= 1


@pytest.mark.parametrize(
    ("probes", "points"),
    [(invented(8, 1000, 1), 4), (invented(2, 1000, 1), 3), (np.repeat(invented(1, 1000, 1), 8, axis=0), 3)],
    ids=["many", "few", "alike"],
)
def test_a_line_needs_probes_that_differ(probes: Floats, points: int) -> None:
    made = Panel.of(probes, 500)
    assert len(made.said) == len(made.true) == points
    assert (np.diff(made.said) > 0).all()
    assert (np.diff(made.true) > 0).all()  # a better network is never said to be worse
    middle = np.mean([made.top1(one[made.picked]) for one in probes])
    assert middle == pytest.approx((probes > 0).mean(), abs=0.02)


def test_images_that_are_all_alike_can_be_picked_from() -> None:
    made = Panel.of(np.ones((3, 100)), 50)
    assert len(set(made.picked)) == 50
    assert made.top1(np.ones(50)) == 1


def test_margins_are_positive_where_the_target_has_the_largest_logit() -> None:
    task, _, _ = toy_setting()
    found = panel.margins(task.model, task.holdout.batches(64))
    assert (found > 0).mean() == pytest.approx(top1(task.model, task.holdout))
    inputs, targets = next(task.holdout.batches(2))
    with torch.no_grad():
        logits = task.model(inputs)[1].tolist()
    right = logits.pop(int(targets[1]))
    assert found[1] == pytest.approx(right - max(logits), abs=1e-6)


def test_samples_are_picked_out_of_all_batches() -> None:
    split = toy_images(100, 1)
    (every, labels), picked = next(split.batches(100)), np.array([0, 7, 29, 60, 99])
    found = list(pick(split.batches(30), picked, 2))
    assert [len(labels) for _, labels in found] == [2, 2, 1]
    assert torch.equal(torch.cat([inputs for inputs, _ in found]), every[picked])
    assert torch.equal(torch.cat([labels for _, labels in found]), labels[picked])


def test_probes_are_random_policies_of_the_space() -> None:
    _, _, space = toy_setting()
    found = probes(space, 8, seed=0)
    assert all(space.contains(policy) for policy in found)
    assert len(set(found)) > 4
    assert found == probes(space, 8, seed=0) != probes(space, 8, seed=1)


def setting(images: int = MANY) -> tuple[Task, Trace, SearchSpace]:
    """The toy with a holdout that is large enough."""
    task, traced, space = toy_setting()
    return dataclasses.replace(task, holdout=toy_images(images, 2)), traced, space


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """How many images each network looked at to be scored since the last call."""
    seen: list[int] = []
    original = panel.margins

    def margins(model: nn.Module, batches: Iterator[Batch]) -> Floats:
        found = original(model, batches)
        seen.append(len(found))
        return found

    def taken() -> list[int]:
        found, seen[:] = seen[:], []
        return found

    monkeypatch.setattr(panel, "margins", margins)
    return taken


@pytest.mark.parametrize("make", [Recalibrate, Reconstruct])
class TestTheFastEvaluators:
    def test_look_at_some_after_the_probes(self, make: MakeEvaluator, looked: Callable[[], list[int]]) -> None:
        task, traced, space = setting()
        evaluator = make(Bench(task, traced, space, l2), **FEW, panel=0.5)
        assert not any("holdout images" in note for note in evaluator.notes)  # type: ignore[attr-defined]
        metric(evaluator, space.dense())
        assert looked() == [MANY] * 16 + [SOME]  # five batches of 100
        metric(evaluator, space.dense())
        assert looked() == [SOME]
        assert any("500 of 1,000 holdout images" in note for note in evaluator.notes)  # type: ignore[attr-defined]

    def test_come_near_to_what_all_images_say(self, make: MakeEvaluator, looked: Callable[[], list[int]]) -> None:
        task, traced, space = setting()
        some, every = (make(Bench(task, traced, space, l2), **FEW, panel=share) for share in (0.9, 1.0))
        policies = [space.snap(np.random.default_rng(n).uniform(0, 0.6, len(space))) for n in range(8)]
        gaps = [[metric(one, policy) for one in (some, every)] for policy in policies]
        assert SOME < looked()[-1] < MANY
        assert statistics.mean(abs(found - wanted) for found, wanted in gaps) < 0.03
        assert statistics.correlation(*zip(*gaps, strict=True)) > 0.9

    def test_one_number_whatever_came_before(self, make: MakeEvaluator, looked: Callable[[], list[int]]) -> None:
        task, traced, space = setting()
        policy, other = space.snap([0.5] * len(space)), space.snap([0.25] * len(space))
        first, second = (make(Bench(task, traced, space, l2), **FEW, panel=0.5) for _ in range(2))
        alone = metric(first, policy)
        metric(second, other)
        assert metric(second, policy) == alone == metric(first, policy)
        assert looked()[-1] == SOME

    def test_one_number_in_larger_steps(self, make: MakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        task, traced, space = setting()
        policy = space.snap([0.5] * len(space))
        one, other = (make(Bench(task, traced, space, l2), **FEW, panel=0.5) for _ in range(2))
        found = metric(one, policy)
        monkeypatch.setattr(scorer, "step_of", lambda bench, sampling: 384)  # as on a GPU
        assert metric(other, policy) == pytest.approx(found, abs=1e-4)

    @pytest.mark.parametrize(
        ("images", "settings", "judge"),
        [
            (599, {}, top1),
            (MANY, {"panel": 1.0}, top1),
            (MANY, {"holdout": 599}, top1),
            (629, {"batch": 90}, top1),
            (MANY, {}, None),
        ],
        ids=["few images", "all asked for", "few asked for", "few batches", "another metric"],
    )
    def test_look_at_all(
        self,
        make: MakeEvaluator,
        looked: Callable[[], list[int]],
        images: int,
        settings: dict[str, float],
        judge: Callable[[nn.Module, Split], float] | None,
    ) -> None:
        task, traced, space = setting(images)
        seen: list[int] = []

        def judged(model: nn.Module, split: Split) -> float:
            seen.append(sum(len(labels) for _, labels in split.batches(100)))
            return 0.5

        task = dataclasses.replace(task, metric=judge or judged)
        evaluator = make(Bench(task, traced, space, l2), **FEW, **settings)
        found = metric(evaluator, space.dense())
        assert looked() == []
        assert not any("holdout images" in note for note in evaluator.notes)  # type: ignore[attr-defined]
        if judge is None:
            assert (found, seen) == (0.5, [MANY])

    def test_without_short_cuts_look_at_all_and_at_no_probe(
        self, make: MakeEvaluator, looked: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a search of few trials, in which they would not pay."""
        task, traced, space = setting()
        evaluator = make(Bench(task, traced, space, l2, shortcuts=False), **FEW)
        asked: list[object] = []
        original = make.realise  # type: ignore[attr-defined]
        monkeypatch.setattr(make, "realise", lambda self, policy: asked.append(policy) or original(self, policy))
        metric(evaluator, space.dense())
        assert asked == [space.dense()]
        assert looked() == []

    def test_probes_recover_as_trials_do(self, make: MakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        task, traced, space = setting()
        asked: list[object] = []
        original = make.realise  # type: ignore[attr-defined]
        monkeypatch.setattr(make, "realise", lambda self, policy: asked.append(policy) or original(self, policy))
        evaluator = make(Bench(task, traced, space, l2), **FEW)
        metric(evaluator, space.dense())
        assert asked == [space.dense(), *2 * probes(space, 16, 0)]  # for the statistics, and for the panel

    def test_probes_do_not_correct_themselves(self, make: MakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        task, traced, space = setting()
        given: list[Sequence[Seen]] = []
        original = Peculiar.of
        monkeypatch.setattr(Peculiar, "of", lambda seen: given.append(seen) or original(seen))
        evaluator = make(Bench(task, traced, space, l2), **FEW)
        metric(evaluator, space.dense())
        everything, *without = given
        left_out = [[n for n, one in enumerate(everything) if id(one) not in set(map(id, some))] for some in without]
        tried = probes(space, 16, 0)  # after the dense network, and two of these are one
        assert left_out == [[n for n, other in enumerate(tried, 1) if other == probe] for probe in tried]

    def test_a_network_that_is_not_finite_fails(self, make: MakeEvaluator) -> None:
        task, traced, space = setting()
        evaluator = make(Bench(task, traced, space, l2), **FEW)
        candidate = evaluator.realise(space.snap([0.5] * len(space)))
        candidate.model.get_parameter("fc.bias").data[0] = torch.nan
        with pytest.raises(TrialFailed, match="not finite"):
            evaluator.score(evaluator.recover(candidate))

    def test_probes_that_are_not_finite_are_said_to_be(self, make: MakeEvaluator) -> None:
        task, traced, space = setting()
        task.model.get_parameter("fc.bias").data[0] = torch.nan
        evaluator = make(Bench(task, traced, space, l2), **FEW)
        with pytest.raises(TrialFailed, match="not finite"):
            metric(evaluator, space.dense())

    @pytest.mark.parametrize(
        ("settings", "named"),
        [({"panel": 0.0}, "panel=0"), ({"panel": 1.5}, "panel=1.5"), ({"panel": float("nan")}, "panel=nan"),
         ({"probes": 0}, "probes=0")],
    )  # fmt: skip
    def test_wrong_settings_name_themselves(self, make: MakeEvaluator, settings: dict[str, float], named: str) -> None:
        task, traced, space = setting()
        with pytest.raises(ConfigError, match=named.replace("=", " ?= ?")):
            make(Bench(task, traced, space, l2), **FEW, **settings)


@pytest.mark.parametrize("make", [Finetune, ReconstructSequential])
def test_evaluators_whose_recovery_takes_longer_look_at_all(
    make: MakeEvaluator, looked: Callable[[], list[int]]
) -> None:
    task, traced, space = setting()
    few = {"steps": 1} if make is Finetune else {"images": 128}
    evaluator = make(Bench(task, traced, space, l2), **few)
    metric(evaluator, space.dense())
    assert looked() == []


def test_images_held_in_eight_bits_are_scored_alike_and_stay_as_they_are() -> None:
    task, _, _ = toy_setting()
    inputs, _ = next(task.holdout.batches(64))
    fuser = Fuser.of(task.model, inputs)
    network, codes = fuser(task.model, "int8"), fuser.coded(inputs)
    before = codes.clone()
    with torch.inference_mode():
        found, wanted = network(codes), network(inputs)
    assert codes.dtype == torch.uint8
    assert torch.equal(found, wanted)
    assert torch.equal(codes, before)


def test_images_that_more_than_convolutions_read_are_not_held_in_eight_bits() -> None:
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.conv(x) + x).flatten(1)

    inputs, _ = next(toy_images(16, 1).batches(16))
    fuser = Fuser.of(Adding().eval(), inputs)
    assert fuser.coded(inputs).dtype == torch.float32
    before = inputs.clone()
    with torch.inference_mode():
        fuser(Adding().eval(), "int8")(inputs)
    assert torch.equal(inputs, before)


def test_room_for_compiled_operators_is_asked_for_and_left_to_the_user() -> None:
    code = "import os, autoprune; print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    for given, wanted in (({}, "2048"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7")):
        kept = {k: v for k, v in os.environ.items() if k != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
        found = subprocess.run(
            [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == wanted
