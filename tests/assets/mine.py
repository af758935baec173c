"""A user's own file, for tests: a tiny network on noise, and an evaluator and a controller that take no time."""

from __future__ import annotations

import os

import torch
from torch import nn

from autoprune.structure.prune import prune
from autoprune.structure.trace import Trace
from autoprune.task import Images, Task
from autoprune.values.space import Policy, SearchSpace


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

    def __init__(self, task: Task) -> None:
        self.task = task
        self.count = 0

    def realise(self, policy: object) -> nn.Module:
        self.count += 1
        what, _, at = os.environ.get("MINE_STOP", "never:0").partition(":")
        if self.count == int(at):
            if what == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), 9)
        return self.task.model

    def metric(self, model: nn.Module) -> float:
        return 0.5


class Careful:
    """Judges a network by how many weights it has, and says the opposite when it is careful."""

    def __init__(self, task: Task, trace: Trace, space: SearchSpace, sign: int = 1) -> None:
        self.task, self.trace, self.space, self.sign = task, trace, space, sign

    def realise(self, policy: Policy) -> nn.Module:
        kept = [torch.arange(count).numpy() for count in self.space.kept(policy)]
        return prune(self.task.model, self.trace, kept)

    def metric(self, model: nn.Module) -> float:
        return self.sign * sum(p.numel() for p in model.parameters()) / 1000

    def careful(self) -> Careful:
        return Careful(self.task, self.trace, self.space, -self.sign)
