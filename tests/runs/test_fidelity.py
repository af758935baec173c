"""How true a score is: known relations give known numbers, and nothing but the holdout is read."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from autoprune import config
from autoprune.errors import ConfigError, Exhausted, SearchFailed, TrialFailed
from autoprune.protocols import SavesTime, Score
from autoprune.report import words
from autoprune.report.facts import Agreement
from autoprune.runs import fidelity, kendall, study
from autoprune.runs.study import Study
from autoprune.structure.prune import Candidate
from autoprune.task import Batch, Split
from autoprune.train import train
from autoprune.values.space import Policy
from autoprune.values.trial import Trial
from tests import ASSETS
from tests.assets import mine
from tests.making import done, failed, metric

MINE = ASSETS / "mine.py"


class Unread:
    """A test split that nobody may look at."""

    def __len__(self) -> int:
        return 32

    def batches(self, size: int) -> Iterator[Batch]:
        raise AssertionError("the test split was read")

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        raise AssertionError("the test split was read")

    def head(self, count: int) -> Split:
        raise AssertionError("the test split was read")


def removed(policy: Policy) -> float:
    return 10 - policy.levels[0] - 0.01 * policy.levels[1]  # no two policies alike


@dataclass
class Plain:
    """Judges a network by a formula of its policy, which the network carries; fails where `refused` says so."""

    model: nn.Module
    worth: Callable[[float], float]
    refused: Callable[[float], bool] = lambda value: False
    scored: list[float] = field(default_factory=list)

    def realise(self, policy: Policy) -> Candidate:
        made = copy.deepcopy(self.model)
        made.removed = removed(policy)  # type: ignore[assignment]
        return Candidate(policy, made)

    def recover(self, candidate: Candidate) -> Candidate:
        return candidate

    def score(self, candidate: Candidate) -> Score:
        value: Any = candidate.model.removed
        if self.refused(value):
            raise TrialFailed("a wide network")
        self.scored.append(value)
        return Score(self.worth(value))


@dataclass
class WithCare(Plain):
    """The same, with a slow score that is its fast score put through `slower`."""

    slower: Callable[[float], float] = lambda score: score

    def careful(self) -> Plain:
        return Plain(self.model, lambda value: self.slower(self.worth(value)))


def built(
    evaluator: Callable[[nn.Module], Any] | None = None, finetuned: Callable[[float], float] | None = None
) -> Study:
    """A study of a tiny network. `finetuned` is what a trained network is worth."""
    task = dataclasses.replace(mine.make(), test=Unread())
    if finetuned:
        worth = finetuned
        task = dataclasses.replace(task, metric=lambda model, split: worth(getattr(model, "removed", 0.0)))
    tables = {
        "name": "mine",
        "task": {"use": study.GIVEN},
        "evaluator": {"use": "recalibrate", "images": 32, "batch": 16, "holdout": 16},
        "finetune": {"batch": 16, "distill": 0.5, "lr": 0.5},
        "search": {"seed": 3},
    }
    made = study.build(config.parse(tables, "test"), task=task, found={"precision": "fp32"})
    return dataclasses.replace(made, evaluator=evaluator(made.task.model)) if evaluator else made


@dataclass
class Doubtful(Plain):
    """A slow score that has another opinion when it is asked again, if at all."""

    opinion: Callable[[float], float] | None = None

    def again(self) -> Plain | None:
        return self.opinion and Plain(self.model, self.opinion)


class TestAgreement:
    def test_of_equal_and_of_opposite_orders_is_certain(self) -> None:
        values = [0.3, 0.1, 0.9, 0.5, 0.7, 0.2]
        same = kendall.measure(values, [v**3 for v in values], seed=0)
        assert (same.tau, same.low, same.high, same.recall, same.policies) == pytest.approx((1, 1, 1, 1, 6))
        opposite = kendall.measure(values, [-v for v in values], seed=0)
        assert (opposite.tau, opposite.low, opposite.high, opposite.recall) == pytest.approx((-1, -1, -1, 0))

    def test_by_hand(self) -> None:
        """Of the ten pairs of five policies two are in the wrong order: (10 - 2 * 2) / 10."""
        assert kendall.measure([1, 2, 3, 4, 5], [2, 1, 3, 5, 4], seed=0).tau == pytest.approx(0.6)

    def test_with_ties_is_tau_b(self) -> None:
        """Four pairs in order, one not ordered by the score, one by the truth: 4 / sqrt(5 * 5)."""
        assert kendall.measure([1, 1, 2, 3], [1, 2, 3, 3], seed=0).tau == pytest.approx(0.8)

    def test_is_resampled_as_scipy_would(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kendall, "RESAMPLES", 50)
        rng = np.random.default_rng(1)
        x, y = rng.integers(0, 6, 12).astype(float), rng.random(12).round(1)
        drawn = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), 50)
        wanted = [stats.kendalltau(np.repeat(x, times), np.repeat(y, times)).statistic for times in drawn]
        found = kendall._resampled(x, y, 7)
        assert found == pytest.approx(wanted)
        made = kendall.measure(x.tolist(), y.tolist(), seed=7)
        assert (made.low, made.high) == pytest.approx(tuple(np.quantile(wanted, [0.05, 0.95])))

    def test_is_wider_over_fewer_policies_and_the_same_for_a_seed(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.random(200)
        score = truth + 0.3 * rng.random(200)
        few, many = (kendall.measure(score[:n].tolist(), truth[:n].tolist(), seed=0) for n in (20, 200))
        assert many == kendall.measure(score.tolist(), truth.tolist(), seed=0)
        assert many != kendall.measure(score.tolist(), truth.tolist(), seed=1)
        assert few.low is not None and few.high is not None and many.low is not None and many.high is not None  # noqa: PT018
        assert few.low <= few.tau <= few.high  # type: ignore[operator]
        assert many.high - many.low < few.high - few.low

    def test_of_a_score_that_is_always_the_same_is_not_defined(self) -> None:
        found = kendall.measure([0.5] * 6, [1, 2, 3, 4, 5, 6], seed=0)
        assert (found.tau, found.low, found.high) == (None, None, None)
        assert words.agreement(found) == (
            "Kendall's tau is not defined over 6 random policies: one of the scores is the same for all"
        )

    def test_reads_well(self) -> None:
        found = Agreement(0.8125, 0.7, 0.9, 0.5, 18, 2)
        assert words.agreement(found) == (
            "Kendall's tau 0.812 (90 % interval 0.700 to 0.900) over 18 random policies, 2 failed and left out"
        )

    @pytest.mark.parametrize(
        ("score", "truth", "wanted"),
        [
            ([9, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3], [9, 0, 0, 0, 0, 0, 0, 0, 8, 1, 2, 3], 0.5),  # best two: {0,1}, {0,8}
            (list(range(10)), list(range(10)), 1.0),
            (list(range(10)), [-v for v in range(10)], 0.0),
            ([5, 5, 5, 5, 5, 5], [1, 2, 3, 4, 5, 6], 0.0),  # of equals the first, which is the worst
            ([5, 5, 5, 5, 5, 5], [6, 5, 4, 3, 2, 1], 1.0),
        ],
    )
    def test_finds_so_many_of_the_best_tenth(self, score: list[float], truth: list[float], wanted: float) -> None:
        assert kendall.recall(score, truth) == wanted


class TestMeasure:
    def test_finds_the_known_relations(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: -value, slower=lambda score: 2 * score), lambda value: value)
        found = fidelity.measure(made, policies=12, steps=1)
        taus = {pair: a.tau for pair, a in found.agreements().items()}
        wanted = {("fast", "slow"): 1.0, ("fast", "finetuned"): -1.0, ("slow", "finetuned"): -1.0}
        assert taus == pytest.approx(wanted)
        fast = found.scores["fast"]
        assert (found.policies, found.failed, found.notes, len(set(fast))) == (12, 0, (), 12)
        assert found.scores["slow"] == [2 * score for score in fast]
        assert found.scores["finetuned"] == [-score for score in fast]
        assert found.difference() == pytest.approx((np.mean(np.negative(fast)), np.std(fast, ddof=1)))
        assert set(found.seconds) == {"fast", "slow", "finetuned"}
        assert all(spent > 0 for spent in found.seconds.values())

    @pytest.mark.parametrize("opinion", [None, lambda value: value])
    def test_says_how_far_the_slow_score_agrees_with_itself(self, opinion: Callable[[float], float] | None) -> None:
        made = built(lambda m: WithCare(m, lambda value: -value))
        made.evaluator.careful = lambda: Doubtful(made.task.model, lambda value: -value, opinion=opinion)  # type: ignore[attr-defined]
        found = fidelity.measure(made, policies=8, steps=0)
        taus = {pair: a.tau for pair, a in found.agreements().items()}
        said = "Slow again has other calibration images: where it disagrees with slow, the order is chance."
        wanted = {("fast", "slow"): 1.0}
        assert taus == pytest.approx(wanted | {("slow", "slow again"): -1.0} if opinion else wanted)
        assert (said in found.remarks()) == bool(opinion)

    def test_asks_the_random_controller_of_the_study_for_different_policies(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        found = fidelity.measure(made, policies=8, steps=0)
        controller, asked = made.controller("random"), dict[float, None]()
        while len(asked) < 8:
            asked[removed(controller.ask())] = None
        assert found.scores["fast"] == list(asked)
        assert set(found.scores) == {"fast", "slow"}

    def test_of_a_real_evaluator_trains_and_leaves_the_dense_network_alone(self) -> None:
        made = built()
        evaluator = made.evaluator
        careful = dataclasses.replace(evaluator, holdout=0)  # type: ignore[type-var]
        evaluator.careful = lambda: careful  # type: ignore[attr-defined]
        before = {name: tensor.clone() for name, tensor in made.task.model.state_dict().items()}
        made.task.model.train()
        seen: list[tuple[str, int, int]] = []
        found = fidelity.measure(made, policies=6, steps=10, watch=lambda *done: seen.append(done))
        assert seen == [("policy", done, 6) for done in range(7)]
        assert all(torch.equal(before[name], tensor) for name, tensor in made.task.model.state_dict().items())
        controller = made.controller("random")
        first = controller.ask()
        assert found.scores["slow"][0] == metric(careful, first)
        assert found.scores["fast"][0] == metric(evaluator, first)
        trained = evaluator.recover(evaluator.realise(first)).model
        recipe = dataclasses.replace(made.finetune, steps=10)
        dense = copy.deepcopy(made.task.model).eval()
        train(trained, made.task.train, made.task.loss, recipe, seed=3, teacher=dense)
        assert found.scores["finetuned"][0] == made.task.metric(trained, made.task.holdout)
        assert found.scores["finetuned"] != found.scores["slow"]
        again = fidelity.measure(made, policies=6, steps=10)
        assert again.scores == found.scores

    def test_leaves_out_and_counts_what_fails(self) -> None:
        def made(limit: float) -> Study:
            return built(lambda m: WithCare(m, lambda value: value, refused=lambda value: value < limit))

        whole = fidelity.measure(made(-1), policies=9, steps=0).scores["fast"]
        found = fidelity.measure(made(sorted(whole)[3]), policies=9, steps=0)
        assert (found.policies, found.failed, found.error) == (6, 3, "a wide network")
        assert found.scores["fast"] == [score for score in whole if score >= sorted(whole)[3]]
        assert found.remarks()[0] == (
            "6 random policies on the holdout; 3 failed and left out, the first with: a wide network."
        )
        with pytest.raises(SearchFailed, match=r"^4 of 9 policies could be scored; at least 5 .*: a wide network$"):
            fidelity.measure(made(sorted(whole)[5]), policies=9, steps=0)

    def test_without_a_slow_score_says_so(self) -> None:
        made = built(lambda m: Plain(m, lambda value: value), lambda value: value)
        found = fidelity.measure(made, policies=6, steps=1)
        assert found.notes == ("Evaluator 'recalibrate' has no slow score.",)
        assert list(found.agreements()) == [("fast", "finetuned")]
        assert found.difference() is None
        assert found.plain()["fast_less_slow"] == {"mean": None, "standard_deviation": None}
        with pytest.raises(ConfigError, match=r"has no slow score and --steps is 0; write --steps 50"):
            fidelity.measure(made, policies=6, steps=0)

    @pytest.mark.parametrize(
        ("policies", "steps", "message"),
        [(4, 1, "--policies 4: at least 5 are needed"), (0, 1, "--policies 0"), (9, -1, "--steps -1: a number of")],
    )
    def test_refuses_what_cannot_be_measured(self, policies: int, steps: int, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            fidelity.measure(built(), policies=policies, steps=steps)

    def test_takes_what_a_small_space_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        controller = made.controller("random")
        few = list(dict.fromkeys(controller.ask() for _ in range(20)))[:6]

        class Short:
            def __init__(self, policies: list[Policy], ends: bool) -> None:
                self.left, self.ends = policies * 50, ends

            def ask(self) -> Policy:
                if self.ends and len(self.left) < 50:
                    raise Exhausted
                return self.left.pop(0)

        monkeypatch.setattr(Study, "controller", lambda self, name="": Short(few, ends=False))
        assert fidelity.measure(made, policies=20, steps=0).policies == 6
        monkeypatch.setattr(Study, "controller", lambda self, name="": Short(few[:4], ends=True))
        with pytest.raises(ConfigError, match="holds 4 different policies at random; at least 5 are needed"):
            fidelity.measure(made, policies=20, steps=0)


class TestOfTrials:
    def trials(self, made: Study, count: int) -> list[Trial]:
        controller = made.controller("random")
        policies = list(dict.fromkeys(controller.ask() for _ in range(10 * count)))[:count]
        return [done(n, p, -removed(p), reward=0.0) for n, p in enumerate(policies)]

    def test_compares_what_the_search_saw_with_the_slow_score(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        tried = self.trials(made, 8)
        found = fidelity.of_trials(made, tried, most=20)
        assert found is not None
        assert (found.tau, found.low, found.policies, found.failed) == pytest.approx((-1, -1, 8, 0))

    def test_takes_different_ones_that_succeeded_and_no_more_than_asked_for(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        tried = self.trials(made, 8)
        seen: list[tuple[str, int, int]] = []
        found = fidelity.of_trials(
            made, [failed(0, tried[0].policy), *tried, *tried], most=6, watch=lambda *done: seen.append(done)
        )
        assert found is not None
        assert found.policies == 6
        assert seen == [("fidelity", done, 6) for done in range(7)]
        twice = fidelity.of_trials(made, [*tried, *tried], most=20)
        assert twice is not None
        assert twice.policies == 8

    def test_leaves_out_and_counts_what_fails_slowly(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        tried = self.trials(made, 8)
        limit = sorted(-(t.metric or 0.0) for t in tried)[2]
        slow = Plain(made.task.model, lambda value: value, refused=lambda value: value < limit)
        made.evaluator.careful = lambda: slow  # type: ignore[attr-defined]
        found = fidelity.of_trials(made, tried, most=20)
        assert found is not None
        assert (found.policies, found.failed) == (6, 2)
        assert fidelity.of_trials(made, tried[:6], most=4) is None

    def test_says_nothing_of_too_few_or_without_a_slow_score(self) -> None:
        made = built(lambda m: WithCare(m, lambda value: value))
        tried = self.trials(made, 8)
        assert fidelity.of_trials(made, tried[:4], most=20) is None
        plain = built(lambda m: Plain(m, lambda value: value))
        assert not isinstance(plain.evaluator, SavesTime)
        assert fidelity.of_trials(plain, tried, most=20) is None


def test_the_difference_of_scores_is_in_the_numbers_of_a_metric_where_lower_is_better() -> None:
    scores = {"fast": [-3.0, -4.0, -5.0], "slow": [-2.0, -3.5, -4.5]}
    found = fidelity.Fidelity(scores, {"fast": 1.0, "slow": 1.0}, 0, "", 0, lower_is_better=True)
    mean, _ = found.difference() or (0.0, 0.0)
    assert mean == pytest.approx(2 / 3), "the fast error is larger"
    assert found.plain()["scores"]["fast"] == [3.0, 4.0, 5.0]
