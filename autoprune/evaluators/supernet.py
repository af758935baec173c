"""A slimmable network as evaluator: weights that all widths share as they are, trained so that every width is good.

Yu et al. 2019, https://arxiv.org/abs/1812.08928, and Yu and Huang 2019, https://arxiv.org/abs/1903.05134: in each step
the widest, the thinnest and some random networks learn (the sandwich rule), all but the widest from the widest one's
outputs (in-place distillation). Nothing is generated, so that a step costs no more than its networks; it needs several
where a PruningNet needs one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.evaluators.shared.shared_weights import OneShot, blended
from autoprune.evaluators.shared.subnets import Weights
from autoprune.inputs import Inputs, mapped
from autoprune.structure.prune import Units
from autoprune.task import loss_of
from autoprune.values.ranges import LearningRate, Range, Share


class Slimmable(Weights):
    """The weights of one network, cut as they are."""

    def full(self, shares: Tensor) -> dict[str, Tensor]:
        """As `Weights.full`; the same for all shares."""
        return dict(self.net.named_parameters())


@dataclass
class Supernet(OneShot):
    """Train one network to be good at any widths (slimmable), then score policies without training any.

    Each step: the widest network learns from the labels, the thinnest and `drawn` random ones from its outputs. The
    trained weights, `supernet.safetensors`, lie in the run's directory and can be used by other runs.

    Attributes:
        drawn: random networks a step, besides the widest and the thinnest.
        distill: weight of the widest network's outputs in the others' loss, in [0, 1]; the rest is the labels'.
    """

    name: ClassVar[str] = "supernet"

    epochs: Annotated[float, Range(0, 10_000, above=True)] = 3.0
    lr: LearningRate = 0.05
    distill: Share = 1.0
    drawn: Annotated[int, Range(0, 100)] = 2

    @property
    def lessons(self) -> dict[str, object]:
        """Settings that a training step depends on."""
        return {**super().lessons, "drawn": self.drawn}

    def shared(self, net: nn.Module, ranked: Sequence[Units]) -> Weights:
        """The slimmable network."""
        return Slimmable(net, ranked)

    def lesson(self, step: int, inputs: Inputs, targets: Any) -> Tensor:
        """The mean loss of the sandwich; its gradients are added up, as published."""
        space, loss, stream = self.bench.space, self.bench.task.loss, self.course.stream(step)
        others = [space.thinnest().levels, *(self.subnets.random(stream) for _ in range(self.drawn))]
        outputs = self._outputs(space.dense().levels, inputs)
        losses = [loss_of(loss, outputs, targets)]
        losses[0].backward()  # type: ignore[no-untyped-call]
        for widths in others:
            narrow = self._outputs(widths, inputs)
            losses.append(blended(narrow, targets, mapped(outputs, Tensor.detach), loss, self.distill))
            losses[-1].backward()  # type: ignore[no-untyped-call]
        return torch.stack([one.detach() for one in losses]).mean()
