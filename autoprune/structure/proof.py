"""The proof that a group may be pruned: cut a random half of its units out, run, and compare.

The pruned network must compute what the dense network computes when the layers that read those units ignore them.
Weights are random, so that no unit is dead and no two are alike. Shapes alone prove nothing: a wrong offset in a padded
shortcut or a concatenation still runs.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import first_line
from autoprune.inputs import Inputs, call, first, mapped, moved, repeated, size, tensors
from autoprune.structure.edits import Index, Slice
from autoprune.structure.prune import cut

_TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by far less
_EFFECT = 1e-3  # of the largest output: what ignoring the units must change at least, or nothing is proven


def prove(probe: nn.Module, example: Inputs, cuts: Sequence[Sequence[Slice]], weak: frozenset[int]) -> dict[int, str]:
    """Which groups are refuted, and why: each by itself, then all together, since two may be right alone only.

    `probe` is changed while this runs and is afterwards as before. For groups in `weak`, whose channels a normalisation
    mixes, only the shapes can be checked.
    """
    prover = _Prover(probe, noise(example), cuts, weak)
    refuted = {index: why for index in range(len(cuts)) if (why := prover.refute([index]))}
    for together in (set(range(len(cuts))) - weak, set(range(len(cuts)))):
        kept = sorted(together - set(refuted))
        while kept and (why := prover.refute(kept)):
            wrong = _first_failing(kept, prover.refute)
            refuted[wrong] = f"cannot be pruned together with the groups before it: {why}"
            kept.remove(wrong)
    return refuted


def noise(example: Inputs) -> Inputs:
    """Two samples of noise like `example`, on the CPU; of whole numbers (tokens), the example's own."""
    pair, generator = first(example, 2) if size(example) > 1 else repeated(example, 2), torch.Generator().manual_seed(1)

    def like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor.cpu()

    return mapped(pair, like)


def _first_failing(groups: Sequence[int], refute: Callable[[Sequence[int]], str]) -> int:
    low, high = 1, len(groups)  # the shortest prefix that fails, by bisection
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if refute(groups[:middle]) else (middle + 1, high)
    return groups[low - 1]


class _Prover:
    def __init__(
        self, probe: nn.Module, example: Inputs, cuts: Sequence[Sequence[Slice]], weak: frozenset[int]
    ) -> None:
        self._cuts, self._weak = cuts, weak
        self._precisions: dict[torch.dtype, tuple[nn.Module, Inputs, Tensor]] = {}
        self._add(torch.float32, probe, example)

    def _add(self, dtype: torch.dtype, probe: nn.Module, example: Inputs) -> None:
        example = moved(example, dtype)
        self._precisions[dtype] = (probe, example, _outputs(probe, example))

    def refute(self, groups: Sequence[int]) -> str:
        """Why these groups are not what the flow says; "" if they are."""
        why = self._refute(groups, torch.float32)
        if why == _NO_EFFECT:  # too small to be seen in single precision
            if torch.float64 not in self._precisions:
                probe, example, _ = self._precisions[torch.float32]
                self._add(torch.float64, copy.deepcopy(probe).double(), example)
            why = self._refute(groups, torch.float64)
        return why

    def _refute(self, groups: Sequence[int], dtype: torch.dtype) -> str:
        probe, example, dense = self._precisions[dtype]
        cuts = [self._cuts[i] for i in groups]
        units = [_half(len(c[0].index), seed) for seed, c in zip(groups, cuts, strict=True)]
        try:
            pruned = _outputs(cut(probe, cuts, units, share=True), example)
        except Exception as wrong:
            return f"the pruned network fails: {first_line(wrong)}"
        if pruned.shape != dense.shape:
            return f"the pruned network's output has another shape, {tuple(pruned.shape)}"
        if not self._weak.isdisjoint(groups):
            return ""
        with _ignoring(probe, cuts, units):
            ignored = _outputs(probe, example)
        return _compare(dense, ignored, pruned, 1.0 if dtype == torch.float32 else 1e-6)


_NO_EFFECT = "leaving its units out changes nothing that could be seen"


def _compare(dense: Tensor, ignored: Tensor, pruned: Tensor, scale: float) -> str:
    largest = float(dense.abs().max())
    apart = float((pruned - ignored).abs().max())
    if not math.isfinite(apart) or not largest:
        return "the outputs are not finite, so nothing can be compared"
    if apart > _TOLERANCE * scale * largest:
        return f"the pruned network computes something else (off by {apart / largest:.1e} of its output)"
    if float((dense - ignored).abs().max()) < _EFFECT * scale * largest:
        return _NO_EFFECT
    return ""


def _half(units: int, seed: int) -> Index:
    """A random half of the units, at least one of them in and one out, ascending."""
    picked = np.random.default_rng((units, seed)).permutation(units)[: max(1, units // 2)]
    return np.sort(picked)


def _outputs(model: nn.Module, example: Inputs) -> Tensor:
    with torch.no_grad():
        found = [t for t in tensors(call(model, example)) if t.is_floating_point()]
    return torch.cat([t.flatten() for t in found])


@contextlib.contextmanager
def _ignoring(probe: nn.Module, cuts: Sequence[Sequence[Slice]], units: Sequence[Index]) -> Iterator[None]:
    """Inside, the layers that read the units that leave do not read them: their columns are zero."""
    parameters = dict(probe.named_parameters())
    saved: list[tuple[Tensor, Tensor]] = []
    for group, stay in zip(cuts, units, strict=True):
        for one in (c for c in group if c.role == "in"):
            tensor = parameters[one.tensor].data
            saved.append((tensor, tensor.clone()))
            gone = np.setdiff1d(np.arange(len(one.index)), stay)
            tensor.index_fill_(one.dim, torch.from_numpy(one.index[gone].ravel()), 0.0)
    try:
        yield
    finally:
        for tensor, values in reversed(saved):
            tensor.copy_(values)
