"""The contracts of a controller. Subclass one, give a `make` fixture, and every promise is tested.

class TestMine(LearnerContract):
    @pytest.fixture
    def make(self):
        return Mine
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
import pytest
import torch

from autoprune.controllers.random import Random
from autoprune.errors import Exhausted
from autoprune.protocols import Controller
from autoprune.testing.surrogate import Landscape, Surrogate, half, judge, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Failure, Trial

Make = Callable[..., Controller]


def global_randomness() -> tuple[object, ...]:
    """The state of every global generator, comparable."""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), position, torch.get_rng_state().numpy().tobytes()


def new(make: Make, space: SearchSpace | None = None, seed: int = 0) -> Controller:
    """A controller for half the MACs of `space`, by default a small surrogate."""
    space = space or toy_space()
    return make(space=space, budget=half(space), seed=seed)


def asked(controller: Controller, space: SearchSpace, start: int = 0) -> Iterator[Trial]:
    """Search the surrogate without end, from trial `start` on: ask, judge, tell."""
    return searched(controller, Surrogate(space), start)


def searched(controller: Controller, landscape: Landscape, start: int = 0) -> Iterator[Trial]:
    """The same on any landscape."""
    for number in count(start):
        trial = landscape.judge(number, controller.ask())
        controller.tell(trial)
        yield trial


def drive(controller: Controller, trials: int, start: int = 0, space: SearchSpace | None = None) -> list[Trial]:
    """Search the surrogate for `trials` trials."""
    return list(islice(asked(controller, space or toy_space(), start), trials))


def late(make: Make, landscape: Landscape, trials: int) -> float:
    """The mean reward of the last fifth of a search of `trials`, over three seeds."""
    found = []
    for seed in range(3):
        controller = make(space=landscape.space, budget=landscape.budget, seed=seed)
        rewards = [t.reward or 0.0 for t in islice(searched(controller, landscape), trials)]
        found += rewards[-trials // 5 :]
    return float(np.mean(found))


def raisable(space: SearchSpace, budget: Budget, policy: Policy) -> list[str]:
    """The choices that could keep one level more within the budget, tied ones together."""
    cube, places = space.cube, space.cube.places(policy)
    found = []
    for axis, leader in enumerate(cube.leaders):
        above = [*places[:axis], places[axis] + 1, *places[axis + 1 :]]
        if above[axis] < len(leader.levels) and budget.admits(cube.settled(above)):
            found.append(leader.name)
    return found


class ProposalContract:
    """What holds for every proposal of every controller."""

    @pytest.fixture
    def make(self) -> Make:
        """The class under test, or anything else that is called like it."""
        raise NotImplementedError

    @pytest.fixture
    def asks(self) -> int:
        """How many proposals a test looks at."""
        return 40

    @pytest.mark.parametrize("step", [1, 8, 32])
    def test_uses_the_budget_and_never_exceeds_it(self, make: Make, asks: int, step: int) -> None:
        """Inside the space and the budget; no choice could keep a level more."""
        space = toy_space(depth=6, step=step, width=64)
        budget = half(space)
        for trial in _until_exhausted(new(make, space), asks, space):
            assert space.contains(trial.policy)
            assert budget.admits(trial.policy)
            assert not raisable(space, budget, trial.policy)

    def test_moves_tied_choices_together(self, make: Make, asks: int) -> None:
        """Choices that are tied have the same place among their levels, and the budget holds."""
        plain = toy_space(depth=6, step=8, width=64)
        space = SearchSpace("tied", plain.choices, plain.ops, plain.parameters, ties=((0, 1), (4, 5)))
        for trial in _until_exhausted(new(make, space), min(asks, 12), space):
            places = [c.levels.index(level) for c, level in zip(space, trial.policy.levels, strict=True)]
            assert places[0] == places[1]
            assert places[4] == places[5]
            assert half(space).admits(trial.policy)
            assert not raisable(space, half(space), trial.policy)

    def test_leaves_what_has_one_level_dense(self, make: Make, asks: int) -> None:
        """A space without choices has one policy, the dense one."""
        space = toy_space(step=64)  # nothing has 64 channels to spare
        controller = make(space=space, budget=Budget(space), seed=0)
        assert {t.policy for t in _until_exhausted(controller, asks, space)} == {space.dense()}

    def test_leaves_global_randomness_alone(self, make: Make, asks: int) -> None:
        """Random numbers are the controller's own."""
        before = global_randomness()
        _until_exhausted(new(make), asks, toy_space())
        assert global_randomness() == before

    def test_policies_are_plain_values(self, make: Make) -> None:
        """A policy is hashable and made of Python's whole numbers."""
        policy = new(make).ask()
        assert isinstance(policy, Policy)
        assert all(type(level) is int for level in policy.levels)
        assert hash(policy) == hash(Policy(tuple(policy.levels)))

    @pytest.mark.parametrize("becomes", ["scored", "failed", "pending"])
    def test_proposes_no_policy_twice_while_others_exist(self, make: Make, becomes: str) -> None:
        """In a space of few policies each comes once, whatever becomes of it; then some again, or Exhausted."""
        space, every = _few()
        controller, found = new(make, space), list[Policy]()
        with contextlib.suppress(Exhausted):
            for number in range(len(every) + 3):
                found.append(controller.ask())
                if becomes != "pending":
                    trial = judge(space, number, found[-1])
                    controller.tell(_fail(trial) if becomes == "failed" else trial)
        assert len(set(found)) == min(len(found), len(every))
        assert set(found) <= set(every)

    def test_proposes_no_policy_twice_in_a_coarse_space(self, make: Make, asks: int) -> None:
        """Where a proposal is rounded to few levels, another takes the place of what was proposed before."""
        space = toy_space(depth=10, step=8)
        found = [trial.policy for trial in _until_exhausted(new(make, space), asks, space)]
        assert len(set(found)) == len(found)


