"""A user's own file, for tests of workers: a network with thousands of policies, and an evaluator that is slow."""

from __future__ import annotations

import os
import random
import time
from multiprocessing import get_context

import torch
from torch import nn

from autoprune import Bench, Candidate, Images, Policy, Score, Task


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def split(count: int) -> Images:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 10, (count,), generator=generator), (0.5,), (0.5,))


def make() -> Task:
    return Task(network(), torch.zeros(1, 1, 8, 8), split(64), split(64), split(32), name="slow")


class Slow:
    """Judges by the policy, after half of `seconds` or up to one and a half times that; ends its process if asked to.

    Args:
        deadly: the first level of policies whose worker dies; 0 for none.
    """

    def __init__(self, bench: Bench, seconds: float = 0.2, deadly: int = 0) -> None:
        self.bench, self.seconds, self.deadly = bench, seconds, deadly

    def realise(self, policy: Policy) -> Candidate:
        return self.bench.pruned(policy)

    def recover(self, candidate: Candidate) -> Candidate:
        if self.deadly and candidate.policy.levels[0] == self.deadly and "SLOW_PARENT" not in os.environ:
            os.kill(os.getpid(), 9)
        time.sleep(self.seconds * (0.5 + random.Random(str(candidate.policy.levels)).random()))
        return candidate

    def score(self, candidate: Candidate) -> Score:
        return Score(sum((at + 1) * level for at, level in enumerate(candidate.policy.levels)) / 1000)


class Loads(Slow):
    """Has a process of its own for each score, as a loader of data has."""

    def score(self, candidate: Candidate) -> Score:
        with get_context("fork").Pool(1) as pool:
            return Score(float(pool.apply(abs, (candidate.policy.levels[0],))))
