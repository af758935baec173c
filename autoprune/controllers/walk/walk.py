"""The search space one group at a time, as He et al. 2018 (AMC, https://arxiv.org/abs/1802.03494) walk a network.

A decision is a share in [0, 1]: how much of what may be removed from a group is removed. What has been decided so far
is the state, a tuple of kept units, so everything here is a pure function and costs microseconds; nothing is evaluated
on the way. No walk can leave the budget: each group is held to what the thinnest rest of the network leaves it. Groups
without a choice are passed over.

What is seen before each decision are AMC's eleven features, all in [0, 1]:

    index                      of the group among those with a choice
    n, c, h, w, stride, k      the group's role, from the trace: its channels; the input channels, input height and
                               width, stride and kernel of the layers that produce them; each against its largest
    MACs                       of the dense operators that the group gives a size to, against the largest
    reduced                    MACs that the decisions so far have removed, against the dense network's
    rest                       MACs that the decisions to come could still remove, likewise
    previous                   the sparsity of the group before

Where several layers are coupled into one group, c, h, w, stride and k are the means over the layers that produce its
channels, n counts the channels once, and MACs are those of every operator that shrinks with the group, whether it
produces the channels or reads them. A space made by hand may hold other roles, or none: they stand in the place of the
six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoprune.costs.arithmetic import Macs
from autoprune.errors import PolicyError
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace

Prefix = tuple[int, ...]  # kept units of the first groups: all that has been decided, and the choiceless groups after
Observation = NDArray[np.float32]  # (features,), in [0, 1]


class Episode(NamedTuple):
    """A whole walk.

    Attributes:
        observations: shape (decisions + 1, features): before each decision, and after the last.
        shares: shape (decisions,), each in [0, 1].
    """

    observations: NDArray[np.float32]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """A space and its budget, one decision at a time. `start`, then `decide` as long as it is not `over`, `policy`."""

    space: SearchSpace
    budget: Budget

    def start(self) -> Prefix:
        """Nothing decided."""
        return self._past_the_choiceless(())

    def over(self, prefix: Prefix) -> bool:
        """Whether everything is decided."""
        return len(prefix) == len(self.space)

    def decide(self, prefix: Prefix, share: float) -> Prefix:
        """`prefix` and one group more: as near to `share` as steps and budget allow."""
        here = len(prefix)
        wanted = self.space.groups[here].snap(share * self._highest[here])
        return self._past_the_choiceless((*prefix, min(wanted, self.budget.most(prefix))))

    def executed(self, prefix: Prefix, here: int) -> float:
        """The share that was removed of group `here`, which `prefix` has decided and which had a choice."""
        return float(np.clip((1.0 - prefix[here] / self._of[here]) / self._highest[here], 0.0, 1.0))

    def policy(self, prefix: Prefix) -> Policy:
        """What a finished walk proposes: what the budget has left over is given back, as `Budget.fit` does."""
        return self.budget.fit(self.space.policy(prefix))

    def observe(self, prefix: Prefix) -> Observation:
        """What is seen after `prefix`, before the next decision."""
        unknown = [0] * (len(self.space) - len(prefix))
        seen: Observation = self._seen((*prefix, *unknown), [len(prefix)])[0]
        return seen

    def replay(self, policy: Policy) -> Episode:
        """The walk that executes `policy`, which need not have been proposed by one."""
        ends = [*self._free.tolist(), len(self.space)]
        removed, most = np.array(policy.sparsity)[self._free], self._highest[self._free]
        return Episode(self._seen(self.space.kept(policy), ends), np.clip(removed / most, 0.0, 1.0))

    def __len__(self) -> int:
        """How many decisions there are."""
        return len(self._free)

    def _past_the_choiceless(self, prefix: Prefix) -> Prefix:
        here = len(prefix)
        while here < len(self.space) and not self._highest[here]:
            here += 1
        return (*prefix, *(group.of for group in self.space.groups[len(prefix) : here]))

    def _seen(self, kept: Sequence[int], decided: Sequence[int]) -> NDArray[np.float32]:
        """The observations after the first `decided` groups of `kept`, shape (len(decided), features)."""
        ends = np.array(decided)
        known = np.arange(len(self.space)) < ends[:, None]  # (observations, groups)
        rows = np.concatenate([np.where(known, kept, self._of), np.where(known, kept, self._least)])
        now, least = self._macs.predict_many(rows).reshape(2, -1)
        at = np.searchsorted(self._free, ends)  # decisions made
        removed = 1.0 - np.array(kept) / self._of
        previous = np.where(at > 0, removed[self._free[np.maximum(at, 1) - 1]], 0.0)
        reduced, rest = (self._dense - now) / max(self._dense, 1.0), (now - least) / max(self._dense, 1.0)
        moving = np.stack([reduced, rest, previous], axis=1)
        return np.hstack([self._facts[np.minimum(at, len(self) - 1)], moving]).astype(np.float32)

    @cached_property
    def _facts(self) -> NDArray[np.float64]:
        """What does not depend on decisions, shape (decisions, features)."""
        free = self._free
        roles = [self.space.groups[i].role for i in free]
        if len({len(role) for role in roles}) > 1:
            raise PolicyError(f"the groups of {self.space.name} have roles of different lengths; one length is right")
        without = np.repeat(self._of[None], len(free), axis=0)
        without[np.arange(len(free)), free] = 0
        macs = self._dense - self._macs.predict_many(without)
        index = np.arange(len(free)) / max(len(free) - 1, 1)
        return np.column_stack([index, np.array(roles).reshape(len(free), -1), macs / max(macs.max(initial=0.0), 1.0)])

    @cached_property
    def _free(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._highest > 0)

    @cached_property
    def _macs(self) -> Macs:
        return Macs(self.space)

    @cached_property
    def _dense(self) -> float:
        return self._macs.predict(self.space.dense())

    @cached_property
    def _highest(self) -> NDArray[np.float64]:
        return np.array(self.space.thinnest().sparsity)

    @cached_property
    def _of(self) -> NDArray[np.int64]:
        return np.array([group.of for group in self.space], dtype=np.int64)

    @cached_property
    def _least(self) -> NDArray[np.int64]:
        return np.array([group.choices()[0] for group in self.space], dtype=np.int64)
