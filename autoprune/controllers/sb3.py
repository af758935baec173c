"""What the actor-critic controllers share: an agent of Stable-Baselines3, driven by ask and tell.

Stable-Baselines3 owns the networks, the replay buffer and the gradient steps; the loop stays with the driver, which is
possible because nothing is evaluated during a walk. `ask` walks with the actor. `tell` rebuilds the steps from the
policy that was told, whoever proposed it, fills the replay buffer and trains: what is learned is what was executed,
after levels, wall and top-up. Only public names of Stable-Baselines3 are used.

Where they depart from AMC's code: policies meet the budget after rounding, and use it up; what is learned is what was
executed; rewards are scaled; a policy that was seen before is not proposed again while others are found; the state says
beside the index which decision it is; some noise stays; and the gradient steps a trial are a setting, not one a choice,
so that an agent stays fast on deep networks (docs/decisions/0003).

Replay is exact: the n-th ask draws from stream (seed, n) and the n-th training from a stream of its own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from autoprune.controllers.walk.environment import Action, Layerwise, action_of, share_of
from autoprune.controllers.walk.walk import Observation, Walk
from autoprune.errors import ConfigError
from autoprune.values.asks import Asks
from autoprune.values.budget import Budget
from autoprune.values.ranges import Batch, Few, Range, Share, require
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial

Width = Annotated[int, Range(1, 4096)]
AdamRate = Annotated[float, Range(0, 1)]
Noise = Annotated[float, Range(0, 10)]
_TRIES = 6  # walks for one ask, as long as they end at policies that were seen before
_ANEW = 0.05  # least noise of a second walk, in shares; doubled for each further one


@dataclass
class ActorCritic:
    """An agent on AMC's walk over the choices.

    Attributes:
        hidden: units in each hidden layer of actor and critics.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.
        tau: share of the way that the target networks move with each gradient step, in (0, 1].
        gamma: discount a step, in [0, 1].
        batch: steps in a batch.
        gradient_steps: batches trained on after each trial.
        warmup: trials with random policies, before training begins.
        noise: standard deviation of the exploration, as a share of each choice's largest sparsity.
        noise_decay: factor on the noise with each trial after the warm-up, in [0, 1].
        least_noise: what the noise decays to, where it is not less from the beginning; 0 lets it vanish, as the paper.
        replay: how many trials are remembered.
        baseline: weight of the newest batch in the moving average that is taken off the rewards, in [0, 1]; what is
            left is measured in standard deviations. 0 leaves the rewards as they are.
        every_step: whether the reward is given to every step of a walk, or only to its last.
    """

    unadvised: ClassVar[bool] = True
    marks: ClassVar[bool] = True  # whether it is told which decision it is, which ties it to their number

    name: ClassVar[str]
    learner: ClassVar[type[OffPolicyAlgorithm]]

    space: SearchSpace
    budget: Budget
    seed: int = 0
    hidden: tuple[Width, ...] = (300, 300)
    actor_lr: AdamRate = 1e-4
    critic_lr: AdamRate = 1e-3
    tau: Share = 0.01
    gamma: Share = 1.0
    batch: Batch = 64
    gradient_steps: Few = 6
    warmup: Annotated[int, Range(0, 1_000_000)] = 100
    noise: Noise = 0.5
    noise_decay: Share = 0.95
    least_noise: Noise = 0.1
    replay: Annotated[int, Range(1, 100_000)] = 100
    baseline: Share = 0.5
    every_step: bool = True

    def __post_init__(self) -> None:
        require(self)
        if not self.hidden:
            raise ConfigError(f"{self.name} has hidden = []: one width at least is right, such as [300, 300]")
        self.more: Mapping[str, Any] = {}  # what the learner takes besides
        self._walk, self._asks = Walk(self.space, self.budget), Asks(self.budget, self.seed)

    def ask(self) -> Policy:
        """The end of a walk with exploration.

        A policy that was seen before teaches nothing, so the walk is then repeated with more noise, a few times.
        """
        number, rng = self._asks.asked, self._asks.dice()
        for attempt in range(_TRIES):
            policy = self._walk_once(number, attempt, rng)
            if policy not in self._asks.seen:
                break
        return self._asks.fresh(policy)

    def tell(self, trial: Trial) -> None:
        """Learn from the executed policy and its reward; of a failed trial only that it was tried."""
        self._asks.tell(trial)
        if trial.reward is None or not len(self._walk):
            return
        self._remember(trial.policy, trial.reward)
        if self._asks.told >= self.warmup:
            with lent(self.seed, self._asks.told, 1):
                self.algorithm.train(gradient_steps=self.gradient_steps, batch_size=self.batch)

    @cached_property
    def algorithm(self) -> OffPolicyAlgorithm:
        """The agent of Stable-Baselines3."""
        make: Any = self.learner
        plain = Layerwise(self.space, self.budget, _unscored)
        with lent(self.seed, 0, 2):
            made: Any = make(
                "MlpPolicy",
                Marked(plain, len(self._walk)) if self.marks else plain,
                learning_rate=self.critic_lr,
                buffer_size=self.replay * len(self._walk),
                batch_size=self.batch,
                tau=self.tau,
                gamma=self.gamma,
                replay_buffer_class=Baselined,
                replay_buffer_kwargs={"weight": self.baseline},
                policy_kwargs={"net_arch": list(self.hidden), "optimizer_kwargs": {"fused": True}},
                device="cpu",
                **self.more,
            )
            made.actor.optimizer = OwnRate(made.actor.parameters(), self.actor_lr)
        made.set_logger(Logger(None, []))
        agent: OffPolicyAlgorithm = made
        return agent

    def _walk_once(self, number: int, attempt: int, rng: np.random.Generator) -> Policy:
        prefix = self._walk.start()
        if number < self.warmup:
            while not self._walk.over(prefix):
                prefix = self._walk.decide(prefix, rng.random())
            return self._walk.policy(prefix)
        sigma = max(self.noise * self.noise_decay ** (number - self.warmup), min(self.least_noise, self.noise))
        sigma = max(sigma, _ANEW) * 2**attempt if attempt else sigma
        with lent(self.seed, number, 3, attempt), torch.no_grad():  # a stochastic actor draws from the generators
            while not self._walk.over(prefix):
                share = truncated(self._share(self._walk.observe(prefix)), sigma, rng)
                prefix = self._walk.decide(prefix, share)
        return self._walk.policy(prefix)

    def _share(self, observation: Observation) -> float:
        """What the actor says. `predict` says the same, at three times the cost."""
        seen = torch.from_numpy(self._seen(observation[None]))  # (1, features)
        return share_of(self.algorithm.actor(seen)[0].numpy())

    def _seen(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the agent sees of a walk's observations, (n, features)."""
        return marked(observations, len(self._walk)) if self.marks else observations

    def _remember(self, policy: Policy, reward: float) -> None:
        """Put the steps of `policy` in the replay buffer."""
        buffer = self.algorithm.replay_buffer
        assert buffer is not None
        episode = self._walk.replay(policy)
        observations, shares = self._seen(episode.observations), episode.shares
        last = len(shares) - 1
        for t, share in enumerate(shares):
            earned = np.array([reward if self.every_step or t == last else 0.0])
            before, after = observations[t : t + 1], observations[t + 1 : t + 2]
            buffer.add(before, after, action_of(share)[None], earned, np.array([t == last]), [{}])


