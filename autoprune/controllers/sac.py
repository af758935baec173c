"""Soft actor-critic (Haarnoja 2018, arXiv:1801.01290): an actor that is stochastic by itself."""

from __future__ import annotations

from dataclasses import dataclass

import stable_baselines3

from autoprune.controllers.sb3 import ActorCritic, at_least


@dataclass
class SAC(ActorCritic):
    """Soft actor-critic on AMC's walk over the choices. Its actor explores by itself: there is no noise.

    Attributes:
        entropy: first weight of the actor's entropy against the reward, > 0; it then adapts.
    """

    name = "sac"
    learner = stable_baselines3.SAC

    noise: float = 0.0
    least_noise: float = 0.0
    entropy: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 1e-9, entropy=self.entropy)
        self.more = {"ent_coef": f"auto_{self.entropy}"}
