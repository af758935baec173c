"""AMC's agent (He et al. 2018, https://arxiv.org/abs/1802.03494): deep deterministic policy gradients.

The paper's state, networks, noise, replay, baseline and rewards, with Stable-Baselines3's DDPG (Lillicrap 2016,
arXiv:1509.02971). Where it departs from the paper's code is said in `controllers.sb3`.
"""

from __future__ import annotations

from dataclasses import dataclass

import stable_baselines3

from autoprune.controllers.sb3 import ActorCritic


@dataclass
class DDPG(ActorCritic):
    """AMC's agent: deep deterministic policy gradients on a walk over the choices."""

    name = "ddpg"
    learner = stable_baselines3.DDPG
