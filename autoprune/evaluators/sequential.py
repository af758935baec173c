"""Reconstruction layer by layer: each layer is fitted to what the layers before it have become.

`reconstruct` solves for every layer as if the others were still dense, so that errors add up along the network. Here
calibration images run through the pruned network once, and each layer, when they arrive at it, gets the weight on its
own inputs that comes nearest to the dense network's outputs: the asymmetric form of He et al. 2017,
https://arxiv.org/abs/1707.06168, for every layer and not only for those behind pruned channels. The same pass
re-estimates the BatchNorm statistics. It costs more than `reconstruct` and leaves less of the error.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.criteria import Scoring
from autoprune.engine.memory import laid_out
from autoprune.engine.precision import running
from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.recalibrate import Recalibrate
from autoprune.evaluators.recovery import columns as moments
from autoprune.evaluators.recovery.batchnorm import reestimating
from autoprune.structure.trace import Trace
from autoprune.task import Task
from autoprune.train import forked
from autoprune.values.space import Policy, SearchSpace

Rows = Mapping[str, Tensor]  # by layer, which of its dense outputs stay
Visit = Callable[[nn.Module, Tensor], None]


@dataclass
class ReconstructSequential:
    """Prune, fit each layer to the dense one's outputs and re-estimate BatchNorm statistics in one pass, score.

    Fitted are plain convolutions and linear layers of at most `columns` input columns (channels x kernel positions)
    that have two samples a column; `notes` names those that keep their weights.

    Memory: all `images` run as one batch, and 4 x `images` x `positions` bytes for every output channel of a fitted
    layer are held.

    Attributes:
        task: the dense network, which is only read, and its images.
        trace: the index tables of its groups.
        space: the policies' space.
        criterion: which units stay; scored once, on the dense network.
        seed: of the images and positions looked at, and of a random criterion.
        precision: "fp32", "bf16" or "int8" (the score only), of the pass and the score; solutions are always exact.
        images: training images that the layers are fitted and statistics estimated on.
        positions: random output positions of each image that a layer is fitted on.
        ridge: strength of the pull towards the pruned layer's weights, relative to an input's mean square; > 0.
        columns: most columns of a layer that is fitted.
        holdout: holdout images that score a trial; 0 takes them all.
    """

    task: Task
    trace: Trace
    space: SearchSpace
    criterion: Scoring
    seed: int = 0
    precision: str = "fp32"
    images: int = 512
    positions: int = 16
    ridge: float = 1e-2
    columns: int = 4608
    holdout: int = 0

    def __post_init__(self) -> None:
        if self.images < 2 or self.positions < 1 or self.columns < 1:
            given = f"images={self.images}, positions={self.positions}, columns={self.columns}"
            raise ConfigError(f"{given}: at least 2, 1 and 1 are needed")
        if not self.ridge > 0:
            raise ConfigError(f"ridge={self.ridge}: a number above 0 is needed, such as 0.01")
        self._plain = Recalibrate(
            self.task,
            self.trace,
            self.space,
            self.criterion,
            seed=self.seed,
            precision=self.precision,
            images=0,
            holdout=self.holdout,
            panel=1,
            probes=0,
        )
        self.spent: Mapping[str, float] = {}
        self._rows: WeakKeyDictionary[nn.Module, Rows] = WeakKeyDictionary()

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, not recovered yet."""
        model = self._plain.realise(policy)
        self._rows[model] = self._outputs(self._plain.stay(model))
        return model

    def metric(self, model: nn.Module) -> float:
        """The holdout metric of `model` with other weights and statistics; one that is not pruned keeps its weights."""
        begun = time.perf_counter()
        rows = self._rows.get(model, {})
        with forked(self.seed), ExitStack() as stack:
            for layer in rows:
                stack.enter_context(_first_call(model.get_submodule(layer), self._fit(layer, rows[layer])))
            stack.enter_context(reestimating(model))
            _forward(model, self._batch, self.precision)
        fitted = time.perf_counter() - begun
        value = self._plain.metric(model)
        self.spent = {"recover": fitted + self._plain.spent["recover"], "score": self._plain.spent["score"]}
        return value

    def careful(self) -> ReconstructSequential:
        """The same in full precision, on the whole holdout."""
        return dataclasses.replace(self, precision="fp32", holdout=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """The layers that are not fitted, and how scores are computed."""
        left = [layer for layer in _multiplying(self.task.model) if layer not in self._targets]
        found = (f"Reconstruction left the weights of {', '.join(left)} as they are.",) if left else ()
        return (*found, *self._plain.notes)

    def _outputs(self, masks: Mapping[str, Mapping[int, NDArray[Any]]]) -> Rows:
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
        generator = torch.Generator().manual_seed(self.seed)
        return moments.columns(module, inputs.float(), self.positions, generator)

    @cached_property
    def _batch(self) -> Tensor:
        drawn, _ = next(self.task.train.shuffled(self.images, torch.Generator().manual_seed(self.seed)))
        return laid_out(drawn)

    @cached_property
    def _targets(self) -> dict[str, Tensor]:
        """What each layer that can be fitted adds to its bias in the dense network, (samples, outputs)."""
        twin = copy.deepcopy(self.task.model).eval()
        found: dict[str, Tensor] = {}

        def look(layer: str) -> Visit:
            def visit(module: nn.Module, inputs: Tensor) -> None:
                assert isinstance(module.weight, Tensor)
                samples = self._columns(module, inputs)
                if len(samples) >= moments.ENOUGH * samples.shape[1]:
                    found[layer] = samples @ module.weight.flatten(1).T

            return visit

        with forked(self.seed), ExitStack() as stack:
            for layer in moments.plain(twin, self.columns):
                stack.enter_context(_first_call(twin.get_submodule(layer), look(layer)))
            _forward(twin, self._batch, "fp32")
        return found


def _forward(model: nn.Module, inputs: Tensor, precision: str) -> None:
    device = next(model.parameters()).device
    with torch.no_grad(), running(precision, device):
        model(inputs.to(device))


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
