"""The contract of an evaluator. Subclass it, give a `make` fixture, and every promise is tested.

class TestMine(EvaluatorContract):
    @pytest.fixture
    def make(self):
        return Mine
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.costs.arithmetic import Params
from autoprune.criteria import l2
from autoprune.errors import TrialFailed
from autoprune.evaluators.bench import Bench
from autoprune.protocols import Evaluator, Trains
from autoprune.structure.prune import Candidate
from autoprune.structure.trace import Trace, trace
from autoprune.task import Images, Split, Task, top1
from autoprune.testing.controllers import global_randomness
from autoprune.train import Recipe, train
from autoprune.values.space import Policy, SearchSpace

MakeEvaluator = Callable[..., Evaluator]
Setting = tuple[Task, Trace, SearchSpace]


class ToyNet(nn.Module):
    """Three convolutions with BatchNorm, one of them around a residual connection. Four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (n, 4), of images (n, 1, 8, 8)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        inner = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(inner)) + x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def toy_images(count: int, seed: int) -> Images:
    """Noise in which the darkness of every second row, column, pixel or nothing tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    stripes = (torch.arange(8) % 2).float()
    patterns = torch.stack(
        [stripes.expand(8, 8), stripes.expand(8, 8).T, (stripes + stripes[:, None]) % 2, torch.zeros(8, 8)]
    )
    pixels = 110 + 50 * patterns[labels] + 60 * torch.randn(count, 8, 8, generator=generator)
    return Images(pixels.clamp(0, 255).to(torch.uint8)[:, None], labels, (0.5,), (0.25,))


@functools.cache
def _trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ToyNet()
    recipe = Recipe(steps=60, batch=64, lr=0.2)
    train(model, toy_images(512, 1), functional.cross_entropy, recipe, seed=0)
    return model


def toy_task() -> Task:
    """A small trained network on images that tell their class by their pattern."""
    model = copy.deepcopy(_trained())
    train_split, holdout, test = toy_images(512, 1), toy_images(200, 2), toy_images(200, 3)
    return Task(model, next(holdout.batches(2))[0], train_split, holdout, test, name="toy")


def toy_setting() -> Setting:
    """The toy task, traced, and its space."""
    task = toy_task()
    traced = trace(task.model, task.example)
    return task, traced, SearchSpace("toy", traced.choices, traced.ops, traced.parameters)


def state_of(model: nn.Module) -> tuple[object, ...]:
    """All of a network that must not change, comparable."""
    weights = tuple((name, t.dtype, tuple(t.shape), t.numpy().tobytes()) for name, t in model.state_dict().items())
    flags = tuple((p.requires_grad, p.grad is None) for p in model.parameters())
    return weights, flags, tuple(m.training for m in model.modules())


class EvaluatorContract:
    """What the search relies on, however a pruned network recovers."""

    @pytest.fixture
    def make(self) -> MakeEvaluator:
        """The class under test, or anything else that is called like it."""
        raise NotImplementedError

    @pytest.fixture
    def setting(self) -> Setting:
        """What to prune."""
        return toy_setting()

    @pytest.fixture
    def evaluator(self, make: MakeEvaluator, setting: Setting) -> Evaluator:
        """The evaluator under test."""
        return self.new(make, setting)

    def new(self, make: MakeEvaluator, setting: Setting, seed: int = 0) -> Evaluator:
        """One more evaluator of the same setting."""
        task, traced, space = setting
        return make(bench=Bench(task, traced, space, l2, seed))

    @pytest.mark.parametrize("training", [True, False])
    def test_the_dense_network_stays_as_it_is(self, evaluator: Evaluator, setting: Setting, training: bool) -> None:
        """Byte for byte, with its modes and flags."""
        task, _, space = setting
        task.model.train(training)
        before = state_of(task.model)
        scored(evaluator, space.snap([0.5] * len(space)))
        scored(evaluator, space.dense())
        assert state_of(task.model) == before

    def test_a_pruned_network_shares_nothing(self, evaluator: Evaluator, setting: Setting) -> None:
        """No tensor of the pruned network lies in the dense one's memory."""
        task, _, space = setting
        dense = {t.data_ptr() for t in task.model.state_dict().values()}
        assert not dense & {t.data_ptr() for t in evaluator.realise(space.dense()).model.state_dict().values()}

    def test_removes_what_the_policy_says(self, evaluator: Evaluator, setting: Setting) -> None:
        """The realised network has as many parameters as predicted, and runs; the candidate knows its policy."""
        task, _, space = setting
        cost = Params(space)
        for policy in (space.dense(), space.snap([0.3] * len(space)), space.thinnest()):
            candidate = evaluator.realise(policy)
            assert candidate.policy == policy
            assert cost.measure(candidate.model, task.example) == cost.predict(policy)
            assert candidate.model.eval()(task.example).shape == (len(task.example), 4)

    def test_says_what_stayed(self, evaluator: Evaluator, setting: Setting) -> None:
        """Each tensor has the shape that the candidate's `stay` says, and whole ones are left out."""
        task, _, space = setting
        candidate = evaluator.realise(space.snap([0.3] * len(space)))
        made = dict(candidate.model.state_dict())
        for name, dense in task.model.state_dict().items():
            wanted = [int(candidate.stay.get(name, {}).get(d, np.ones(n)).sum()) for d, n in enumerate(dense.shape)]
            assert list(made[name].shape) == wanted

    def test_the_dense_level_is_the_dense_network(self, evaluator: Evaluator, setting: Setting) -> None:
        """Bit for bit when realised, and therefore in its metric, before and after the recovery.

        Of an evaluator that trains weights of its own, the network has the dense one's tensors, not their values.
        """
        task, _, space = setting
        realised = evaluator.realise(space.dense())
        if isinstance(evaluator, Trains):
            made, wanted = realised.model.state_dict(), task.model.state_dict()
            assert {name: t.shape for name, t in made.items()} == {name: t.shape for name, t in wanted.items()}
            return
        dense = Candidate(space.dense(), copy.deepcopy(task.model).eval())
        with torch.inference_mode():
            assert torch.equal(realised.model.eval()(task.example), dense.model(task.example))
        assert task.quality(realised.model, task.holdout) == task.quality(dense.model, task.holdout)
        assert evaluator.score(evaluator.recover(realised)) == evaluator.score(evaluator.recover(dense))

    def test_a_metric_where_lower_is_better_is_turned(self, make: MakeEvaluator, setting: Setting) -> None:
        """Scores are better when higher, whatever the task's metric: `task.quality` is what to score with."""
        task, traced, space = setting
        turned = dataclasses.replace(task, metric=_error, lower_is_better=True)
        assert -1 <= scored(self.new(make, (turned, traced, space)), space.snap([0.5] * len(space))) < 0

    def test_same_seed_same_number(self, make: MakeEvaluator, setting: Setting) -> None:
        """Whoever evaluates, however often, and whatever was evaluated in between."""
        space = setting[-1]
        policy = space.snap([0.5] * len(space))
        first, second = self.new(make, setting), self.new(make, setting)
        found = scored(first, policy)
        scored(second, space.snap([0.2] * len(space)))
        assert found == scored(second, policy) == scored(first, policy)

    def test_a_score_changes_nothing(self, evaluator: Evaluator, setting: Setting) -> None:
        """A candidate that has recovered can be scored again, and is as it was."""
        space = setting[-1]
        candidate = evaluator.recover(evaluator.realise(space.snap([0.3] * len(space))))
        before = state_of(candidate.model)
        assert evaluator.score(candidate).metric == evaluator.score(candidate).metric
        assert state_of(candidate.model) == before

    def test_is_pickled_or_says_that_it_is_not(self, evaluator: Evaluator, setting: Setting) -> None:
        """A copy from another process scores alike; one that cannot travel raises TypeError with the reason."""
        policy = setting[-1].snap([0.4] * len(setting[-1]))
        found = scored(evaluator, policy)
        try:
            whole = pickle.dumps(evaluator)
        except TypeError as wrong:
            if "not pickled" not in str(wrong):
                raise
            pytest.skip(str(wrong))
        assert scored(pickle.loads(whole), policy) == found  # noqa: S301 - what was pickled here

    def test_leaves_global_randomness_alone(self, evaluator: Evaluator, setting: Setting) -> None:
        """The caller's generators go on as if nothing had happened."""
        before = global_randomness()
        scored(evaluator, setting[-1].thinnest())
        assert global_randomness() == before

    def test_recovers_more_than_chance(self, evaluator: Evaluator, setting: Setting) -> None:
        """A lightly pruned network is better than guessing, and left ready for use."""
        space = setting[-1]
        candidate = evaluator.recover(evaluator.realise(space.snap([0.25] * len(space))))
        assert evaluator.score(candidate).metric > 0.5  # four classes
        assert not candidate.model.training

    def test_a_broken_network_fails_its_trial(self, evaluator: Evaluator, setting: Setting) -> None:
        """NaN is no accuracy of 25%."""
        candidate = evaluator.realise(setting[-1].dense())
        with torch.no_grad():
            next(candidate.model.parameters()).fill_(float("nan"))
        with pytest.raises(TrialFailed, match=r"finite|nan"):
            evaluator.score(evaluator.recover(candidate))


def _error(model: nn.Module, split: Split) -> float:
    """The share of samples that a network gets wrong, in [0, 1]."""
    return 1 - top1(model, split)


def scored(evaluator: Evaluator, policy: Policy) -> float:
    """The metric of a policy, as a search sees it."""
    return evaluator.score(evaluator.recover(evaluator.realise(policy))).metric
