"""Level switches, and the knapsack that is asked in turns with them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autoprune.controllers.knapsack import Knapsack
from autoprune.controllers.random import Random
from autoprune.controllers.switch import Switch, switched
from autoprune.controllers.uniform import Uniform
from autoprune.costs.arithmetic import Macs, Params
from autoprune.errors import ConfigError, SearchFailed
from autoprune.testing.controllers import LearnerContract, drive, new, raisable
from autoprune.testing.surrogate import half, judge, metric, toy_space
from autoprune.values.budget import Budget, Limit


class TestSwitched:
    def test_raises_some_choices_and_lowers_others(self):
        space = toy_space(step=1)
        budget, rng = half(space), np.random.default_rng(0)
        before = new(Uniform, space).ask()
        for _ in range(50):
            after = switched(budget, before, 0.1, rng)
            change = np.array(after.levels) - np.array(before.levels)
            assert budget.admits(after)
            assert not raisable(space, budget, after)
            assert (change > 0).any()
            assert (change < 0).any()

    def test_a_larger_size_moves_further(self):
        space = toy_space(step=1)
        before = np.array(new(Uniform, space).ask().levels)

        def moved(size: float) -> float:
            rng, policy = np.random.default_rng(0), new(Uniform, space).ask()
            found = [switched(half(space), policy, size, rng).levels for _ in range(50)]
            return float(np.abs(np.array(found) - before).mean())

        assert moved(0.3) > 1.5 * moved(0.05)

    def test_without_a_budget_both_ways_are_open(self):
        space, rng = toy_space(), np.random.default_rng(0)
        before = space.snap([0.5] * len(space))
        change = np.array([switched(Budget(space), before, 0.2, rng).levels for _ in range(30)]) - before.levels
        assert (change > 0).any()
        assert (change < 0).any()


class TestSwitch:
    def test_goes_on_from_the_best(self):
        space = toy_space(depth=12, step=1)
        controller, trials = new(Switch, space), drive(new(Switch, space), 40, space=space)
        for trial in trials:
            controller.tell(trial)
        best = max(trials, key=lambda trial: trial.reward or 0.0).policy
        near = [sum(a != b for a, b in zip(controller.ask().levels, best.levels, strict=True)) for _ in range(20)]
        assert np.median(near) < 10

    def test_with_a_temperature_goes_on_from_worse_ones_at_first(self):
        space = toy_space()
        good, bad = new(Uniform, space).ask(), half(space).fit(space.snap([0.8] * 4 + [0.1] * 4))
        cold, warm = new(Switch, space), new(partial(Switch, temperature=5.0), space)
        for controller in (cold, warm):
            for number, policy in enumerate((bad, good, bad)):
                controller.tell(judge(space, number, policy))
        assert cold.ask() != warm.ask()

    @pytest.mark.parametrize("wrong", [{"step": 0.0}, {"step": 2.0}, {"temperature": -1.0}])
    def test_refuses_senseless_settings(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            new(partial(Switch, **wrong))


class TestAnnealing(LearnerContract):
    @pytest.fixture
    def make(self):
        return partial(Switch, temperature=0.2)


class TestKnapsack:
    def test_its_solution_for_another_budget_beats_uniform_there(self):
        space = toy_space(depth=12, step=1)
        controller = new(Knapsack, space)
        for number, trial in enumerate(drive(new(Random, space), 100, space=space)):
            controller.tell(judge(space, number, trial.policy))
        tighter = half(space, 0.4)
        found = controller.solution(tighter)
        assert tighter.admits(found)
        assert not raisable(space, tighter, found)
        assert metric(space, found) > metric(space, Uniform(space, tighter).ask()) + 0.01

    def test_has_no_solution_before_it_learnt_something(self):
        space = toy_space()
        with pytest.raises(SearchFailed, match="told 0 rewards"):
            new(Knapsack, space).solution(half(space))

    def test_says_how_well_a_sum_over_choices_explains_rewards(self):
        space = toy_space(depth=6, step=1)
        controller = new(Knapsack, space)
        assert controller.notes == ()
        for number, trial in enumerate(drive(new(Random, space), 80, space=space)):
            controller.tell(judge(space, number, trial.policy))
        explained = int(controller.notes[0].split("explains ")[1].split("%")[0])
        assert 60 < explained <= 100

    def test_says_so_where_it_explains_nothing(self):
        space, rng = toy_space(), np.random.default_rng(0)
        controller = new(Knapsack, space)
        for number, trial in enumerate(drive(new(Random, space), 60, space=space)):
            chance = float(rng.random())
            controller.tell(type(trial)(number, trial.policy, type(trial.outcome)(chance, (chance,))))
        assert int(controller.notes[0].split("explains ")[1].split("%")[0]) < 30

    def test_meets_several_ceilings(self):
        space = toy_space(step=1)
        limits = tuple(
            Limit(name, cost, share * cost.predict(space.dense()))
            for name, cost, share in (("macs", Macs(space), 0.5), ("params", Params(space), 0.3))
        )
        budget = Budget(space, limits)
        controller = Knapsack(space, budget)
        for number in range(25):
            policy = controller.ask()
            assert budget.admits(policy)
            controller.tell(judge(space, number, policy))

    def test_prints_nothing(self, capfd):
        space = toy_space(depth=20, step=1)
        drive(new(partial(Knapsack, switches=0), space), 15, space=space)
        assert capfd.readouterr() == ("", "")

    def test_asks_of_two_hundred_choices(self):
        space = toy_space(depth=200, step=4)
        controller = new(partial(Knapsack, switches=0), space)
        assert all(half(space).admits(trial.policy) for trial in drive(controller, 9, space=space))

    @pytest.mark.parametrize("wrong", [{"sample": -0.5}, {"switches": -1}])
    def test_refuses_senseless_settings(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            new(partial(Knapsack, **wrong))


class TestKnapsackAlone(LearnerContract):
    @pytest.fixture
    def make(self):
        return partial(Knapsack, switches=0)
