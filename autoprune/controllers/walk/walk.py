"""The search space one axis at a time, as He et al. 2018 (AMC, https://arxiv.org/abs/1802.03494) walk a network.

A decision is a share in [0, 1]: how much of what may be removed along an axis of the space's cube is removed. What has
been decided so far is the state, a tuple of places, so everything here is a pure function and costs microseconds;
nothing is evaluated on the way. No walk can leave the budget: each axis is held to what the thinnest rest of the
network leaves it.

What is seen before each decision are AMC's eleven features, all in [0, 1]:

    index                      of the axis
    n, c, h, w, stride, k      the choice's role, from the trace: its channels; the input channels, input height and
                               width, stride and kernel of the layers that produce them; each against its largest
    MACs                       of the dense operators that the axis gives a size to, against the largest
    reduced                    MACs that the decisions so far have removed, against the dense network's
    rest                       MACs that the decisions to come could still remove, likewise
    previous                   the sparsity of the axis before

Where several layers are coupled into one choice, c, h, w, stride and k are the means over the layers that produce its
channels, n counts the channels once, and MACs are those of every operator that shrinks with the choice, whether it
produces the channels or reads them. A space made by hand may hold other roles, or none: they stand in the place of the
six. Of tied choices the first says the role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import PolicyError
from autoprune.values.budget import Budget
from autoprune.values.space import Places, Policy, SearchSpace
from autoprune.values.terms import Floats, Products

FEATURES = ("index", "n", "c", "h", "w", "stride", "k", "macs", "reduced", "rest", "previous")  # of a traced network
Prefix = tuple[int, ...]  # the places of the levels of the first axes: all that has been decided
Observation = NDArray[np.float32]  # (features,), in [0, 1]


class Episode(NamedTuple):
    """A whole walk.

    Attributes:
        observations: shape (decisions + 1, features): before each decision, and after the last.
        shares: shape (decisions,), each in [0, 1].
    """

    observations: NDArray[np.float32]
    shares: Floats


@dataclass(frozen=True)
class Walk:
    """A space and its budget, one decision at a time. `start`, then `decide` as long as it is not `over`, `policy`."""

    space: SearchSpace
    budget: Budget

    def start(self) -> Prefix:
        """Nothing decided."""
        return ()

    def over(self, prefix: Prefix) -> bool:
        """Whether everything is decided."""
        return len(prefix) == len(self)

    def decide(self, prefix: Prefix, share: float) -> Prefix:
        """`prefix` and one axis more: as near to `share` as levels and budget allow."""
        choice = self.space.cube.leaders[len(prefix)]
        return (*prefix, min(choice.nearest(share * choice.reach), self.budget.most(prefix)))

    def executed(self, prefix: Prefix, axis: int) -> float:
        """The share that was removed along an axis, which `prefix` has decided."""
        choice = self.space.cube.leaders[axis]
        return float(np.clip(choice.sparsity(choice.levels[prefix[axis]]) / choice.reach, 0.0, 1.0))

    def policy(self, prefix: Prefix) -> Policy:
        """What a finished walk proposes: what the budget has left over is given back, as `Budget.fit` does."""
        return self.budget.fit(self.space.cube.settled(prefix))

    def observe(self, prefix: Prefix) -> Observation:
        """What is seen after `prefix`, before the next decision."""
        unknown = [0] * (len(self) - len(prefix))
        seen: Observation = self._seen((*prefix, *unknown), [len(prefix)])[0]
        return seen

    def replay(self, policy: Policy) -> Episode:
        """The walk that executes `policy`, which need not have been proposed by one."""
        cube = self.space.cube
        return Episode(self._seen(cube.places(policy), range(len(self) + 1)), cube.point(policy))

    def __len__(self) -> int:
        """How many decisions there are."""
        return len(self.space.cube)

    def _seen(self, places: Sequence[int], decided: Sequence[int]) -> NDArray[np.float32]:
        """The observations after the first `decided` axes of `places`, shape (len(decided), features)."""
        at, cube = np.array(decided), self.space.cube
        known = np.arange(len(self)) < at[:, None]  # (observations, axes)
        rows = np.concatenate([np.where(known, places, self._last), np.where(known, places, 0)])
        now, least = self._macs(cube.rows(rows)).reshape(2, -1)
        removed = np.array([c.sparsity(c.levels[place]) for c, place in zip(cube.leaders, places, strict=True)])
        previous = np.where(at > 0, removed[np.maximum(at, 1) - 1], 0.0)
        reduced, rest = (self._dense - now) / max(self._dense, 1.0), (now - least) / max(self._dense, 1.0)
        moving = np.stack([reduced, rest, previous], axis=1)
        return np.hstack([self._facts[np.minimum(at, len(self) - 1)], moving]).astype(np.float32)

    @cached_property
    def _facts(self) -> Floats:
        """What does not depend on decisions, shape (decisions, features)."""
        roles = [choice.role for choice in self.space.cube.leaders]
        if len({len(role) for role in roles}) > 1:
            raise PolicyError(f"the choices of {self.space.name} have roles of different lengths; one length is right")
        without = np.repeat(np.array([self.space.dense().levels], dtype=np.int64), len(self), axis=0)
        for row, axis in zip(without, self.space.cube.axes, strict=True):
            row[list(axis)] = 0
        macs = self._dense - self._macs(without)
        index = np.arange(len(self)) / max(len(self) - 1, 1)
        return np.column_stack([index, np.array(roles).reshape(len(self), -1), macs / max(macs.max(initial=0.0), 1.0)])

    @cached_property
    def _macs(self) -> Products:
        return Products(self.space.ops, len(self.space))

    @cached_property
    def _dense(self) -> float:
        return float(self._macs(np.array([self.space.dense().levels], dtype=np.int64))[0])

    @cached_property
    def _last(self) -> Places:
        return np.array([len(choice.levels) - 1 for choice in self.space.cube.leaders], dtype=np.int64)
