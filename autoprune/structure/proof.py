"""The proof that a group may be pruned: cut a random part of its units out, run, and compare.

The pruned network must compute what the dense network computes when the layers that read those units ignore them.
Weights are random, so that no unit is dead and no two are alike. Shapes alone prove nothing: a wrong offset in a padded
shortcut or a concatenation still runs.

A group by itself is proven where that is cheap (`structure.scenes`): in the smallest module that holds all its
tensors, called as the network calls it, on small images if the network takes them. What fails there is decided by the
whole network at its own size, once for all groups that are cut alike and fail alike; and there all groups are proven
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.inputs import Inputs, first, mapped, repeated, size
from autoprune.structure import scenes
from autoprune.structure.edits import Index, Resize
from autoprune.structure.scenes import NO_EFFECT, Cuts, Doubt, Scene
from autoprune.structure.training import Training

_FIRST, _SECOND, _BOTH = (0,), (1,), (0, 1)  # of the two random parts of each group


def prove(
    probe: nn.Module,
    example: Inputs,
    cuts: Cuts,
    weak: frozenset[int],
    least: Sequence[int],
    training: Training | None = None,
    resizes: tuple[Resize, ...] = (),
) -> dict[int, str]:
    """Which groups are refuted, and why: each by itself, then all together, since two may be right alone only.

    `probe` is changed while this runs and is afterwards as before. For groups in `weak`, whose channels a normalisation
    mixes, only the shapes can be checked. Of each group `least` units must stay. What the network reads in `training`
    only is proven there, too.
    """
    prover = _Prover(probe, noise(example), cuts, weak, least, training, resizes)
    refuted = prover.refuted_alone()
    proven: list[int] = []
    for together in (set(range(len(cuts))) - weak, set(range(len(cuts)))):
        kept = sorted(together - set(refuted))
        while kept != proven and (why := prover.refute(kept)):
            wrong = _first_failing(kept, prover.refute)
            together_only = f"cannot be pruned together with the groups before it: {why}"
            refuted[wrong] = prover.refute([wrong]) or together_only
            kept.remove(wrong)
        proven = kept
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
        self,
        probe: nn.Module,
        example: Inputs,
        cuts: Cuts,
        weak: frozenset[int],
        least: Sequence[int],
        training: Training | None,
        resizes: tuple[Resize, ...],
    ) -> None:
        self._network, self._cuts, self._weak, self._least = scenes.whole(probe, example, resizes), cuts, weak, least
        self._training = training and scenes.whole(training.probe, example, resizes)
        self._only: frozenset[str] = training.reads if training else frozenset()
        self._precise: dict[int, Scene] = {}
        self._proven: set[object] = set()  # what groups look like that were proven, and that the network refuted
        self._lost: set[object] = set()

    def refuted_alone(self) -> dict[int, str]:
        """Each group by itself: what no smaller scene proves, the network refutes or proves."""
        small, within = scenes.smaller(self._network, [scenes.home(group) for group in self._cuts])
        refuted: dict[int, str] = {}
        for index, group in enumerate(self._cuts):
            if self._only.issuperset(one.tensor for one in group):
                refuted[index] = "runs in training mode only"
                continue
            near = [within[home], small] if (home := scenes.home(group)) in within else [small]
            if why := self._refuted(index, near):
                refuted[index] = why
        return refuted

    def _refuted(self, index: int, near: Sequence[Scene]) -> str:
        """Why the group is refuted, "" if it is proven in one of `near` or in the network.

        Of many that are cut alike, the first is proven with two parts of its units: what is wrong may look right in
        one, by symmetry. The others are proven with the second, and with the first when all are proven together. And
        the network refutes the first; the others are refuted by their own modules, if they fail as its module did.
        """
        failed: list[object] = []
        for scene in () if self._trained([index]) else near:
            looks = scenes.looks(scene, self._cuts[index])
            doubt = self._refute(scene, [index], _SECOND if looks in self._proven else _BOTH)
            if not doubt:
                self._proven.add(looks)
                return ""
            if doubt.fails and looks in self._lost:
                return doubt.why
            failed += [looks] if doubt.fails else []
        if why := self.refute([index]):
            self._lost.update(failed)
        return why

    def refute(self, groups: Sequence[int]) -> str:
        """Why these groups are not what the labels say, in the whole network; "" if they are."""
        parts = _BOTH if len(groups) == 1 else _FIRST
        doubt = self._refute(self._network, groups, parts)
        if not doubt and self._training and (read := self._trained(groups)):
            doubt = self._refute(self._training, groups, parts)
            return f"is read by {read[0]!r} in training mode only, and there {doubt.why}" if doubt else ""
        return doubt.why if doubt else ""

    def _trained(self, groups: Sequence[int]) -> list[str]:
        """The layers of these groups that run in training mode only."""
        return [one.layer for index in groups for one in self._cuts[index] if one.tensor in self._only]

    def _refute(self, scene: Scene, groups: Sequence[int], parts: Sequence[int]) -> Doubt | None:
        """That one part has no effect refutes nothing: its units may be dead on these samples."""
        unseen: Doubt | None = NO_EFFECT
        for part in parts:
            doubt = self._try(scene, groups, part)
            if doubt not in (None, NO_EFFECT):
                return doubt
            unseen = unseen and doubt
        return unseen

    def _try(self, scene: Scene, groups: Sequence[int], part: int) -> Doubt | None:
        cuts = [self._cuts[i] for i in groups]
        units = [_part(len(c[0].index), (i, part), self._least[i]) for i, c in zip(groups, cuts, strict=True)]
        shapes_only = not self._weak.isdisjoint(groups)
        doubt = scene.refute(cuts, units, shapes_only=shapes_only)
        if doubt == NO_EFFECT:  # too small to be seen in single precision
            precise = self._precise[id(scene)] = self._precise.get(id(scene)) or scene.precise()
            doubt = precise.refute(cuts, units, shapes_only=shapes_only)
        return doubt


def _part(units: int, seed: tuple[int, int], least: int) -> Index:
    """A random part of the units, about half but at least `least`; two groups of one size rarely keep equally many."""
    rng = np.random.default_rng((units, *seed))
    stay = max(least, int(rng.integers(max(1, units // 4), max(2, 3 * units // 4 + 1))))
    return np.sort(rng.permutation(units)[:stay])
