"""What an evaluator stands on: a trained network with its data, what of it can be pruned, and which units go first."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from autoprune import criteria
from autoprune.inputs import device_of
from autoprune.protocols import Criterion
from autoprune.structure.prune import Candidate, Units, made, order
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.train import forked
from autoprune.values.space import Policy, SearchSpace


@dataclass(frozen=True)
class Bench:
    """Everything that an evaluator is handed.

    Attributes:
        task: the dense network, which is only read, and its data.
        trace: what the levels of its choices do.
        space: the policies' space.
        criterion: which units stay; asked once, of the dense network.
        seed: of everything random.
        precision: "fp32", "bf16" or "int8", of the score.
        shortcuts: whether as many trials are planned as are needed for what takes half a minute to prepare to pay.
        training: "fp32" or "bf16", of what an evaluator trains.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Criterion
    seed: int = 0
    precision: str = "fp32"
    shortcuts: bool = True
    training: str = "fp32"

    def pruned(self, policy: Policy) -> Candidate:
        """The network of `policy`, a new one with the dense network's weights where they stay."""
        return made(self.task.model, self.trace, policy, self.ranked)

    @cached_property
    def ranked(self) -> list[Units]:
        """The units of each choice, those first that stay longest."""
        with forked(self.seed):
            found = criteria.scores(self.task.model, self.trace, self.criterion, task=self.task, seed=self.seed)
        return order(found)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.task.model)


class Rebuilt:
    """A dataclass that is pickled as what it was made of; what it has prepared since is prepared again."""

    def __reduce__(self) -> tuple[Any, ...]:
        made = {one.name: getattr(self, one.name) for one in fields(self) if one.init}  # type: ignore[arg-type]
        return functools.partial(type(self), **made), ()
