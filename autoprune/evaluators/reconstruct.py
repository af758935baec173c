"""The evaluator of AMC in closed form: prune, let the next layers make up for what left, score on the holdout.

Each layer that reads pruned channels gets, by ridge least squares over the channels it still reads, the weight that
comes nearest to what it computed in the dense network. He et al. 2017, https://arxiv.org/abs/1707.06168, who solve for
every network anew; here the inputs' second moments are collected once and a policy costs milliseconds a layer.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.errors import ConfigError, TrialFailed
from autoprune.evaluators.bench import Bench, Rebuilt
from autoprune.evaluators.recovery import columns, least_squares
from autoprune.evaluators.recovery.careful import Careful
from autoprune.evaluators.recovery.columns import Moments, Reader
from autoprune.evaluators.recovery.fast import Fast
from autoprune.evaluators.recovery.least_squares import Columns, Leading, Positions, Ridge, Solution
from autoprune.evaluators.recovery.recovery import Ready
from autoprune.evaluators.recovery.replay import drawn
from autoprune.evaluators.recovery.sampling import Sampling
from autoprune.protocols import Score
from autoprune.structure.edits import Slice
from autoprune.structure.prune import Candidate
from autoprune.train import forked
from autoprune.values.ranges import Samples, SomeSamples, require
from autoprune.values.space import Policy

HELD = 2**28  # bytes of solutions that are remembered


@dataclass(kw_only=True)
class Reconstruct(Rebuilt, Sampling):
    """Prune, solve for the weights of the layers that read pruned channels, re-estimate BatchNorm statistics, score.

    Solved for are convolutions and linear layers. A depthwise or grouped convolution loses whole groups and needs
    nothing; what else reads pruned channels (transposed convolutions, attention) keeps its weights.

    Memory: at most 4 x `columns`^2 bytes a layer (85 MB for the default; a layer of 64 channels under a 3 x 3 kernel
    takes 1.3 MB), and 256 MiB of remembered solutions for layers that read several groups. In a layer with more input
    columns (channels x kernel positions) than `columns`, or with fewer than two samples a column, the kernel positions
    share one solution; one with more channels than `columns` keeps its weights. `notes` names every layer that is not
    solved for exactly.

    Attributes:
        images: training images on which the layers' inputs are looked at, once.
        positions: random output positions of each image that are looked at, in each layer.
        ridge: strength of the pull towards the dense weights, relative to an input's mean square.
        columns: most columns of a layer that are solved for exactly.
        recalibrate: training images that a trial's BatchNorm statistics are re-estimated on; 0 leaves them.
        batch: images a step of both, and of a score that looks at a panel.
    """

    bench: Bench = field(kw_only=False)
    images: SomeSamples = 1024
    positions: Positions = 16
    ridge: Ridge = 1e-2
    columns: Columns = 4608
    recalibrate: Samples = 100

    def __post_init__(self) -> None:
        require(self)
        if not (self.images >= self.batch and (self.recalibrate >= self.batch or self.recalibrate == 0)):
            given = f"images={self.images}, recalibrate={self.recalibrate}, batch={self.batch}"
            raise ConfigError(f"{given}: images and recalibrate >= batch are needed, or recalibrate = 0")
        rest = {name: getattr(self, name) for name in ("batch", "reference", "holdout", "panel", "probes")}
        self._fast = Fast(self.bench, Sampling(images=self.recalibrate, **rest), self.realise)
        self._remembered = _Remembered()

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network with its reconstructed weights."""
        candidate = self.bench.pruned(policy)
        with torch.no_grad():
            for layer, known in self._known.items():
                dims = candidate.stay.get(f"{layer}.weight", {})
                if 1 in dims:
                    solution = self._solution(layer, known, dims[1], dims.get(0))
                    _rewrite(candidate.model.get_submodule(layer), solution)
        return candidate

    def recover(self, candidate: Candidate) -> Ready:
        """The same with re-estimated statistics."""
        return self._fast.recover(candidate)

    def score(self, candidate: Candidate) -> Score:
        """The holdout metric."""
        return self._fast.score(candidate)

    def careful(self) -> Careful:
        """The same without the short cuts of recalibration and score."""
        return self._fast.careful()

    @property
    def notes(self) -> tuple[str, ...]:
        """The layers that are not reconstructed exactly, and how scores are computed."""
        shared = [layer for layer, known in self._known.items() if known.shared]
        left = {
            **self._readers[1],
            **{layer: "it is never called as a layer" for layer in self._readers[0] if layer not in self._known},
        }
        found = [f"Reconstruction left the weights of {layer} as they are: {why}." for layer, why in left.items()]
        if shared:
            found.append(
                f"Reconstruction solved for the kernel positions of {', '.join(shared)} together: "
                f"more than {self.columns:,} columns, or fewer than {columns.ENOUGH} samples a column."
            )
        return (*found, *self._fast.notes)

    @cached_property
    def _readers(self) -> tuple[dict[str, Reader], dict[str, str]]:
        return columns.readers(self.bench.task.model, self._edits.values(), self.columns)

    @cached_property
    def _edits(self) -> dict[int, tuple[Slice, ...]]:
        """Of the choices that leave one, by position."""
        free = [place for place, choice in enumerate(self.bench.space) if len(choice.levels) > 1]
        return {place: self.bench.trace.slices[place] for place in free}

    @cached_property
    def _known(self) -> dict[str, Leading | Moments]:
        """By layer, what to solve for its weights with."""
        bench = self.bench
        images = drawn(bench.task.calibration, bench.seed, self.images, self.batch)
        with forked(bench.seed):
            found = columns.collect(
                bench.task.model, self._readers[0], images, positions=self.positions, seed=bench.seed
            )
        return {layer: self._leading(layer, found.pop(layer)) for layer in list(found)}

    def _leading(self, layer: str, seen: Moments) -> Leading | Moments:
        """`seen`, factorised if the channels of `layer` leave in one order and are not too alike."""
        order = self._order(layer)
        with contextlib.suppress(TrialFailed):
            if order is not None:
                return Leading.of(self._grid(layer), order, seen, self.ridge)
        return seen

    def _order(self, layer: str) -> Tensor | None:
        """The channels that `layer` reads, those first that stay longest; None where several groups may lose some."""
        cuts = {
            n: [cut for cut in group if cut.layer == layer and cut.role == "in"] for n, group in self._edits.items()
        }
        groups = [number for number, read in cuts.items() if read]
        if len(groups) != 1:
            return None
        channels = self._readers[0][layer].channels
        run = self._weight(layer).shape[1] // channels
        ranked = self.bench.ranked[groups[0]]
        leaving = np.concatenate([cut.index[ranked] for cut in cuts[groups[0]]], axis=1).reshape(-1, run)[:, 0] // run
        return torch.from_numpy(np.concatenate([np.setdiff1d(np.arange(channels), leaving), leaving])).to(
            self._weight(layer).device
        )

    def _weight(self, layer: str) -> Tensor:
        return self.bench.task.model.get_parameter(f"{layer}.weight").detach()

    def _grid(self, layer: str) -> Tensor:
        """The weight of `layer`, (outputs, channels, positions)."""
        reader, weight = self._readers[0][layer], self._weight(layer)
        return weight.reshape(len(weight), reader.channels, reader.positions)

    def _solution(
        self, layer: str, known: Leading | Moments, stay: NDArray[np.bool_], rows: NDArray[np.bool_] | None
    ) -> Solution:
        """The weight of `layer` on the inputs that `stay`, for the outputs that do, and the change of its bias."""
        grid = self._grid(layer)
        channels = torch.from_numpy(stay.reshape(grid.shape[1], -1)[:, 0]).to(grid.device)
        outputs = grid.new_ones(len(grid), dtype=torch.bool) if rows is None else torch.from_numpy(rows).to(grid.device)
        if isinstance(known, Leading):
            return known.solve(channels, outputs)
        key = (layer, stay.tobytes())
        weight, bias = self._remembered(key, lambda: least_squares.solve(grid, channels, known, self.ridge))
        return weight[outputs], bias[outputs]


@dataclass
class _Remembered:
    """The last solutions, up to `HELD` bytes of them: they differ in speed only."""

    _held: OrderedDict[tuple[str, bytes], Solution] = field(default_factory=OrderedDict)
    _size: int = 0

    def __call__(self, key: tuple[str, bytes], solve: Callable[[], Solution]) -> Solution:
        if key not in self._held:
            self._held[key] = solve()
            self._size += _bytes(self._held[key])
        self._held.move_to_end(key)
        found = self._held[key]
        while self._size > HELD:
            self._size -= _bytes(self._held.popitem(last=False)[1])
        return found


def _bytes(solution: Solution) -> int:
    return sum(tensor.nbytes for tensor in solution)


def _rewrite(module: nn.Module, solution: Solution) -> None:
    """Give a pruned layer its solution."""
    weight, bias = solution
    assert isinstance(module.weight, Tensor)
    module.weight.copy_(weight.reshape(module.weight.shape))
    if isinstance(module.bias, Tensor):
        module.bias += bias
