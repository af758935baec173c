"""The actor-critic controllers: the contracts, and that ask and tell do what Stable-Baselines3's `learn` does."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from autoprune.controllers.ddpg import DDPG
from autoprune.controllers.random import Random
from autoprune.controllers.sac import SAC
from autoprune.controllers.sb3 import Marked, lent, marked, truncated
from autoprune.controllers.td3 import TD3
from autoprune.controllers.walk.environment import Layerwise, action_of, share_of
from autoprune.controllers.walk.walk import Walk
from autoprune.errors import ConfigError
from autoprune.testing.controllers import drive, global_randomness, new
from autoprune.testing.surrogate import half, metric, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Policy

SMALL = {"hidden": (32, 32), "warmup": 12, "gradient_steps": 2}


class AsWalked(ReplayBuffer):
    """Remembers what the environment made of an action, as `tell` does, instead of the action."""

    def add(self, obs, next_obs, action, reward, done, infos):
        executed = np.stack([info["action"] for info in infos])
        super().add(obs, next_obs, executed, reward, done, infos)


class Learning(stable_baselines3.DDPG):
    """Stable-Baselines3's own loop with the exploration and the seeds of the controller, by overriding public names."""

    def explore_as(self, controller: DDPG) -> None:
        self.like, self.episode, self.taken = controller, 0, 0

    def predict(self, observation, *args, **kwargs):
        if self.taken == 0:
            self.rng = np.random.default_rng((self.like.seed, self.episode))
        self.taken = (self.taken + 1) % len(self.like.space)
        if self.episode < self.like.warmup:
            return action_of(self.rng.random())[None], None
        action, state = super().predict(observation, *args, **kwargs)
        sigma = self.like.noise * self.like.noise_decay ** (self.episode - self.like.warmup)
        return action_of(truncated(share_of(action[0]), sigma, self.rng))[None], state

    def train(self, gradient_steps, batch_size=64):
        self.episode += 1
        if self.episode >= self.like.warmup:
            with lent(self.like.seed, self.episode, 1):
                super().train(gradient_steps, batch_size)


def test_ask_and_tell_are_learn_bit_for_bit() -> None:
    """The same policies, buffer and weights, where the reward is on the last step only."""
    space, episodes = toy_space(), 40
    budget = Budget(space, half(space).limits, fill=False)  # nothing is topped up after the walk
    settings = {"hidden": (32, 32), "warmup": 15, "critic_lr": 1e-3, "actor_lr": 1e-3, "gradient_steps": 5}
    ours = DDPG(space, budget, seed=3, baseline=0.0, every_step=False, noise_decay=0.98, **settings)
    asked = [trial.policy for trial in drive(ours, episodes)]

    seen: list[Policy] = []

    def score(policy: Policy) -> float:
        seen.append(policy)
        return metric(space, policy)

    with lent(3, 0, 2):
        theirs = Learning(
            "MlpPolicy", Marked(Layerwise(space, budget, score), 8), learning_rate=1e-3, buffer_size=100 * len(space),
            batch_size=64, tau=0.01, gamma=1.0, learning_starts=0, train_freq=(1, "episode"), gradient_steps=5,
            replay_buffer_class=AsWalked, device="cpu",
            policy_kwargs={"net_arch": [32, 32], "optimizer_kwargs": {"fused": True}},
        )  # fmt: skip
    theirs.explore_as(ours)
    theirs.learn(episodes * len(space))

    assert len(set(asked)) == episodes  # nothing was walked anew
    assert seen == asked
    mine = ours.algorithm
    for name, weights in theirs.policy.state_dict().items():
        assert torch.equal(weights, mine.policy.state_dict()[name]), name
    for what in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert np.array_equal(getattr(theirs.replay_buffer, what), getattr(mine.replay_buffer, what)), what


@pytest.mark.parametrize("make", [DDPG, TD3, SAC])
def test_replay_is_exact_to_the_last_weight(make) -> None:
    """A controller that was only told is the one that asked: the same buffer, weights, moments and next policies."""
    space = toy_space()
    old = new(partial(make, **SMALL))
    past = drive(old, 20)
    replayed = new(partial(make, **SMALL))
    for trial in past:
        replayed.tell(trial)
    for name, weights in old.algorithm.policy.state_dict().items():
        assert torch.equal(weights, replayed.algorithm.policy.state_dict()[name]), name
    for part in ("actor", "critic"):
        states = [getattr(c.algorithm, part).optimizer.state_dict()["state"] for c in (old, replayed)]
        assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[0] for key in states[0][i]), part
    buffers = [c.algorithm.replay_buffer for c in (old, replayed)]
    for what in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert getattr(buffers[0], what).tobytes() == getattr(buffers[1], what).tobytes(), what
    assert [t.policy for t in drive(old, 5, 20, space)] == [t.policy for t in drive(replayed, 5, 20, space)]


@pytest.mark.parametrize("make", [DDPG, TD3])
def test_the_walk_takes_what_the_agent_predicts(make) -> None:
    space, controller = toy_space(), new(partial(make, warmup=0, noise=0.0, hidden=(32, 32)))
    for trial in drive(new(Random), 3):
        controller.tell(trial)  # trained, and has asked for nothing that could repeat itself
    walk = Walk(space, half(space))
    prefix = walk.start()
    while not walk.over(prefix):
        action, _ = controller.algorithm.predict(marked(walk.observe(prefix)[None], len(walk))[0])
        prefix = walk.decide(prefix, share_of(action))
    assert controller.ask() == walk.policy(prefix)


