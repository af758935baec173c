"""What is attempted next, straight on and up a ladder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from autoprune.controllers.random import Random
from autoprune.errors import Exhausted
from autoprune.protocols import Controller
from autoprune.runs import loop
from autoprune.runs.course import YARDSTICKS, Ladder, Rung, Straight
from autoprune.runs.journal import Run
from autoprune.values.budget import Budget
from autoprune.values.space import Choice, Policy, SearchSpace
from autoprune.values.trial import Failure, Outcome, Trial

SPACE = SearchSpace("test", (Choice("a", tuple(range(1, 31))), Choice("b", tuple(range(1, 31)))))
RUNGS = (Rung(keep=3), Rung(steps=10, keep=2), Rung(steps=40))


class Recorded:
    """A controller that asks at random and keeps what it was told."""

    def __init__(self) -> None:
        self.inner, self.told = Random(SPACE, Budget(SPACE, ())), list[Trial]()

    def ask(self) -> Policy:
        return self.inner.ask()

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)
        self.inner.tell(trial)


def good(policy: Policy) -> float:
    return float(sum(policy.levels))


def climbed(
    ladder: Ladder, trials: int, reward: Callable[[Policy, int], float | None] = lambda p, r: good(p)
) -> list[Trial]:
    """The first `trials` of a ladder, whose rewards are what `reward` says of a policy at a rung; None fails."""
    found: list[Trial] = []
    for number in range(trials):
        policy, rung = ladder.ask()
        value = reward(policy, rung)
        outcome = Failure("no") if value is None else Outcome(value, (value,))
        found.append(Trial(number, policy, outcome, rung=rung))
        ladder.tell(found[-1])
    return found


def of_rung(trials: Sequence[Trial], rung: int) -> list[Policy]:
    return [trial.policy for trial in trials if trial.rung == rung]


def ladder(first: Sequence[Policy] = (), **given: object) -> tuple[Ladder, list[Recorded]]:
    made: list[Recorded] = []

    def make() -> Controller:
        made.append(Recorded())
        return made[-1]

    return Ladder(RUNGS, make, first, **given), made  # type: ignore[arg-type]


def test_straight_on_is_first_what_is_known_and_then_what_the_controller_asks() -> None:
    first, controller = [SPACE.dense(), SPACE.thinnest()], Recorded()
    course = Straight(controller, first)
    asked = [course.ask(), course.ask()]  # with a window of two
    assert asked == [(first[0], 0), (first[1], 0)]
    course.tell(Trial(0, first[0], Outcome(1.0, (1.0,))))
    assert course.ask()[0] not in first
    assert [trial.policy for trial in controller.told] == first[:1]


def test_a_part_of_each_rung_goes_up_the_best_first() -> None:
    course, _ = ladder()
    trials = climbed(course, 120)
    low, middle, high = (of_rung(trials, rung) for rung in range(3))
    assert len(low) // 3 <= len(middle) <= len(low) // 3 + YARDSTICKS
    assert len(middle) // 2 <= len(high) < len(middle)  # more than half: who was among the best once, went up
    assert set(high) <= set(middle) <= set(low)
    assert all(len(set(rung)) == len(rung) for rung in (low, middle, high))
    assert max(low, key=good) in high
    assert set(low[:YARDSTICKS]) <= set(middle)


def test_the_controller_hears_of_one_rung_only() -> None:
    course, made = ladder()
    trials = climbed(course, 60)
    assert len(made) == 1
    assert [trial.policy for trial in made[0].told] == of_rung(trials, 0)


def test_a_rung_that_says_nothing_is_given_up_and_that_is_said() -> None:
    said: list[str] = []
    course, made = ladder(watch=lambda what, done, of: said.append(what))
    trials = climbed(course, 150, lambda policy, rung: good(policy) if rung else -good(policy))
    assert course.base == 1
    assert len(made) == 2
    assert len(said) == 1
    assert said[0].startswith("tau of the score with 10 steps of finetuning is -")
    assert [trial.policy for trial in made[1].told] == of_rung(trials, 1)
    assert {trial.rung for trial in made[1].told} == {0}  # of its own, as it sees them
    last = [trial.rung for trial in trials[-30:]]
    assert set(last) == {1, 2}
    assert max(of_rung(trials, 1), key=good) in of_rung(trials, 2)


def test_a_score_that_is_the_same_for_all_says_nothing() -> None:
    course, _ = ladder()
    climbed(course, 60, lambda policy, rung: good(policy) if rung else 0.1)
    assert course.base == 1


def test_the_highest_rung_is_never_given_up() -> None:
    course, _ = ladder()
    climbed(course, 400, lambda policy, rung: [0.0, 1.0, 2.0][rung])
    assert course.base == 2


def test_who_fails_above_is_not_asked_for_again() -> None:
    course, _ = ladder()
    trials = climbed(course, 90, lambda policy, rung: None if rung == 1 else good(policy))
    assert len(of_rung(trials, 1)) == len(set(of_rung(trials, 1))) > YARDSTICKS
    assert of_rung(trials, 2) == []


def test_what_was_told_makes_the_same_ladder_as_what_was_asked() -> None:
    """A resumed run goes on as the other would have, given up rungs and all."""
    whole, _ = ladder()

    def reward(policy: Policy, rung: int) -> float:
        return good(policy) if rung else -good(policy)

    trials = climbed(whole, 140, reward)
    for held in (1, 7, 40, 90, 139):
        again, _ = ladder()
        for trial in trials[:held]:
            again.tell(trial)
        rest = climbed(again, 140 - held, reward)
        assert [(t.policy, t.rung) for t in rest] == [(t.policy, t.rung) for t in trials[held:]]


def test_policies_in_flight_are_not_asked_for_twice() -> None:
    course, _ = ladder()
    climbed(course, 40)
    pending = [course.ask() for _ in range(12)]
    assert len(set(pending)) == 12


def test_a_search_up_a_ladder_ends_with_the_best_of_the_highest_rung(tmp_path: Path) -> None:
    made, _ = ladder()
    judges = [judging(lambda policy, rung=rung: good(policy) + 1000 * (rung == 0)) for rung in range(3)]  # type: ignore[misc]
    with Run(tmp_path, {}, SPACE) as run:
        best = loop.follow(made, judges, run, trials=60)
        assert best.rung == 2
        assert best.reward == max(trial.reward or 0 for trial in run if trial.rung == 2)
        before = list(run)
    with Run(tmp_path, {}, SPACE) as run:
        assert [(t.number, t.policy, t.rung, t.reward) for t in run] == [
            (t.number, t.policy, t.rung, t.reward) for t in before
        ]
        assert run.best() == best


def judging(reward: Callable[[Policy], float]) -> loop.Attempt:
    return lambda number, policy: Trial(number, policy, Outcome(reward(policy), (reward(policy),)))


def test_a_policy_is_remembered_at_its_rung_alone(tmp_path: Path) -> None:
    with Run(tmp_path, {}, SPACE) as run:
        run.append(Trial(0, SPACE.dense(), Outcome(1.0, (1.0,))))
        above = loop.remembering(judging(lambda policy: 2.0), run, 1)
        assert above(1, SPACE.dense()).repeats is None
        assert loop.remembering(judging(lambda policy: 2.0), run)(1, SPACE.dense()).repeats == 0


def test_no_trial_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    def slow(number: int, policy: Policy) -> Trial:
        return Trial(number, policy, Outcome(1.0, (1.0,)), seconds={"score": 10.0})

    with Run(tmp_path, {}, SPACE) as run:
        for number in range(3):
            run.append(slow(number, Policy((number + 1, 1))))
        loop.follow(Straight(Recorded()), [slow], run, trials=50, seconds=29.0)
        assert len(run) == 3
        loop.follow(Straight(Recorded()), [slow], run, trials=4, seconds=31.0)
        assert len(run) == 4


def test_where_the_controller_has_no_more_policies_the_rest_still_goes_up() -> None:
    class Few(Recorded):
        def ask(self) -> Policy:
            if len(self.told) == 9:
                raise Exhausted("no more")
            return super().ask()

    course = Ladder((Rung(keep=2), Rung(steps=3)), Few)
    trials: list[Trial] = []
    with contextlib.suppress(Exhausted):
        while len(trials) < 50:
            trials += climbed(course, 1)
    assert len(of_rung(trials, 0)) == 9
    assert set(sorted(of_rung(trials, 0), key=good)[-4:]) <= set(of_rung(trials, 1))
