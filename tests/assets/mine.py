"""A user's own file, for tests: a tiny network on noise, and an evaluator and a controller that take no time."""

from __future__ import annotations

import dataclasses
import os

import torch
from torch import nn

from autoprune import Bench, Candidate, Images, Policy, Score, Task


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


def split(count: int) -> Images:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 10, (count,), generator=generator), (0.5,), (0.5,))


def make(nan: bool = False, broken: bool = False) -> Task:
    """A tiny task.

    Args:
        nan: whether a weight is NaN.
        broken: whether the last layer does not fit.
    """
    model = network()
    if nan:
        nn.init.constant_(model[0].weight, float("nan"))
    if broken:
        model[-1] = nn.Linear(13, 10)
    return Task(model, torch.zeros(1, 1, 8, 8), split(256), split(64), split(32), name="mine")


def wrong() -> int:
    return 3


class Constant:
    """Judges every network alike; stops, as a person or the system would, at the realisation in MINE_STOP."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.count = 0

    def realise(self, policy: Policy) -> Candidate:
        self.count += 1
        what, _, at = os.environ.get("MINE_STOP", "never:0").partition(":")
        if self.count == int(at):
            if what == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), 9)
        return Candidate(policy, self.bench.task.model)

    def recover(self, candidate: Candidate) -> Candidate:
        return candidate

    def score(self, candidate: Candidate) -> Score:
        return Score(0.5)


class Careful:
    """Judges a network by how many weights it has, and says the opposite when it is careful."""

    def __init__(self, bench: Bench, sign: int = 1) -> None:
        self.bench, self.sign = bench, sign

    def realise(self, policy: Policy) -> Candidate:
        return self.bench.pruned(policy)

    def recover(self, candidate: Candidate) -> Candidate:
        return candidate

    def score(self, candidate: Candidate) -> Score:
        return Score(self.sign * sum(p.numel() for p in candidate.model.parameters()) / 1000)

    def careful(self) -> Careful:
        return Careful(dataclasses.replace(self.bench), -self.sign)


class OldEvaluator:
    """Of the protocol before `recover` and `score`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def realise(self, policy: Policy) -> nn.Module:
        return self.bench.task.model

    def metric(self, model: nn.Module) -> float:
        return 0.5


class OlderEvaluator(OldEvaluator):
    """Of the protocol before the bench."""

    def __init__(self, task: Task) -> None:
        self.task = task


class OldController:
    """Proposes sparsities, as policies once held."""

    def __init__(self, space: object, budget: object, seed: int = 0) -> None:
        self.space = space

    def ask(self) -> Policy:
        return Policy((0.5, 0.5))  # type: ignore[arg-type]

    def tell(self, trial: object) -> None:
        pass
