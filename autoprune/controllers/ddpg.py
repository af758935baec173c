"""AMC (He et al. 2018, https://arxiv.org/abs/1802.03494): an actor-critic agent walks the network group by group.

`ddpg` is the paper's: its state, networks, noise, replay, baseline and rewards, with Stable-Baselines3's DDPG
(Lillicrap 2016, arXiv:1509.02971). `td3` (Fujimoto 2018, arXiv:1802.09477) has two critics and a delayed, smoothed
actor, and `sac` (Haarnoja 2018, arXiv:1801.01290) an actor that is stochastic by itself; they share all else.

Where they depart from the paper's code: policies meet the budget after rounding, and use it up; what is learned is what
was executed; rewards are scaled; a policy that was seen before is not proposed again while others are found; the state
says beside the index which decision it is; some noise stays; and the gradient steps a trial are a setting, not one a
group, so that an agent stays fast on deep networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import stable_baselines3

from autoprune.controllers.sb3 import Agent, Baselined, Marked, OwnRate, at_least, within
from autoprune.controllers.walk.walk import Walk
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial


@dataclass
class DDPG:
    """AMC's agent: deep deterministic policy gradients on a walk over the groups.

    Attributes:
        hidden: units in each hidden layer of actor and critic.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critic.
        tau: share of the way that the target networks move with each gradient step, in (0, 1].
        gamma: discount a step, in [0, 1].
        batch: steps in a batch.
        gradient_steps: batches trained on after each trial.
        warmup: trials with random policies, before training begins.
        noise: standard deviation of the exploration, as a share of each group's largest sparsity.
        noise_decay: factor on the noise with each trial after the warm-up, in [0, 1].
        least_noise: what the noise decays to, where it is not less from the beginning; 0 lets it vanish, as the paper.
        replay: how many trials are remembered.
        baseline: weight of the newest batch in the moving average that is taken off the rewards, in [0, 1]; what is
            left is measured in standard deviations. 0 leaves the rewards as they are.
        every_step: whether the reward is given to every step of a walk, or only to its last.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch: int = 64
    gradient_steps: int = 6
    warmup: int = 100
    noise: float = 0.5
    noise_decay: float = 0.95
    least_noise: float = 0.1
    replay: int = 100
    baseline: float = 0.5
    every_step: bool = True

    def __post_init__(self) -> None:
        _check("ddpg", self)

    def ask(self) -> Policy:
        """A walk with the actor and truncated normal noise; while warming up, at random."""
        return self._agent.ask()

    def tell(self, trial: Trial) -> None:
        """Remember the steps of the executed policy with their reward, and train."""
        self._agent.tell(trial)

    @property
    def algorithm(self) -> Any:
        """The agent of Stable-Baselines3, to look at."""
        return self._agent.algorithm

    @cached_property
    def _agent(self) -> Agent:
        return _agent(self, stable_baselines3.DDPG)