class Baselined(ReplayBuffer):
    """Takes off the rewards of each batch a moving average of the batches' mean rewards, as AMC does.

    What is left is measured in standard deviations of all remembered rewards, since rewards that differ by hundredths
    would drown in what a new critic says at random.

    Args:
        weight: of the newest batch in the average; 0 leaves the rewards as they are.
    """

    def __init__(self, *args: Any, weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weight, self._average = weight, float("nan")

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """A batch, less the average."""
        batch = super().sample(batch_size, env)
        if not self._weight:
            return batch
        mean = float(batch.rewards.mean())
        old = mean if np.isnan(self._average) else self._average
        self._average = old + self._weight * (mean - old)
        scale = float(self.rewards[: self.size()].std()) or 1.0
        return batch._replace(rewards=(batch.rewards - self._average) / scale)


class Marked(gymnasium.ObservationWrapper[Observation, Action, Observation]):
    """The environment as the agents see it, with one feature more for each of its decisions: see `marked`."""

    def __init__(self, env: Layerwise, decisions: int) -> None:
        super().__init__(env)
        self._decisions = decisions
        shape = self.observation(env.reset()[0]).shape
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)

    def observation(self, observation: Observation) -> Observation:
        """What is seen, marked."""
        both: Observation = marked(observation[None], self._decisions)[0]
        return both


class OwnRate(torch.optim.Adam):
    """Adam with a learning rate of its own: Stable-Baselines3 gives actor and critic one and the same each time."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr, fused=True)
        self._rate = lr

    def step(self, closure: Any = None) -> Any:
        """One step at that rate."""
        for group in self.param_groups:
            group["lr"] = self._rate
        return super().step(closure)


def marked(observations: NDArray[np.float32], decisions: int) -> NDArray[np.float32]:
    """(n, features) -> (n, features + decisions): and which decision it is, 1 at that one and 0 at the others.

    A layer's neighbours look almost as it does, the index apart, and small networks learn functions that are smooth in
    an index: without these features, what is learned about one layer is believed of the next ones.
    """
    index = np.rint(observations[:, 0] * (decisions - 1)).astype(np.intp)  # it runs from 0 to 1
    wide = np.zeros((len(observations), observations.shape[1] + decisions), dtype=np.float32)
    wide[:, : observations.shape[1]] = observations
    wide[np.arange(len(index)), observations.shape[1] + index] = 1.0
    return wide


def truncated(mean: float, sigma: float, rng: np.random.Generator) -> float:
    """A draw from the normal distribution about `mean`, truncated to [0, 1]; the mean itself where `sigma` is 0."""
    chance = rng.random()
    if sigma <= 0:
        return mean
    low, high = ndtr(-mean / sigma), ndtr((1.0 - mean) / sigma)
    return min(max(float(mean + sigma * ndtri(low + chance * (high - low))), 0.0), 1.0)


@contextlib.contextmanager
def lent(*seed: int) -> Iterator[None]:
    """Inside, the global generators, which Stable-Baselines3 draws from, are seeded; afterwards they are as before.

    So is the number of threads, which is one inside: networks this small are slower on several, and sums taken in
    another order would be other sums.
    """
    before, threads = (random.getstate(), np.random.get_state(), torch.get_rng_state()), torch.get_num_threads()
    torch.set_num_threads(1)
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)  # the processor's: no other is drawn from
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        torch.set_num_threads(threads)


def _unscored(policy: Policy) -> float:
    """The reward is told later."""
    return 0.0
