"""The loop: what it writes, what it survives, when it stops, and that it goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune import plugins
from autoprune.controllers.random import Random
from autoprune.errors import ConfigError, Exhausted, SearchFailed, TrialFailed
from autoprune.protocols import Score
from autoprune.runs import journal, loop
from autoprune.runs.journal import Run
from autoprune.runs.loop import HOPELESS, Attempt, attempting, remembering, search
from autoprune.structure.prune import Candidate
from autoprune.testing.surrogate import half, metric, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Failure, Outcome, Trial

SPACE = toy_space()
BUDGET = half(SPACE)
COSTS = {limit.name: limit.cost for limit in BUDGET.limits}
DENSE = {name: cost.predict(SPACE.dense()) for name, cost in COSTS.items()}


class Judge:
    """An evaluator whose network is its policy."""

    def __init__(self, judge: Callable[[Policy], float] = lambda policy: metric(SPACE, policy)) -> None:
        self.judge = judge
        self.realised: list[Policy] = []

    def realise(self, policy: Policy) -> Candidate:
        self.realised.append(policy)
        return Candidate(policy, nn.Identity())

    def recover(self, candidate: Candidate) -> Candidate:
        return candidate

    def score(self, candidate: Candidate) -> Score:
        return Score(self.judge(candidate.policy))


class ByPolicy(Judge):
    """A judge of which several may sit at once."""

    def realise(self, policy: Policy) -> Candidate:
        return Candidate(policy, nn.Identity())


@dataclass
class Countdown:
    """A controller that asks for ever thinner networks and writes down what it was told."""

    last: int = 100
    told: list[Trial] = field(default_factory=list)

    def ask(self) -> Policy:
        if len(self.told) >= self.last:
            raise Exhausted("that was all")
        return SPACE.snap([min(0.01 * len(self.told), 0.9)] * len(SPACE))

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)


def plain(value: float, costs: object, dense: object) -> float:
    return value


def attempt(judge: Judge) -> Attempt:
    return attempting(judge, COSTS, plain, DENSE)


def open_run(directory: Path) -> Run:
    return Run(directory, {"name": "toy"}, SPACE)


def fail(step: object = 3) -> float:
    raise TrialFailed(f"the training loss is nan at step {step} of 10")


class Ours(Judge):
    """An evaluator whose score is written in a file of autoprune."""

    def __init__(self, score: str, **names: Any) -> None:
        super().__init__()
        exec(compile(f"def score(candidate):\n    {score}", loop.__file__, "exec"), names)  # noqa: S102 - a text of ours
        self.score = names["score"]


class TestTheLoop:
    def test_tells_what_it_wrote_and_returns_the_best(self, tmp_path: Path) -> None:
        controller = Countdown()
        with open_run(tmp_path) as run:
            best = search(controller, attempt(Judge()), run, trials=12)
            assert controller.told == list(run)
            assert best == max(run, key=lambda t: t.reward or 0)
        with open_run(tmp_path) as again:
            assert list(again) == controller.told

    def test_writes_before_it_tells(self, tmp_path: Path) -> None:
        lines: list[int] = []

        class Reader(Countdown):
            def tell(self, trial: Trial) -> None:
                lines.append(journal.count(tmp_path))
                super().tell(trial)

        with open_run(tmp_path) as run:
            search(Reader(), attempt(Judge()), run, trials=3)
        assert lines == [1, 2, 3]

    def test_says_where_the_time_went(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            search(Countdown(), attempt(Judge()), run, trials=2)
            first, second = run
        assert set(first.seconds) == {"ask", "prune", "recover", "score", "journal", "tell"}
        assert first.seconds["journal"] == 0.0 < second.seconds["journal"]
        assert first.seconds["tell"] == 0.0 < second.seconds["tell"]

    def test_an_evaluator_may_say_more_of_its_time(self) -> None:
        class Sayer(Judge):
            def score(self, candidate: Candidate) -> Score:
                return Score(0.5, {"careful": 0.25, "recover": 1.5})

        seconds = attempt(Sayer())(0, SPACE.dense()).seconds
        assert set(seconds) == {"prune", "recover", "score", "careful"}
        assert seconds["careful"] == 0.25
        assert seconds["recover"] > 1.5

    def test_shows_every_new_trial_once(self, tmp_path: Path) -> None:
        seen: list[int] = []
        for trials in (2, 5):
            with open_run(tmp_path) as run:
                search(Countdown(), attempt(Judge()), run, trials=trials, watch=lambda t: seen.append(t.number))
        assert seen == [0, 1, 2, 3, 4]

    def test_ends_when_the_controller_does(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            search(Countdown(last=3), attempt(Judge()), run, trials=12)
            assert len(run) == 3

    def test_an_interrupt_loses_the_trial_under_way_and_no_other(self, tmp_path: Path) -> None:
        def interrupted(policy: Policy) -> float:
            if len(judge.realised) == 4:
                raise KeyboardInterrupt
            return 0.5

        judge = Judge(interrupted)
        with open_run(tmp_path) as run, pytest.raises(KeyboardInterrupt):
            search(Countdown(), attempt(judge), run, trials=12)
        with open_run(tmp_path) as again:
            assert len(again) == 3

    @pytest.mark.parametrize("name", [n for n in plugins.OURS["controller"] if n != "bayes-gp"])
    @pytest.mark.parametrize("stop", [1, 7])
    def test_a_stopped_search_goes_on_as_if_nothing_had_happened(self, tmp_path: Path, name: str, stop: int) -> None:
        def go(directory: Path, trials: int) -> list[Policy]:
            controller = plugins.build("controller", {"use": name}, space=SPACE, budget=BUDGET, seed=3)
            with open_run(directory) as run:
                search(controller, attempt(Judge()), run, trials=trials)
                return [t.policy for t in run]

        whole = go(tmp_path / "whole", 14)
        go(tmp_path / "stopped", stop)
        if len(whole) > stop:
            with (tmp_path / "stopped" / "trials.jsonl").open("a") as file:
                file.write('{"number": 7, "pol')  # the crash
        assert go(tmp_path / "stopped", 14) == whole


class TestFailures:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_metric_that_is_no_number_fails_the_trial(self, value: float) -> None:
        trial = attempt(Judge(lambda policy: value))(0, SPACE.dense())
        assert (trial.metric, trial.reward) == (None, None)
        assert trial.error == f"the metric is {value}; it should be a finite number"
        assert trial.costs == DENSE

    def test_a_reward_may_be_several_numbers(self, tmp_path: Path) -> None:
        made = attempting(Judge(), COSTS, lambda value, costs, dense: (value, -costs["macs"]), DENSE)
        with open_run(tmp_path) as run:
            best = search(Countdown(), made, run, trials=3)
        assert isinstance(best.outcome, Outcome)
        assert best.outcome.values == (best.reward, -best.costs["macs"])

    @pytest.mark.parametrize("nothing", [(), []])
    def test_a_reward_of_no_number_is_a_mistake(self, tmp_path: Path, nothing: Any) -> None:
        made = attempting(Judge(), COSTS, lambda value, costs, dense: nothing, DENSE)
        with open_run(tmp_path) as run:
            with pytest.raises(ConfigError, match="one number, or several, are right"):
                search(Countdown(), made, run, trials=3)
            assert len(run) == 0

    def test_a_reward_that_is_no_number_fails_the_trial(self) -> None:
        made = attempting(Judge(), COSTS, lambda value, costs, dense: math.nan, DENSE)
        assert made(0, SPACE.dense()).error.startswith("the reward is nan")

    @pytest.mark.parametrize(
        "failure",
        [
            TrialFailed("no good"),
            MemoryError("no room"),
            RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        ],
    )
    def test_what_one_policy_did_fails_one_trial_in_one_line(self, failure: Exception) -> None:
        def judge(policy: Policy) -> float:
            raise failure

        trial = attempt(Judge(judge))(0, SPACE.dense())
        assert isinstance(trial.outcome, Failure)
        assert str(failure).splitlines()[0] in trial.error
        assert "\n" not in trial.error
        assert set(trial.seconds) == {"prune", "recover", "score"}

    @pytest.mark.parametrize(
        ("mistake", "said"),
        [
            (ValueError("only one class\nis present"), "ValueError: only one class at test_loop.py, line "),
            (KeyError("x"), "KeyError: 'x' at test_loop.py, line "),
            (SystemExit(3), "it ends the program: sys.exit(3) at test_loop.py, line "),
            (SystemExit(), "it ends the program: sys.exit() at test_loop.py, line "),
            (AssertionError(), "AssertionError at test_loop.py, line "),
        ],
    )
    def test_whatever_a_users_code_raises_is_a_failed_trial_that_names_the_line(
        self, tmp_path: Path, mistake: BaseException, said: str
    ) -> None:
        def judge(policy: Policy) -> float:
            if len(judged.realised) == 2:
                raise mistake
            return 0.5

        judged, controller = Judge(judge), Countdown()
        with open_run(tmp_path) as run:
            search(controller, attempt(judged), run, trials=3)
        assert controller.told[1].error.startswith(said)
        with open_run(tmp_path) as again:
            assert [bool(t.error) for t in again] == [False, True, False]

    def test_a_reward_that_raises_is_a_failed_trial(self) -> None:
        trial = attempting(Judge(), COSTS, lambda value, costs, dense: 1 / 0, DENSE)(0, SPACE.dense())
        assert trial.error.startswith("ZeroDivisionError: division by zero at test_loop.py")

    def test_a_layer_that_does_not_take_what_it_gets_is_a_failed_trial(self) -> None:
        evaluator = Ours("layer(inputs)", layer=nn.Linear(3, 2), inputs=torch.zeros(1, 4))
        assert attempt(evaluator)(0, SPACE.dense()).error.startswith("RuntimeError: mat1 and mat2 shapes")

    @pytest.mark.parametrize("mistake", [RuntimeError("mat1 and mat2 shapes"), ConfigError("no gamma"), KeyError("x")])
    def test_mistakes_of_ours_are_not_hidden_in_the_journal(self, tmp_path: Path, mistake: Exception) -> None:
        with open_run(tmp_path) as run:
            with pytest.raises(type(mistake)):
                search(Countdown(), attempt(Ours("raise mistake", mistake=mistake)), run, trials=3)
            assert len(run) == 0

    def test_are_told_and_the_search_goes_on(self, tmp_path: Path) -> None:
        judge = Judge(lambda policy: fail() if len(judge.realised) % 3 else 0.5)
        controller = Countdown()
        with open_run(tmp_path) as run:
            search(controller, attempt(judge), run, trials=9)
        assert sum(bool(t.error) for t in controller.told) == 6

    def test_in_a_row_stop_it_with_the_cause(self, tmp_path: Path) -> None:
        judge = Judge(lambda policy: 0.5 if len(judge.realised) == 1 else fail(len(judge.realised)))
        with open_run(tmp_path) as run:
            with pytest.raises(
                SearchFailed, match="10 trials in a row failed, the first with: the training loss is nan at step 2"
            ):
                search(Countdown(), attempt(judge), run, trials=99)
            assert len(run) == 1 + HOPELESS
        with open_run(tmp_path) as run, pytest.raises(SearchFailed, match=r"11 trials .* nan at step 2 of"):
            search(Countdown(), attempt(judge), run, trials=99)

    def test_of_every_trial_leave_no_best(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run, pytest.raises(SearchFailed, match="none of 3 trials"):
            search(Countdown(), attempt(Judge(fail)), run, trials=3)


class TestManyAtOnce:
    @pytest.mark.parametrize("name", ["random", "evolution", "bayes"])
    def test_who_attempts_changes_nothing_while_one_is_under_way(self, tmp_path: Path, name: str) -> None:
        def go(directory: Path, **how: object) -> list[Trial]:
            controller = plugins.build("controller", {"use": name}, space=SPACE, budget=BUDGET, seed=3)
            with open_run(directory) as run:
                search(controller, attempt(Judge()), run, trials=12, **how)  # type: ignore[arg-type]
                return [dataclasses.replace(t, seconds={}) for t in run]

        with ThreadPoolExecutor(2) as pool:
            assert go(tmp_path / "pool", executor=pool) == go(tmp_path / "here")

    def test_an_interrupt_loses_no_trial_that_was_done_before(self, tmp_path: Path) -> None:
        def interrupted(policy: Policy) -> float:
            if len(judge.realised) == 6:
                raise KeyboardInterrupt
            return 0.5

        judge = Judge(interrupted)
        with open_run(tmp_path) as run, pytest.raises(KeyboardInterrupt):
            search(Random(SPACE, BUDGET), attempt(judge), run, trials=12, window=3)
        assert journal.count(tmp_path) == 5

    def test_are_written_and_told_in_the_order_of_their_asks(self, tmp_path: Path) -> None:
        first_may_end = threading.Event()

        def judge(policy: Policy) -> float:
            if policy == SPACE.dense():
                assert first_may_end.wait(10)
            else:
                first_may_end.set()
            return sum(policy.levels)

        asked: list[int] = []

        class Ahead(Countdown):
            def ask(self) -> Policy:
                asked.append(len(self.told))
                return SPACE.snap([0.1 * len(asked) - 0.1] * len(SPACE))

        controller = Ahead()
        with open_run(tmp_path) as run, ThreadPoolExecutor(2) as pool:
            search(controller, attempt(ByPolicy(judge)), run, trials=8, executor=pool, window=3)
            assert controller.told == list(run)
        assert [t.number for t in controller.told] == list(range(8))
        assert asked == [0, 0, 0, 1, 2, 3, 4, 5]
        assert [t.metric for t in controller.told] == [sum(t.policy.levels) for t in controller.told]


class TestRemembering:
    def test_a_policy_is_evaluated_once(self, tmp_path: Path) -> None:
        judge = Judge()
        with open_run(tmp_path) as run:
            remembered = remembering(attempt(judge), run)
            first, second = remembered(0, SPACE.dense()), remembered(1, SPACE.dense())
        assert len(judge.realised) == 1
        assert (second.number, second.reward, second.costs) == (1, first.reward, first.costs)
        assert not second.seconds
        assert (first.repeats, second.repeats) == (None, 0)

    def test_what_an_earlier_life_evaluated_counts(self, tmp_path: Path) -> None:
        judge = Judge()
        with open_run(tmp_path) as run:
            run.append(attempt(judge)(0, SPACE.dense()))
        with open_run(tmp_path) as run:
            again = remembering(attempt(judge), run)(1, SPACE.dense())
            assert (again.metric, again.repeats) == (run.best().metric, 0)
        assert len(judge.realised) == 1

    def test_a_failure_is_worth_another_try(self, tmp_path: Path) -> None:
        judge = Judge(fail)
        with open_run(tmp_path) as run:
            remembered = remembering(attempt(judge), run)
            assert all(remembered(number, SPACE.dense()).error for number in (0, 1))
        assert len(judge.realised) == 2
