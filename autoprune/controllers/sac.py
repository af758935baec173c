"""Soft actor-critic (Haarnoja 2018, arXiv:1801.01290): an actor that is stochastic by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import stable_baselines3

from autoprune.controllers.sb3 import ActorCritic, Noise
from autoprune.values.ranges import Range


@dataclass
class SAC(ActorCritic):
    """Soft actor-critic on AMC's walk over the choices. Its actor explores by itself: there is no noise.

    Attributes:
        entropy: first weight of the actor's entropy against the reward; it then adapts.
    """

    name = "sac"
    learner = stable_baselines3.SAC

    noise: Noise = 0.0
    least_noise: Noise = 0.0
    entropy: Annotated[float, Range(1e-9, 100)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.more = {"ent_coef": f"auto_{self.entropy}"}
