"""The walk as a Gymnasium environment, for any agent that speaks that language.

    import autoprune.env  # makes the name known to Gymnasium, which no longer finds the environments of others itself

    env = gymnasium.make("autoprune/Layerwise-v0", space=space, budget=budget, score=score)
    stable_baselines3.PPO("MlpPolicy", env).learn(10_000)

(or `gymnasium.make("autoprune.env:autoprune/Layerwise-v0", ...)` without the import). One step is one choice,
one episode one policy. Every action is valid; what it was turned into, to meet levels and budget, is in
`info["action"]`. The reward is 0 but for the last step, whose `info["policy"]` says what was scored: the walk's policy,
topped up to the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from autoprune.controllers.walk.walk import Observation, Prefix, Walk
from autoprune.errors import ConfigError
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace

NAME = "autoprune/Layerwise-v0"

Action = NDArray[np.float32]  # (1,), in [-1, 1]: from nothing removed to all that may be
Score = Callable[[Policy], float]


class Layerwise(gymnasium.Env[Observation, Action]):
    """Decides the sparsity of one choice after the other.

    Args:
        space: what may be decided.
        budget: what every policy has to meet.
        score: the reward of a policy; called once an episode.
    """

    def __init__(self, space: SearchSpace, budget: Budget, score: Score) -> None:
        self._walk, self._score = Walk(space, budget), score
        if not len(self._walk):
            raise ConfigError(f"{space.name} leaves no choice; an environment needs at least one decision")
        self._prefix: Prefix = self._walk.start()
        features = self._walk.observe(self._prefix).shape
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, features, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)  # symmetric, as most agents expect

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin anew. Nothing here is random."""
        super().reset(seed=seed)
        self._prefix = self._walk.start()
        return self._walk.observe(self._prefix), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide one choice."""
        here = len(self._prefix)
        self._prefix = self._walk.decide(self._prefix, share_of(action))
        info: dict[str, Any] = {"action": action_of(self._walk.executed(self._prefix, here))}
        over, reward = self._walk.over(self._prefix), 0.0
        if over:
            info["policy"] = policy = self._walk.policy(self._prefix)
            reward = float(self._score(policy))
        return self._walk.observe(self._prefix), reward, over, False, info


def share_of(action: Action) -> float:
    """[-1, 1] -> [0, 1]; what is outside is clipped."""
    return min(max((float(action[0]) + 1.0) / 2.0, 0.0), 1.0)


def action_of(share: float) -> Action:
    """[0, 1] -> [-1, 1]."""
    return np.array([2.0 * share - 1.0], dtype=np.float32)


if NAME not in gymnasium.registry:
    gymnasium.register(NAME, entry_point="autoprune.controllers.walk.environment:Layerwise")
