"""A slimmable network as evaluator: weights that all widths share as they are, trained so that every width is good.

Yu et al. 2019, https://arxiv.org/abs/1812.08928, and Yu and Huang 2019, https://arxiv.org/abs/1903.05134: in each step
the widest, the thinnest and some random networks learn (the sandwich rule), all but the widest from the widest one's
outputs (in-place distillation). Nothing is generated, so that a step costs no more than its networks; it needs several
where a PruningNet needs one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.evaluators.oneshot import OneShot, blended
from autoprune.precision import running


class Slimmable(nn.Module):
    """The weights of one network, cut as they are.

    Attributes:
        net: the network of full width.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def full(self, shares: Tensor) -> dict[str, Tensor]:
        """As `autoprune.evaluators.subnets.Weights.full`; the same for all shares."""
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

    epochs: float = 3.0
    drawn: int = 2
    distill: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drawn < 0 or not 0 <= self.distill <= 1:
            raise ConfigError(f"drawn={self.drawn}, distill={self.distill}; at least 0, and one in [0, 1], are needed")

    @property
    def name(self) -> str:
        """Of the evaluator."""
        return "supernet"

    def shared(self, net: nn.Module) -> nn.Module:
        """The slimmable network."""
        return Slimmable(net)

    def lesson(self, step: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the sandwich."""
        widest, thinnest = self.subnets.extremes()
        stream = self.course.stream(step)
        others = [thinnest, *(self.subnets.random(stream) for _ in range(self.drawn))]
        outputs = self._outputs(widest, inputs)
        losses = [self.task.loss(outputs, targets)]
        losses[0].backward()  # type: ignore[no-untyped-call]
        for kept in others:
            narrow = self._outputs(kept, inputs)
            losses.append(blended(narrow, targets, outputs.detach(), self.task.loss, self.distill))
            losses[-1].backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach() for loss in losses]).mean()

    def _outputs(self, kept: Sequence[int], inputs: Tensor) -> Tensor:
        with running(self.course.recipe.precision, inputs.device):
            return self.subnets.outputs(kept, inputs).float()