class FixedContract(ProposalContract):
    """For a rule of thumb: one policy, always the same, and no more."""

    def test_has_one_policy_to_propose(self, make: Make) -> None:
        """The second ask raises Exhausted."""
        controller = new(make)
        controller.ask()
        with pytest.raises(Exhausted):
            controller.ask()

    def test_is_exhausted_by_what_it_is_told(self, make: Make) -> None:
        """A resumed run that holds the one trial is finished."""
        trial = judge(toy_space(), 0, new(make).ask())
        resumed = new(make)
        resumed.tell(trial)
        with pytest.raises(Exhausted):
            resumed.ask()

    def test_does_not_depend_on_the_seed(self, make: Make) -> None:
        """A rule draws nothing."""
        assert new(make, seed=0).ask() == new(make, seed=1).ask()


class ControllerContract(ProposalContract):
    """What `search` relies on, whatever the algorithm."""

    def test_same_seed_same_search(self, make: Make, asks: int) -> None:
        """The seed decides everything."""
        first, second = (drive(new(make), asks) for _ in range(2))
        assert first == second

    def test_other_seed_other_search(self, make: Make) -> None:
        """The seed decides something."""
        first, second = (drive(new(make, seed=seed), 5) for seed in range(2))
        assert [t.policy for t in first] != [t.policy for t in second]

    def test_goes_on_from_a_journal(self, make: Make, asks: int) -> None:
        """A new controller that is told the past goes on as the old one does, failed trials and all."""
        old, past = new(make), []
        for number in range(asks):
            trial = judge(toy_space(), number, old.ask())
            past.append(_fail(trial) if number % 7 == 3 else trial)
            old.tell(past[-1])
        resumed = new(make)
        for trial in past:
            resumed.tell(trial)
        assert [t.policy for t in drive(resumed, 5, asks)] == [t.policy for t in drive(old, 5, asks)]

    def test_forgets_an_ask_that_was_never_told(self, make: Make, asks: int) -> None:
        """Killed during an evaluation, a search resumes with the same policy."""
        old = new(make)
        past = drive(old, asks)
        lost = old.ask()
        resumed = new(make)
        for trial in past:
            resumed.tell(trial)
        assert resumed.ask() == lost

    def test_asking_twice_gives_two_policies(self, make: Make) -> None:
        """Asks may outrun tells, which may come in another order."""
        controller = new(make)
        one, other = controller.ask(), controller.ask()
        assert one != other
        for number, policy in enumerate((other, one)):
            controller.tell(judge(toy_space(), number, policy))

    def test_goes_on_from_asks_that_ran_ahead(self, make: Make, asks: int) -> None:
        """With several under way: a new controller that is asked and told in the same order goes on as the old one."""
        old, resumed = new(make), new(make)
        past = _ahead(old, asks, 4)
        assert _ahead(resumed, asks, 4) == past
        assert resumed.ask() == old.ask()

    def test_knows_what_is_under_way(self, make: Make, asks: int) -> None:
        """What is asked for ahead of being told differs from it no less than what is asked for one by one."""
        controller = new(make)
        drive(controller, asks)
        ahead = [controller.ask() for _ in range(8)]
        assert len(set(ahead)) == len(ahead)
        one_by_one = [trial.policy for trial in drive(_past(make, asks), 8, asks)]
        assert _apart(ahead) > 0.5 * _apart(one_by_one)

    def test_takes_a_policy_that_it_did_not_ask(self, make: Make, asks: int) -> None:
        """Another controller's trials are welcome."""
        space, controller = toy_space(), new(make)
        for number, policy in enumerate((half(space).fit(space.dense()), space.thinnest())):
            controller.tell(judge(space, number, policy))
        assert all(half(space).admits(t.policy) for t in drive(controller, asks, 2))

    def test_proposes_again_what_was_told_of_another_rung(self, make: Make) -> None:
        """A policy that was looked at more thoroughly may still be asked; and again each comes once."""
        space, every = _few()
        controller = new(make, space)
        for number, policy in enumerate(every):
            controller.tell(dataclasses.replace(judge(space, number, policy), rung=1))
        assert {trial.policy for trial in drive(controller, len(every), len(every), space)} == set(every)

    def test_survives_failures(self, make: Make, asks: int) -> None:
        """Trials without a reward stop nothing."""
        space, controller = toy_space(), new(make)
        for number in range(asks):
            controller.tell(_fail(judge(space, number, controller.ask())))
        assert space.contains(controller.ask())


