"""Twin delayed DDPG (Fujimoto 2018, arXiv:1802.09477): two critics and a delayed, smoothed actor."""

from __future__ import annotations

from dataclasses import dataclass

import stable_baselines3

from autoprune.controllers.sb3 import ActorCritic


@dataclass
class TD3(ActorCritic):
    """Twin delayed DDPG on AMC's walk over the choices."""

    name = "td3"
    learner = stable_baselines3.TD3