def test_each_decision_has_a_feature_of_its_own() -> None:
    space = toy_space()
    walk = Walk(space, half(space))
    seen = walk.replay(half(space).fit(space.dense())).observations
    shown = marked(seen, len(walk))
    assert np.array_equal(shown[:, : seen.shape[1]], seen)
    assert np.array_equal(shown[:-1, seen.shape[1] :], np.eye(8))  # the last is after the last decision
    assert shown.dtype == np.float32
    env = Marked(Layerwise(space, half(space), lambda policy: 0.0), len(walk))
    assert np.array_equal(env.reset()[0], shown[0])
    assert env.observation_space.contains(shown[0])


def test_the_noise_decays_to_the_least_and_no_further() -> None:
    def spread(**noise: float) -> float:
        """How far asks stray from one another, once the noise has decayed."""
        controller = new(partial(DDPG, warmup=0, hidden=(16,), noise_decay=0.1, **noise))
        asked = [toy_space().sparsity(controller.ask()) for _ in range(40)]
        return float(np.std(asked[10:], axis=0).mean())

    assert spread(noise=0.5, least_noise=0.2) > 1.5 * spread(noise=0.5, least_noise=0.05) > 0
    assert spread(noise=0.05, least_noise=0.2) == pytest.approx(spread(noise=0.05, least_noise=0.05))


def test_actor_and_critic_keep_their_own_learning_rates() -> None:
    controller = new(partial(DDPG, warmup=1, hidden=(16,)))
    drive(controller, 4)
    rates = [part.optimizer.param_groups[0]["lr"] for part in (controller.algorithm.actor, controller.algorithm.critic)]
    assert rates == [1e-4, 1e-3]


def test_every_step_of_the_walk_gets_the_final_reward() -> None:
    for every_step in (True, False):
        controller = new(partial(DDPG, every_step=every_step))
        trial = drive(controller, 1)[0]
        rewards = controller.algorithm.replay_buffer.rewards[:8, 0].tolist()
        assert rewards == pytest.approx([trial.reward if every_step else 0.0] * 7 + [trial.reward])


def test_the_baseline_follows_the_batches() -> None:
    controller = new(partial(DDPG, baseline=0.5))
    drive(controller, 2)
    buffer = controller.algorithm.replay_buffer
    with lent(0):
        buffer.rewards[:16] = 1.0
        assert float(buffer.sample(4).rewards.abs().max()) == 0.0  # the average of the first batch is its own
        buffer.rewards[:16] = 2.0
        assert buffer.sample(4).rewards.flatten().tolist() == [0.5] * 4  # 2 - (1 + 2) / 2, and nothing deviates
        buffer.rewards[:16:2] = 6.0  # mean 4, deviation 2
        assert sorted(set(np.diff(np.unique(buffer.sample(64).rewards)))) == [2.0]


def test_the_noise_is_a_truncated_normal() -> None:
    rng = np.random.default_rng(0)
    wide = np.array([truncated(0.3, 0.5, rng) for _ in range(4000)])
    assert 0 <= wide.min() < 0.01
    assert 0.99 < wide.max() <= 1
    assert np.histogram(wide, 10, (0, 1))[0].min() > 200  # nothing heaps up at the ends
    narrow = np.array([truncated(0.3, 0.01, rng) for _ in range(4000)])
    assert (narrow.mean(), narrow.std()) == (pytest.approx(0.3, abs=1e-3), pytest.approx(0.01, rel=0.05))
    assert truncated(0.3, 0.0, rng) == 0.3
    assert [truncated(mean, 1e-9, rng) for mean in (0.0, 1.0)] == pytest.approx([0.0, 1.0], abs=1e-8)


def test_a_policy_that_was_seen_is_walked_anew() -> None:
    quiet = new(partial(DDPG, warmup=0, noise=0.0, hidden=(16,)))
    policies = [quiet.ask() for _ in range(10)]
    assert len(set(policies)) == 10


@pytest.mark.parametrize("make", [DDPG, TD3, SAC])
@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"gradient_steps": 0}, {"replay": 0}, {"warmup": -1}, {"hidden": ()}, {"hidden": (8, 0)},
     {"actor_lr": -1e-3}, {"tau": 1.5}, {"gamma": -0.1}, {"baseline": 2.0}],
)  # fmt: skip
def test_refuses_senseless_settings(make, wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        new(partial(make, **wrong))


def test_refuses_an_entropy_without_weight() -> None:
    with pytest.raises(ConfigError, match="entropy"):
        new(partial(SAC, entropy=0.0))


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"noise_decay": 1.1}, {"least_noise": -0.1}])
def test_refuses_senseless_noise(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        new(partial(DDPG, **wrong))


def test_a_budget_that_need_not_be_filled_is_not_exceeded_nor_filled() -> None:
    space = toy_space()
    budget = Budget(space, half(space, 0.3).limits, fill=False)
    policies = [trial.policy for trial in drive(DDPG(space, budget, **SMALL), 20)]
    assert all(budget.admits(policy) for policy in policies)
    assert any(budget.fit(policy) != Budget(space, budget.limits).fit(policy) for policy in policies)


def test_lending_gives_back_what_it_borrowed() -> None:
    before = global_randomness()
    drawn = []
    for _ in range(2):
        with lent(1, 2):
            drawn.append((float(torch.rand(1)), np.random.random()))
    assert drawn[0] == drawn[1]
    assert global_randomness() == before
