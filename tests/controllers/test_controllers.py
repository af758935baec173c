import dataclasses
import json
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import optuna
import pytest

from autoprune import plugins
from autoprune.controllers.bayes import Bayes
from autoprune.controllers.bayes_gp import BayesGP
from autoprune.controllers.cmaes import CmaEs
from autoprune.controllers.deep import Deep
from autoprune.controllers.evolution import Evolution
from autoprune.controllers.nsga2 import Nsga2
from autoprune.controllers.qmc import Qmc
from autoprune.controllers.random import Random
from autoprune.controllers.shallow import Shallow
from autoprune.controllers.uniform import Uniform
from autoprune.costs.arithmetic import Macs, Params
from autoprune.errors import ConfigError
from autoprune.testing.controllers import ControllerContract, drive, new
from autoprune.testing.surrogate import half, judge, metric, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import SearchSpace
from autoprune.values.trial import Outcome, Trial, front
from tests import ASSETS
from tests.making import done

RECORDED = json.loads((ASSETS / "policies_v1.json").read_text())


class TestUniform:
    def test_is_uniform_up_to_rounding_and_the_remainder(self):
        space = toy_space(step=1, width=256)
        sparsity = np.array(space.sparsity(new(Uniform, space).ask()))
        assert sparsity.max() - sparsity.min() < 0.02
        assert 0.2 < sparsity.mean() < 0.5


class TestDeep:
    def test_prunes_the_output_hardest(self):
        space = toy_space(step=1, width=256)
        sparsity = space.sparsity(new(Deep, space).ask())
        assert all(after >= before - 0.01 for before, after in pairwise(sparsity))
        assert sparsity[-1] > 3 * sparsity[0]


class TestShallow:
    def test_prunes_the_input_hardest(self):
        space = toy_space(step=1, width=256)
        sparsity = space.sparsity(new(Shallow, space).ask())
        assert all(after <= before + 0.01 for before, after in pairwise(sparsity))
        assert sparsity[0] > 3 * sparsity[-1]


class TestRandom:
    def test_covers_the_space(self):
        space = toy_space(step=1)
        controller = Random(space, Budget(space))
        drawn = np.array([space.cube.point(controller.ask()) for _ in range(400)])
        assert np.all(np.abs(drawn.mean(axis=0) - 0.5) < 0.08)
        assert drawn.min() < 0.05
        assert drawn.max() > 0.95


