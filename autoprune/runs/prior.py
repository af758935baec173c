"""`autoprune learn`: what many runs have found, as one small file that other searches begin with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic

from autoprune import bounded
from autoprune.errors import PolicyError, first_fault, one_line, reason
from autoprune.files import disk, policy_file
from autoprune.files.policy_file import Table
from autoprune.runs import journal
from autoprune.runs.mapped import Mapped, fitted, placed
from autoprune.runs.rules import Rules
from autoprune.runs.study import Study
from autoprune.values import prior
from autoprune.values.prior import FEATURES, Network
from autoprune.values.ranges import Range
from autoprune.values.roles import Carried, Placed
from autoprune.values.space import Policy, SearchSpace

ELITE, FEWEST, MOST = 10, 3, 20  # one trial in so many is looked at; so many of a run at least, and at most
_BYTES = bounded.MIB  # of a file


class Learnt(Table):
    """One run that was learnt from."""

    name: str
    trials: int
    choices: int


class Prior(Table):
    """What roles say of sparsity.

    Attributes:
        prior_version: of this file.
        kinds: of choices that it speaks of.
        features, weights: the regression, see `values.prior`.
        explained: the share of the differences from uniform pruning that it predicts of networks left out.
        runs: that it was learnt from.
    """

    prior_version: Literal[1] = 1
    kinds: tuple[str, ...]
    features: tuple[str, ...]
    weights: tuple[Annotated[float, Range(-1000, 1000)], ...]
    explained: float | None
    runs: Annotated[tuple[Learnt, ...], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _is_of_this_regression(self) -> Prior:
        if self.features != FEATURES or len(self.weights) != len(FEATURES):
            raise ValueError(f"its features are others than {', '.join(FEATURES)}")
        return self


def learn(runs: Sequence[str | Path]) -> Prior:
    """The prior of the best trials of finished runs.

    Raises RunError or PolicyError for what is no run, or has no policy.json that says what its choices are.
    """
    if not runs:
        raise PolicyError("learn takes the directories of one or more runs")
    found, learnt = list[Network](), list[Learnt]()
    for directory in map(Path, runs):
        space, elite = best(directory)
        choices = known(directory, space)
        found.append(Network(choices, prior.shape_of([space.sparsity(policy) for policy in elite])))
        learnt.append(Learnt(name=space.name, trials=journal.count(directory), choices=len(space)))
    kinds = sorted({one.kind for network in found for one in network.choices})
    return Prior(
        kinds=tuple(kinds),
        features=FEATURES,
        weights=tuple(prior.fit(found).tolist()),
        explained=prior.explained(found),
        runs=tuple(learnt),
    )


def best(directory: Path) -> tuple[SearchSpace, list[Policy]]:
    """The choices of a run, and its best policies, best first. Raises PolicyError where no trial succeeded."""
    space = journal.space_of(directory)
    done = [trial for trial in journal.trials(directory, Rules(space)) if trial.reward is not None]
    if not done:
        raise PolicyError(f"no trial of {directory} succeeded; a run that has found something is right")
    ranked = list(dict.fromkeys(trial.policy for trial in sorted(done, key=journal.rank, reverse=True)))
    return space, ranked[: min(max(FEWEST, len(done) // ELITE), MOST)]


def known(directory: Path, space: SearchSpace) -> tuple[Placed, ...]:
    """The choices of a run by their roles, which its policy file says."""
    found = {one.name: one for one in policy_file.read(directory).placed()}
    if absent := [choice.name for choice in space if choice.name not in found]:
        raise PolicyError(f"{directory / policy_file.NAME} has no choice {absent[0]!r}, which its run has")
    return tuple(found[choice.name] for choice in space)


def write(path: Path, made: Prior) -> None:
    """Write `made` so that `path` holds all of it or what it held before."""
    disk.write_text(path, made.model_dump_json(indent=2) + "\n")


def is_prior(path: Path) -> bool:
    """Whether a file says that it is one."""
    try:
        return b'"prior_version"' in bounded.read(path, _BYTES)
    except (OSError, ValueError):
        return False


def read(path: Path) -> Prior:
    """The prior in a file. Raises PolicyError naming what is wrong."""
    try:
        return Prior.model_validate_json(json.dumps(bounded.parsed(bounded.read(path, _BYTES))))
    except OSError as wrong:
        raise PolicyError(f"{path} cannot be read ({reason(wrong)}); a file of `autoprune learn` is right") from None
    except pydantic.ValidationError as wrong:
        raise PolicyError(f"{path} is no prior of version 1: {': '.join(first_fault(wrong.errors()))}") from None
    except ValueError as wrong:
        raise PolicyError(f"{path} is no prior of version 1: {one_line(wrong)}") from None


def predicted(study: Study, made: Prior, source: str) -> Mapped:
    """What a prior says of the network of `study`, within its budget. Raises PolicyError where that is nothing."""
    choices = placed(study)
    if not any(one.kind in made.kinds for one in choices):
        kinds = ", ".join(sorted({one.kind for one in choices}))
        raise PolicyError(f"{source} speaks of {', '.join(made.kinds)} choices, and {study.name} has {kinds}")
    wanted = prior.sparsity(np.array(made.weights), choices)
    found = tuple(
        Carried(one.name, float(s), (source,)) if one.kind in made.kinds else
        Carried(one.name, 0.0, (), f"the prior says nothing of the kind {one.kind}")
        for one, s in zip(choices, wanted, strict=True)
    )  # fmt: skip
    return Mapped(fitted(study, [one.sparsity for one in found]), found)
