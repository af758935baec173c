"""The proof that a group may be pruned: cut a random part of its units out, run, and compare.

The pruned network must compute what the dense network computes when the layers that read those units ignore them.
Weights are random, so that no unit is dead and no two are alike. Shapes alone prove nothing: a wrong offset in a padded
shortcut or a concatenation still runs.

A group by itself is proven where that is cheap (`structure.scenes`): in the smallest module that holds all its
tensors, called as the network calls it, on small images if the network takes them. What fails there is decided by the
whole network at its own size, and there all groups are proven together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.inputs import Inputs, first, mapped, repeated, size
from autoprune.structure import scenes
from autoprune.structure.edits import Index
from autoprune.structure.scenes import Cuts, Scene
from autoprune.structure.training import Training


def prove(
    probe: nn.Module,
    example: Inputs,
    cuts: Cuts,
    weak: frozenset[int],
    least: Sequence[int],
    training: Training | None = None,
) -> dict[int, str]:
    """Which groups are refuted, and why: each by itself, then all together, since two may be right alone only.

    `probe` is changed while this runs and is afterwards as before. For groups in `weak`, whose channels a normalisation
    mixes, only the shapes can be checked. Of each group `least` units must stay. What the network reads in `training`
    only is proven there, too.
    """
    prover = _Prover(probe, noise(example), cuts, weak, least, training)
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
    ) -> None:
        self._network, self._cuts, self._weak, self._least = scenes.whole(probe, example), cuts, weak, least
        self._training = training and scenes.whole(training.probe, example)
        self._only: frozenset[str] = training.reads if training else frozenset()
        self._precise: dict[int, Scene] = {}

    def refuted_alone(self) -> dict[int, str]:
        """Each group by itself: what no smaller scene proves, the network refutes or proves."""
        small = scenes.smaller(self._network)
        within = scenes.inside(small, [scenes.home(group) for group in self._cuts])
        refuted = {}
        for index, group in enumerate(self._cuts):
            near = [within[home], small] if (home := scenes.home(group)) in within else [small]
            if self._only.issuperset(one.tensor for one in group):
                refuted[index] = "runs in training mode only"
                continue
            unsure = self._trained([index]) or all(self._refute(scene, [index]) for scene in near)
            if unsure and (why := self.refute([index])):
                refuted[index] = why
        return refuted

    def refute(self, groups: Sequence[int]) -> str:
        """Why these groups are not what the labels say, in the whole network; "" if they are."""
        why = self._refute(self._network, groups)
        if not why and self._training and (read := self._trained(groups)):
            why = self._refute(self._training, groups)
            return why and f"is read by {read[0]!r} in training mode only, and there {why}"
        return why

    def _trained(self, groups: Sequence[int]) -> list[str]:
        """The layers of these groups that run in training mode only."""
        return [one.layer for index in groups for one in self._cuts[index] if one.tensor in self._only]

    def _refute(self, scene: Scene, groups: Sequence[int]) -> str:
        """One group is tried with two parts of its units: what is wrong may look right in one, by symmetry.

        That one part has no effect refutes nothing: its units may be dead on these samples.
        """
        unseen = scenes.NO_EFFECT
        for draw in range(2 if len(groups) == 1 else 1):
            why = self._try(scene, groups, draw)
            if why not in ("", scenes.NO_EFFECT):
                return why
            unseen = unseen and why
        return unseen

    def _try(self, scene: Scene, groups: Sequence[int], draw: int) -> str:
        cuts = [self._cuts[i] for i in groups]
        units = [_part(len(c[0].index), (i, draw), self._least[i]) for i, c in zip(groups, cuts, strict=True)]
        shapes_only = not self._weak.isdisjoint(groups)
        why = scene.refute(cuts, units, shapes_only=shapes_only)
        if why == scenes.NO_EFFECT:  # too small to be seen in single precision
            precise = self._precise[id(scene)] = self._precise.get(id(scene)) or scene.precise()
            why = precise.refute(cuts, units, shapes_only=shapes_only)
        return why


def _part(units: int, seed: tuple[int, int], least: int) -> Index:
    """A random part of the units, about half but at least `least`; two groups of one size rarely keep equally many."""
    rng = np.random.default_rng((units, *seed))
    stay = max(least, int(rng.integers(max(1, units // 4), max(2, 3 * units // 4 + 1))))
    return np.sort(rng.permutation(units)[:stay])