class TestEvolution:
    def test_begins_with_the_uniform_policy(self):
        assert new(Evolution).ask() == new(Uniform).ask()

    def test_proposes_nothing_twice(self):
        policies = [t.policy for t in drive(new(partial(Evolution, brood=2)), 150)]
        assert len(set(policies)) == 150

    def test_goes_on_when_every_policy_was_seen(self):
        space = toy_space(depth=2, step=8)  # a handful of policies
        controller = Evolution(space, Budget(space, half(space).limits, fill=False))
        policies = [t.policy for t in drive(controller, 60, space=space)]
        assert 1 < len(set(policies)) < 60

    def test_finds_a_good_policy_of_24_groups_in_60_trials(self):
        space = toy_space(depth=24)
        best = max(t.reward for t in drive(new(Evolution, space), 60, space=space))
        chance = max(t.reward for t in drive(new(Random, space), 60, space=space))
        assert best > chance + 0.01
        assert best > metric(space, new(Uniform, space).ask()) + 0.02

    @pytest.mark.parametrize(
        "wrong", [{"startup": 0}, {"parents": 0}, {"brood": 0}, {"step": -0.1}, {"mutate": 1.5}, {"renew": 2.0}]
    )
    def test_refuses_senseless_settings(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            new(partial(Evolution, **wrong))


class TestEvolutionOfOneParentAndOneChild(ControllerContract):
    @pytest.fixture
    def make(self):
        return partial(Evolution, startup=1, parents=1, brood=1)


class TestCmaEs:
    @pytest.mark.parametrize("wrong", [{"population": 3}, {"sigma": 0.0}, {"sigma": 1.5}])
    def test_refuses_senseless_settings(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            new(partial(CmaEs, **wrong))


class TestNsga2:
    def test_spreads_over_cost_where_there_is_no_budget(self):
        space = toy_space()
        trials = drive(Nsga2(space, Budget(space), population=12), 150, space=space)
        late = [t.costs["macs"] for t in trials[-50:]]
        assert max(late) > 2 * min(late)

    def test_its_first_generation_is_of_all_sizes_wherever_it_is_stopped(self):
        space = toy_space()
        controller = Nsga2(space, Budget(space), population=16)
        means = [np.mean(space.cube.point(controller.ask())) for _ in range(16)]
        for count in (4, 8, 16):
            assert np.ptp(means[:count]) > 0.5
            assert 0.3 < np.mean(means[:count]) < 0.6

    def test_its_front_is_wider_and_higher_than_a_random_one(self):
        space = toy_space()
        dense = Macs(space).predict(space.dense())

        def front(make):
            """The span of costs, and the mean over costs of the best quality that is not dearer."""
            trials = drive(make(space, Budget(space)), 200, space=space)
            points = sorted((t.costs["macs"] / dense, t.reward) for t in trials)
            costs, best = np.array([c for c, _ in points]), np.maximum.accumulate([r for _, r in points])
            at = np.searchsorted(costs, np.linspace(0.05, 1.0, 96), side="right")
            return np.ptp(costs), np.mean(np.concatenate([[0.1], best])[at])

        for seed in range(3):
            ours, theirs = front(partial(Nsga2, seed=seed)), front(partial(Random, seed=seed))
            assert ours[0] > theirs[0] + 0.1
            assert ours[1] > theirs[1] + 0.02

    def test_needs_the_cost_that_it_minimises(self):
        space = toy_space()
        controller = Nsga2(space, Budget(space, (half(space, 0.5).limits[0],)))
        trial = judge(space, 0, controller.ask())
        with pytest.raises(ConfigError, match="'macs'"):
            controller.tell(done(0, trial.policy, costs={"ms": 1.0}))

    def test_takes_all_values_of_a_reward_that_has_several(self):
        """Quality up, and two costs with a minus sign: the front of the three widens."""
        space = toy_space(depth=4)
        controller = Nsga2(space, Budget(space), population=10)
        rows = []
        for number in range(80):
            trial = judge(space, number, controller.ask())
            values = (trial.metric, -trial.costs["macs"] / 1e6, -trial.costs["params"] / 1e3)
            rows.append(values)
            controller.tell(Trial(number, trial.policy, Outcome(trial.metric, values, trial.costs)))
        first, whole = front(rows[:10]), front(rows)
        assert len(whole) > len(first)
        assert np.ptp([rows[i][1] for i in whole]) >= np.ptp([rows[i][1] for i in first])

    def test_refuses_a_population_of_one(self):
        with pytest.raises(ConfigError, match="population"):
            new(partial(Nsga2, population=1))


class TestQmc:
    def test_covers_the_space_more_evenly_than_random(self):
        space = toy_space(step=1, width=64)

        def unevenness(make):
            """How far each group's sorted sparsities are from equally spaced ones."""
            controller = make(space, Budget(space))
            drawn = np.array([space.cube.point(controller.ask()) for _ in range(64)])
            return np.abs(np.sort(drawn, axis=0) - (np.arange(64)[:, None] + 0.5) / 64).mean()

        assert unevenness(Qmc) < 0.5 * unevenness(Random)


@pytest.mark.parametrize("make", [Bayes, CmaEs, Nsga2])
def test_a_hundred_trials_in_multiples_of_8_are_a_hundred_networks(make):
    """Of ResNet-20's, bayes once asked for 33, nsga2 for 72 and cmaes for 85."""
    space = toy_space(depth=10, step=8)
    assert len({trial.policy for trial in drive(new(make, space), 100, space=space)}) == 100


@pytest.mark.parametrize("make", [Bayes, BayesGP, CmaEs, Nsga2, Qmc])
def test_is_quiet_and_leaves_the_logging_of_others_alone(make, capfd):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive(new(make), 12)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("make", [Uniform, Random, Evolution, Bayes, CmaEs, Nsga2, Qmc])
@pytest.mark.parametrize("cost", [Macs, Params])
def test_a_budget_that_need_not_be_filled_is_not_exceeded(make, cost):
    space = toy_space()
    limit = half(space).limits[0]
    limit = type(limit)("macs", cost(space), 0.3 * cost(space).predict(space.dense()), "30%")
    budget = Budget(space, (limit,), fill=False)
    controller = make(space, budget)
    for number in range(1 if make is Uniform else 15):
        policy = controller.ask()
        assert budget.admits(policy)
        controller.tell(judge(space, number, policy))


@pytest.mark.parametrize("make", [Uniform, Deep, Shallow, Random, Evolution, Bayes, CmaEs, Nsga2, Qmc])
def test_a_group_that_is_frozen_stays_dense(make):
    toy = toy_space()
    frozen = dataclasses.replace(toy.choices[0], levels=(toy.choices[0].dense,))
    space = SearchSpace("toy", (frozen, *toy.choices[1:]), toy.ops, toy.parameters)
    trials = drive(new(make, space), 1 if make in (Uniform, Deep, Shallow) else 15, space=space)
    assert all(t.policy.levels[0] == frozen.dense for t in trials)


@pytest.mark.parametrize("name", RECORDED)
def test_asks_for_the_policies_that_it_asked_for_before(name):
    """Recorded from the version whose policies were sparsities: the same seed leads the same way.

    That version asked some policies twice; from the first such ask on, bayes, nsga2 and random at step 8 are recorded
    anew. So are evolution, since its brood is 3, and cmaes, since it has a margin.
    """
    for run in RECORDED[name]["runs"]:
        space = toy_space(depth=6, step=run["step"], width=32)
        settings = {"use": name, **RECORDED[name]["settings"]}
        controller = plugins.build("controller", settings, space=space, budget=half(space), seed=3)
        trials = drive(controller, len(run["kept"]), space=space)
        assert [list(t.policy.levels) for t in trials] == run["kept"]
