"""The environment, for Gymnasium, for Stable-Baselines3, and what an episode is."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import stable_baselines3
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from autoprune.controllers.walk.environment import NAME, Layerwise, action_of, share_of
from autoprune.errors import ConfigError
from autoprune.testing.surrogate import half, metric, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Policy

SPACE = toy_space()


def made() -> gymnasium.Env:
    return gymnasium.make(NAME, space=SPACE, budget=half(SPACE), score=lambda policy: metric(SPACE, policy))


@pytest.mark.filterwarnings("error")
def test_passes_the_checks_of_gymnasium_and_stable_baselines3() -> None:
    check_env(made().unwrapped)
    sb3_check_env(made())


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_others_learn_on_it_in_one_line(algorithm: str) -> None:
    settings = {"n_steps": 32, "batch_size": 32} if algorithm == "PPO" else {"learning_starts": 16}
    getattr(stable_baselines3, algorithm)("MlpPolicy", made(), device="cpu", **settings).learn(32)


def test_an_episode_is_a_policy_that_uses_the_budget() -> None:
    scored: list[Policy] = []

    def score(policy: Policy) -> float:
        scored.append(policy)
        return 0.25

    env = Layerwise(SPACE, half(SPACE), score)
    env.action_space.seed(0)
    for _ in range(20):
        env.reset()
        steps = [env.step(env.action_space.sample()) for _ in SPACE]
        assert [over for _, _, over, _, _ in steps] == [False] * 7 + [True]
        assert [reward for _, reward, *_ in steps] == [0.0] * 7 + [0.25]
        policy = steps[-1][-1]["policy"]
        assert scored[-1] == policy == half(SPACE).fit(policy)
    assert len(scored) == 20


def test_says_what_an_action_was_turned_into() -> None:
    env = Layerwise(SPACE, half(SPACE), lambda policy: 0.0)
    env.reset()
    executed = [env.step(action_of(0.0))[-1]["action"] for _ in SPACE]
    assert executed[0] == action_of(0.0)  # the first may stay dense, the last may not
    assert executed[-1] == action_of(1.0)
    for share in np.linspace(0, 1, 11):
        assert share_of(action_of(share)) == pytest.approx(share)
    assert share_of(np.array([7.0], dtype=np.float32)) == 1.0


def test_needs_something_to_decide() -> None:
    space = toy_space(step=64)
    with pytest.raises(ConfigError, match="toy leaves no choice"):
        Layerwise(space, Budget(space), lambda policy: 0.0)


def test_gymnasium_finds_it_by_its_address() -> None:
    script = (
        "import gymnasium; from autoprune.testing.surrogate import toy_space, half; space = toy_space()\n"
        f"gymnasium.make('autoprune.env:{NAME}', space=space, budget=half(space), score=lambda p: 0.0)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