@dataclass
class TD3:
    """Twin delayed DDPG on AMC's walk over the groups.

    Attributes:
        hidden: units in each hidden layer of actor and critics.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.
        tau: share of the way that the target networks move with each of their steps, in (0, 1].
        gamma: discount a step, in [0, 1].
        batch: steps in a batch.
        gradient_steps: batches trained on after each trial.
        warmup: trials with random policies, before training begins.
        noise: standard deviation of the exploration, as a share of each group's largest sparsity.
        noise_decay: factor on the noise with each trial after the warm-up, in [0, 1].
        least_noise: what the noise decays to, where it is not less from the beginning; 0 lets it vanish, as the paper.
        replay: how many trials are remembered.
        baseline: weight of the newest batch in the moving average that is taken off the rewards, in [0, 1]; what is
            left is measured in standard deviations. 0 leaves the rewards as they are.
        every_step: whether the reward is given to every step of a walk, or only to its last.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch: int = 64
    gradient_steps: int = 6
    warmup: int = 100
    noise: float = 0.5
    noise_decay: float = 0.95
    least_noise: float = 0.1
    replay: int = 100
    baseline: float = 0.5
    every_step: bool = True

    def __post_init__(self) -> None:
        _check("td3", self)

    def ask(self) -> Policy:
        """A walk with the actor and truncated normal noise; while warming up, at random."""
        return self._agent.ask()

    def tell(self, trial: Trial) -> None:
        """Remember the steps of the executed policy with their reward, and train."""
        self._agent.tell(trial)

    @property
    def algorithm(self) -> Any:
        """The agent of Stable-Baselines3, to look at."""
        return self._agent.algorithm

    @cached_property
    def _agent(self) -> Agent:
        return _agent(self, stable_baselines3.TD3)


@dataclass
class SAC:
    """Soft actor-critic on AMC's walk over the groups.

    Attributes:
        hidden: units in each hidden layer of actor and critics.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics and of the entropy's weight.
        tau: share of the way that the target networks move with each gradient step, in (0, 1].
        gamma: discount a step, in [0, 1].
        batch: steps in a batch.
        gradient_steps: batches trained on after each trial.
        warmup: trials with random policies, before training begins.
        entropy: first weight of the actor's entropy against the reward, > 0; it then adapts.
        replay: how many trials are remembered.
        baseline: weight of the newest batch in the moving average that is taken off the rewards, in [0, 1]; what is
            left is measured in standard deviations. 0 leaves the rewards as they are.
        every_step: whether the reward is given to every step of a walk, or only to its last.
    """

    space: SearchSpace
    budget: Budget
    seed: int = 0
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    gamma: float = 1.0
    batch: int = 64
    gradient_steps: int = 6
    warmup: int = 100
    entropy: float = 0.1
    replay: int = 100
    baseline: float = 0.5
    every_step: bool = True

    def __post_init__(self) -> None:
        _check("sac", self)

    def ask(self) -> Policy:
        """A walk with the stochastic actor; while warming up, at random."""
        return self._agent.ask()

    def tell(self, trial: Trial) -> None:
        """Remember the steps of the executed policy with their reward, and train."""
        self._agent.tell(trial)

    @property
    def algorithm(self) -> Any:
        """The agent of Stable-Baselines3, to look at."""
        return self._agent.algorithm

    @cached_property
    def _agent(self) -> Agent:
        return _agent(self, stable_baselines3.SAC)


_Any3 = DDPG | TD3 | SAC
_Algorithm = type[stable_baselines3.DDPG] | type[stable_baselines3.TD3] | type[stable_baselines3.SAC]


def _agent(settings: _Any3, algorithm: _Algorithm) -> Agent:
    walk = Walk(settings.space, settings.budget)
    more: dict[str, Any] = {"ent_coef": f"auto_{settings.entropy}"} if isinstance(settings, SAC) else {}

    def make(env: Marked) -> Any:
        made = algorithm(
            "MlpPolicy",
            env,
            learning_rate=settings.critic_lr,
            buffer_size=settings.replay * len(walk),
            batch_size=settings.batch,
            tau=settings.tau,
            gamma=settings.gamma,
            replay_buffer_class=Baselined,
            replay_buffer_kwargs={"weight": settings.baseline},
            policy_kwargs={"net_arch": list(settings.hidden), "optimizer_kwargs": {"fused": True}},
            device="cpu",
            **more,
        )
        made.actor.optimizer = OwnRate(made.actor.parameters(), settings.actor_lr)
        return made

    return Agent(
        walk,
        settings.seed,
        make,
        warmup=settings.warmup,
        noise=0.0 if isinstance(settings, SAC) else settings.noise,
        noise_decay=1.0 if isinstance(settings, SAC) else settings.noise_decay,
        least_noise=0.0 if isinstance(settings, SAC) else settings.least_noise,
        batch=settings.batch,
        gradient_steps=settings.gradient_steps,
        every_step=settings.every_step,
    )


def _check(name: str, settings: _Any3) -> None:
    at_least(name, 1, batch=settings.batch, gradient_steps=settings.gradient_steps, replay=settings.replay)
    at_least(name, 0, warmup=settings.warmup, actor_lr=settings.actor_lr, critic_lr=settings.critic_lr)
    at_least(name, 1, hidden=min(settings.hidden, default=0))
    within(name, 0, 1, tau=settings.tau, gamma=settings.gamma, baseline=settings.baseline)
    if not isinstance(settings, SAC):
        at_least(name, 0, noise=settings.noise, least_noise=settings.least_noise)
        within(name, 0, 1, noise_decay=settings.noise_decay)
    else:
        at_least(name, 1e-9, entropy=settings.entropy)
