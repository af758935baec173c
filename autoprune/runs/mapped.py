"""What a policy for another network means for the network of a study: mapped by role, fitted to the study's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.controllers.rules import shaped
from autoprune.errors import PolicyError
from autoprune.runs.study import Study
from autoprune.structure.roles import roles
from autoprune.values.roles import Carried, Placed, carried
from autoprune.values.space import Policy


@dataclass(frozen=True)
class Mapped:
    """A policy of a study's space, and where it comes from.

    Attributes:
        policy: within the study's budget.
        choices: what each choice of the space got before the policy was fitted to that, and from what.
    """

    policy: Policy
    choices: tuple[Carried, ...]

    @property
    def lost(self) -> tuple[Carried, ...]:
        """The choices to which nothing corresponds."""
        return tuple(one for one in self.choices if one.why)


def placed(study: Study) -> tuple[Placed, ...]:
    """The choices of a study's network by their roles."""
    found = roles(study.trace, study.task.model)
    return tuple(Placed(c.name, c.kind, role) for c, role in zip(study.space, found, strict=True))


def mapped(study: Study, policy: Sequence[Placed], source: str) -> Mapped:
    """`policy`, the choices of another network, for the network of `study`.

    Raises PolicyError where the policy decides a kind of choice that the network has not, or nothing corresponds.
    """
    network = placed(study)
    kinds = {one.kind for one in network}
    if lost := [one for one in policy if one.kind not in kinds]:
        what = f"{source} decides the {lost[0].kind} choice {lost[0].name!r}, and {study.name} has none of that kind"
        raise PolicyError(f"{what}; it has {', '.join(sorted(kinds))}")
    found = carried(policy, network)
    if all(one.why for one in found):
        raise PolicyError(f"nothing in {study.name} corresponds to a choice of {source}: {found[0].why}")
    return Mapped(fitted(study, [one.sparsity for one in found]), found)


def fitted(study: Study, sparsity: Sequence[float]) -> Policy:
    """The policy of that shape, a number in [0, 1] a choice, within the study's budget."""
    return shaped(study.space, study.budget, np.array(sparsity, dtype=np.float64))
