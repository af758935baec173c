"""NetAdapt and LeGR, as far as they are as published."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autoprune.controllers.legr import LeGR
from autoprune.controllers.netadapt import NetAdapt
from autoprune.controllers.random import Random
from autoprune.controllers.uniform import Uniform
from autoprune.costs.arithmetic import Macs
from autoprune.errors import ConfigError
from autoprune.testing.controllers import drive, new
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.budget import Budget

SPACE = toy_space(depth=6, step=1, width=32)


class TestNetAdapt:
    def test_a_round_has_a_proposal_for_each_choice_of_one_step(self):
        """Before they are completed: one choice shorter, and the round's share of what must be saved is saved."""
        controller = new(partial(NetAdapt, steps=8), SPACE)
        macs, dense = Macs(SPACE), SPACE.dense()
        for _ in range(8):
            before = SPACE.cube.settled(controller._from.tolist())
            for places in controller._proposals.values():
                shortened = SPACE.cube.settled(places.tolist())
                assert sum(a != b for a, b in zip(before.levels, shortened.levels, strict=True)) == 1
                ceiling = macs.predict(dense) * (1 - 0.5 * controller._round / 8)
                assert macs.predict(shortened) <= ceiling
            drive(controller, len(controller._proposals), space=SPACE)

    def test_the_best_of_a_round_is_where_the_next_begins(self):
        controller = new(NetAdapt, SPACE)
        proposals = dict(controller._proposals)
        trials = drive(controller, len(proposals), space=SPACE)
        best = max(trials, key=lambda trial: trial.reward or 0.0).policy
        assert controller._from.tolist() == proposals[best].tolist()

    def test_a_round_waits_for_all_of_its_trials(self):
        controller = new(NetAdapt, SPACE)
        count = len(controller._proposals)
        asked = [controller.ask() for _ in range(count)]
        for number, policy in enumerate(asked[1:]):
            controller.tell(judge(SPACE, number, policy))
        assert controller._round == 1
        controller.tell(judge(SPACE, count, asked[0]))
        assert controller._round == 2

    def test_a_second_pass_takes_steps_half_as_large(self):
        controller = new(partial(NetAdapt, steps=2), SPACE)
        while controller._pass == 2:
            controller.tell(judge(SPACE, 0, controller.ask()))
        assert controller._pass == 4
        assert SPACE.cube.settled(controller._from.tolist()) == SPACE.dense()

    def test_without_a_budget_there_is_nothing_to_shorten_for(self):
        with pytest.raises(ConfigError, match="netadapt shortens a network until a budget holds, and there is none"):
            NetAdapt(SPACE, Budget(SPACE))


class TestLeGR:
    def test_begins_with_the_uniform_policy(self):
        assert new(LeGR, SPACE).ask() == new(Uniform, SPACE).ask()

    def test_a_ranking_that_changes_nothing_gives_the_parent(self):
        controller = new(LeGR, SPACE)
        parent = new(Random, SPACE).ask()
        assert controller._ranked(np.ones(len(SPACE)), -SPACE.cube.point(parent)) == parent

    def test_a_child_changes_few_choices_against_the_rest(self):
        """One of six moves; the threshold moves all others the other way, alike."""
        controller = new(partial(LeGR, population=1, sample=1), SPACE)
        parent = new(Uniform, SPACE).ask()
        controller.tell(judge(SPACE, 0, parent))
        change = SPACE.cube.point(controller.ask()) - SPACE.cube.point(parent)
        others = np.delete(change, np.argmax(np.abs(change)))
        assert np.ptp(others) < 0.1

    def test_the_oldest_makes_room(self):
        controller = new(partial(LeGR, population=5, sample=2), SPACE)
        trials = drive(controller, 9, space=SPACE)
        assert [reward for reward, _ in controller._living] == [trial.reward for trial in trials[-5:]]

    @pytest.mark.parametrize("wrong", [{"population": 0}, {"sample": 0}, {"size": 0.0}])
    def test_refuses_senseless_settings(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            new(partial(LeGR, **wrong))


def test_netadapt_beats_uniform_in_a_pass():
    trials = drive(new(NetAdapt, SPACE), 40, space=SPACE)
    uniform = judge(SPACE, 0, new(Uniform, SPACE).ask()).reward or 0.0
    assert max(trial.reward or 0.0 for trial in trials) > uniform + 0.01
    assert all(half(SPACE).admits(trial.policy) for trial in trials)
