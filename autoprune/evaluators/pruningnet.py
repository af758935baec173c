"""MetaPruning's evaluator: a PruningNet generates the weights of any width vector, so that none is trained.

Liu et al. 2019, https://arxiv.org/abs/1903.10258. For each convolution and linear layer that a group prunes, two small
fully connected layers turn the widths about it into its kernel at full width, of which a network takes the corner that
it keeps. Where widths are shared, by residual sums or concatenations, the trace says so. What is not a kernel (biases,
normalisations, layers that nothing prunes) is shared by all widths, as in Yu and Huang 2019,
https://arxiv.org/abs/1903.05134; statistics of BatchNorm are estimated for each network, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.precision import running
from autoprune.evaluators.shared.shared_weights import OneShot, blended
from autoprune.evaluators.shared.subnets import Weights
from autoprune.inputs import Inputs, call, moved
from autoprune.structure.prune import Units
from autoprune.structure.trace import Trace
from autoprune.train import teacher_of
from autoprune.values.ranges import Range
from autoprune.values.space import SearchSpace

Groups = tuple[int, ...]  # positions in the space


class Generator(Weights):
    """The kernels of every width vector; the other parameters of `net` are shared by all widths.

    A kernel is the second layer's bias, which is the kernel of `net`, and what the second layer makes of the hidden
    units: it begins as the kernel of `net` for all widths, and training makes them differ.
    """

    def __init__(self, net: nn.Module, ranked: Sequence[Units], seen: Mapping[str, Groups], hidden: int) -> None:
        """`seen` are the groups, at least one, whose widths each generated tensor depends on."""
        super().__init__(net, ranked)
        self._seen = {name: list(groups) for name, groups in seen.items()}
        self._first, self._second = nn.ModuleDict(), nn.ParameterDict()
        for name, groups in seen.items():
            kernel = net.get_parameter(name).detach()
            self._first[_key(name)] = nn.Linear(len(groups), hidden, device=kernel.device, dtype=kernel.dtype)
            self._second[_key(name)] = nn.Parameter(kernel.new_zeros(kernel.numel(), hidden))

    def full(self, shares: Tensor) -> dict[str, Tensor]:
        """As `Weights.full`."""
        found: dict[str, Tensor] = dict(self.net.named_parameters())
        for name, groups in self._seen.items():
            hidden = self._first[_key(name)](shares[groups]).relu()  # (hidden,)
            found[name] = found[name] + (self._second[_key(name)] @ hidden).view_as(found[name])
        return found


def _key(name: str) -> str:
    """A tensor's name as torch lets modules be called."""
    return name.replace(".", "/")


def widths_about(model: nn.Module, trace: Trace, space: SearchSpace) -> dict[str, Groups]:
    """For each kernel that is pruned, the groups that prune it and those of the layers before and after it.

    Groups of which nothing may leave are left out, and kernels that are frozen in `model`.
    """
    own: dict[str, set[int]] = {}
    for place, (cuts, choice) in enumerate(zip(trace.slices, space, strict=True)):
        for cut in cuts if len(choice.levels) > 1 else ():
            module = model.get_submodule(cut.tensor.rpartition(".")[0])
            kernel = isinstance(module, _ConvNd | nn.Linear) and cut.tensor.endswith("weight")
            if kernel and model.get_parameter(cut.tensor).requires_grad:
                own.setdefault(cut.tensor, set()).add(place)
    ran = {op.name: place for place, op in enumerate(trace.ops)}
    names = sorted(own, key=lambda name: ran.get(name.removesuffix(".weight"), len(ran)))
    return {
        name: tuple(sorted(set().union(*(own[near] for near in names[max(at - 1, 0) : at + 2]))))
        for at, name in enumerate(names)
    }


@dataclass
class PruningNet(OneShot):
    """Train a network that generates the weights of any widths, once; then score policies without training any.

    Stochastic training: each step draws new widths, every number that a group may keep being equally likely. The
    trained weights, `pruningnet.safetensors`, lie in the run's directory and can be used by other runs.

    Attributes:
        hidden: units between the two layers; the PruningNet has `hidden` + 1 times the pruned kernels' parameters.
        distill: weight of the dense network's outputs in the loss, in [0, 1]; the rest is the labels'.
    """

    name: ClassVar[str] = "pruningnet"

    hidden: Annotated[int, Range(1, 4096)] = 32

    @property
    def about(self) -> dict[str, object]:
        """Settings in which a file of trained weights must agree."""
        return {**super().about, "hidden": self.hidden}

    def shared(self, net: nn.Module, ranked: Sequence[Units]) -> Weights:
        """The PruningNet."""
        return Generator(net, ranked, widths_about(net, self.bench.trace, self.bench.space), self.hidden)

    def lesson(self, step: int, inputs: Inputs, targets: Any) -> Tensor:
        """The loss of a network of random widths."""
        outputs = self._outputs(self.subnets.random(self.course.stream(step)), inputs)
        taught = self._taught_by(inputs) if self.distill else None
        loss = blended(outputs, targets, taught, self.bench.task.loss, self.distill)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _taught_by(self, inputs: Inputs) -> Any:
        """What the dense network gives."""
        with torch.no_grad(), running(self.course.recipe.precision, self.bench.device):
            return moved(call(self._teacher, inputs), torch.float32)

    @cached_property
    def _teacher(self) -> nn.Module:
        return teacher_of(self.bench.task.model)
