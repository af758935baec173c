"""Reconstruction layer by layer: each layer is fitted to what the layers before it have become.

`reconstruct` solves for every layer as if the others were still dense, so that errors add up along the network. Here
calibration images run through the pruned network once, and each layer, when they arrive at it, gets the weight on its
own inputs that comes nearest to the dense network's outputs: the asymmetric form of He et al. 2017,
https://arxiv.org/abs/1707.06168, for every layer and not only for those behind pruned channels. The same pass
re-estimates the BatchNorm statistics. It costs more than `reconstruct` and leaves less of the error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.copies import copied
from autoprune.engine.memory import laid_out
from autoprune.engine.precision import running
from autoprune.errors import TrialFailed
from autoprune.evaluators.bench import Bench, Rebuilt
from autoprune.evaluators.recovery import columns
from autoprune.evaluators.recovery.batchnorm import reestimating
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.least_squares import Columns, Positions, Ridge
from autoprune.evaluators.recovery.recovery import Ready
from autoprune.evaluators.recovery.sampling import counting
from autoprune.inputs import Inputs, call, device_of, moved
from autoprune.protocols import Score
from autoprune.structure.prune import Candidate, Stay
from autoprune.structure.skipped import inside
from autoprune.train import forked
from autoprune.values.ranges import Samples, SomeSamples, require
from autoprune.values.space import Policy

Rows = Mapping[str, Tensor]  # by layer, which of its dense outputs stay
Visit = Callable[[nn.Module, Tensor], None]


@dataclass
class ReconstructSequential(Rebuilt):
    """Prune, fit each layer to the dense one's outputs and re-estimate BatchNorm statistics in one pass, score.

    Fitted are plain convolutions and linear layers of at most `columns` input columns (channels x kernel positions)
    that have two samples a column; `notes` names those that keep their weights.

    Memory: all `images` run as one batch, and 4 x `images` x `positions` bytes for every output channel of a fitted
    layer are held.

    Attributes:
        images: training images that the layers are fitted and statistics estimated on.
        positions: random output positions of each image that a layer is fitted on.
        ridge: strength of the pull towards the pruned layer's weights, relative to an input's mean square.
        columns: most columns of a layer that is fitted.
        holdout: holdout images, drawn by the seed, that score a trial; 0 takes them all.
    """

    bench: Bench
    images: SomeSamples = 512
    positions: Positions = 16
    ridge: Ridge = 1e-2
    columns: Columns = 4608
    holdout: Samples = 0

    def __post_init__(self) -> None:
        require(self)
        self._fast = Fast(self.bench, counting(0, self.holdout), self.realise)

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, not recovered yet."""
        return self.bench.pruned(policy)

    def recover(self, candidate: Candidate) -> Ready:
        """The same with other weights and statistics; one that is not pruned keeps its weights."""
        model = candidate.model
        rows = {k: mask for k, mask in self._outputs(candidate.stay).items() if not inside(k, candidate.gone)}
        with forked(self.bench.seed), ExitStack() as stack:
            for layer in rows:
                stack.enter_context(_first_call(model.get_submodule(layer), self._fit(layer, rows[layer])))
            stack.enter_context(reestimating(model))
            _forward(model, self._batch, self.bench.precision)
        return self._fast.recover(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)

    def careful(self) -> ReconstructSequential:
        """The same in full precision, on the whole holdout."""
        return dataclasses.replace(self, bench=dataclasses.replace(self.bench, precision="fp32"), holdout=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """The layers that are not fitted, and how scores are computed."""
        left = [layer for layer in _multiplying(self.bench.task.model) if layer not in self._targets]
        found = (f"Reconstruction left the weights of {', '.join(left)} as they are.",) if left else ()
        return (*found, *self._fast.notes)

    def _outputs(self, masks: Stay) -> Rows:
        """Of the layers to be fitted; none if nothing is pruned."""
        every = {layer: torch.ones(outputs.shape[1], dtype=torch.bool) for layer, outputs in self._targets.items()}
        cut = {layer: masks.get(f"{layer}.weight", {}).get(0) for layer in every}
        return {k: every[k] if rows is None else torch.from_numpy(rows) for k, rows in cut.items()} if masks else {}

    def _fit(self, layer: str, rows: Tensor) -> Visit:
        """Change the weight of a layer, given its inputs."""

        def fit(module: nn.Module, inputs: Tensor) -> None:
            assert isinstance(module.weight, Tensor)
            samples = self._columns(module, inputs)
            wanted = self._targets[layer][:, rows.to(inputs.device)]
            error = wanted - samples @ module.weight.flatten(1).T
            if isinstance(module.bias, Tensor):
                mean, offset = samples.mean(0), error.mean(0)
                change = _ridge(samples - mean, error - offset, self.ridge)
                module.bias += offset - change @ mean
            else:
                change = _ridge(samples, error, self.ridge)
            module.weight += change.view_as(module.weight)

        return fit

    def _columns(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The same positions of the same images each time."""
        generator = torch.Generator().manual_seed(self.bench.seed)
        return columns.columns(module, inputs.float(), self.positions, generator)

    @cached_property
    def _batch(self) -> Inputs:
        generator = torch.Generator().manual_seed(self.bench.seed)
        drawn, _ = next(self.bench.task.calibration.shuffled(self.images, generator))
        return laid_out(drawn)

    @cached_property
    def _targets(self) -> dict[str, Tensor]:
        """What each layer that can be fitted adds to its bias in the dense network, (samples, outputs)."""
        twin = copied(self.bench.task.model).eval()
        found: dict[str, Tensor] = {}

        def look(layer: str) -> Visit:
            def visit(module: nn.Module, inputs: Tensor) -> None:
                assert isinstance(module.weight, Tensor)
                samples = self._columns(module, inputs)
                if len(samples) >= columns.ENOUGH * samples.shape[1]:
                    found[layer] = samples @ module.weight.flatten(1).T

            return visit

        with forked(self.bench.seed), ExitStack() as stack:
            for layer in columns.plain(twin, self.columns):
                stack.enter_context(_first_call(twin.get_submodule(layer), look(layer)))
            _forward(twin, self._batch, "fp32")
        return found


def _forward(model: nn.Module, inputs: Inputs, precision: str) -> None:
    device = device_of(model)
    with torch.no_grad(), running(precision, device):
        call(model, moved(inputs, device))


def _multiplying(model: nn.Module) -> list[str]:
    """Every layer with a matrix or kernel for a weight."""
    named = ((name, getattr(module, "weight", None)) for name, module in model.named_modules())
    return [name for name, weight in named if isinstance(weight, Tensor) and weight.dim() > 1]


def _ridge(inputs: Tensor, outputs: Tensor, strength: float) -> Tensor:
    """The least-squares weight (outputs, columns) from (n, columns) to (n, outputs) with a ridge towards zero."""
    gram = (inputs.T @ inputs).double()
    gram.diagonal().add_(max(strength * float(gram.diagonal().mean()), 1e-12))
    factor, wrong = torch.linalg.cholesky_ex(gram)
    if wrong:
        raise TrialFailed(f"the inputs of a layer are not finite or too alike; ridge={strength} may be too small")
    return torch.cholesky_solve((inputs.T @ outputs).double(), factor).T.float()


@contextmanager
def _first_call(module: nn.Module, visit: Visit) -> Iterator[None]:
    """Inside, `visit` sees the module and its input, in full precision, before the module's first call."""

    def called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook.remove()
        inputs = args[0] if args else kwargs["input"]
        with running("fp32", inputs.device):
            visit(module, inputs)

    hook = module.register_forward_pre_hook(called, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