class LearnerContract(ControllerContract):
    """For a controller that claims to learn: better than random on the surrogate, at equal trials."""

    @pytest.fixture
    def trials(self) -> int:
        """How many trials it may learn from."""
        return 60

    def test_beats_random(self, make: Make, trials: int) -> None:
        """The mean reward of the last fifth of a search, over three seeds, beats random's clearly."""
        space = toy_space()
        assert late(make, Surrogate(space), trials) > late(Random, Surrogate(space), trials) + 0.01


class LandscapeContract:
    """For the same claim on a landscape that was fitted to real scores, or on one of your own."""

    @pytest.fixture
    def make(self) -> Make:
        """The class under test, or anything else that is called like it."""
        raise NotImplementedError

    @pytest.fixture
    def landscape(self) -> Landscape:
        """What is searched, such as `autoprune.testing.fitted.read(table)`."""
        raise NotImplementedError

    @pytest.fixture
    def trials(self) -> int:
        """How many trials it may learn from."""
        return 60

    def test_beats_random_there(self, make: Make, landscape: Landscape, trials: int) -> None:
        """The mean reward of the last fifth of a search, over three seeds, beats random's clearly."""
        assert late(make, landscape, trials) > late(Random, landscape, trials) + 0.01


def _until_exhausted(controller: Controller, asks: int, space: SearchSpace) -> list[Trial]:
    trials: list[Trial] = []
    try:
        for trial in islice(asked(controller, space), asks):
            trials.append(trial)
    except Exhausted:
        assert trials, "exhausted before the first policy"
    return trials


def _few() -> tuple[SearchSpace, list[Policy]]:
    """A space, and the few policies that use half of its MACs."""
    space = toy_space(depth=4, step=8)
    every = half(space).every(100)
    assert every is not None
    assert len(every) == 8
    return space, every


def _ahead(controller: Controller, asks: int, window: int) -> list[Policy]:
    """What is asked for where ask k is made after tell k - `window`."""
    space, found = toy_space(), list[Policy]()
    for number in range(asks):
        if number >= window:
            controller.tell(judge(space, number - window, found[number - window]))
        found.append(controller.ask())
    return found


def _past(make: Make, asks: int) -> Controller:
    """A controller that has searched for a while."""
    controller = new(make)
    drive(controller, asks)
    return controller


def _apart(policies: list[Policy]) -> float:
    """How far the nearest of the others is, on average, in the cube."""
    points = np.array([toy_space().cube.point(policy) for policy in policies])
    far = np.abs(points[:, None] - points[None]).sum(2) + np.diag(np.full(len(points), np.inf))
    return float(far.min(1).mean())


def _fail(trial: Trial) -> Trial:
    return Trial(trial.number, trial.policy, Failure("it failed", trial.costs))
