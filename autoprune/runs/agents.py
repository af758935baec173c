"""Agents that a search has trained, on other networks: one walk, and nothing is searched for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from autoprune.controllers.walk.walk import FEATURES, Walk
from autoprune.errors import PolicyError
from autoprune.files import agent_file
from autoprune.files.agent_file import Agent
from autoprune.runs.mapped import Mapped
from autoprune.runs.study import Study
from autoprune.values.roles import Carried


@runtime_checkable
class HasAgent(Protocol):
    """A controller whose agent fits other networks, too."""

    name: str

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The tensors of actor and critic, by name; their state are the walk's features."""
        ...


def kept(controller: object, folder: Path) -> None:
    """Write what `controller` has trained into a run's folder, if it is for other networks, too."""
    if isinstance(controller, HasAgent):
        agent_file.write(folder / agent_file.NAME, Agent(controller.name, FEATURES, controller.trained))


def rolled(study: Study, path: Path) -> Mapped:
    """The policy at the end of one walk of the agent in `path` over the network of `study`, within its budget.

    Raises PolicyError where it is no agent, or one whose state is another.
    """
    agent, walk = agent_file.read(path), Walk(study.space, study.budget)
    prefix = walk.start()
    if agent.state != FEATURES or walk.observe(prefix).shape != (len(FEATURES),):
        raise PolicyError(f"{path} looks at {', '.join(agent.state)}; a walk shows {', '.join(FEATURES)}")
    while not walk.over(prefix):
        prefix = walk.decide(prefix, agent.share(walk.observe(prefix).astype(float)))
    policy = walk.policy(prefix)
    sparsity = study.space.sparsity(policy)
    found = tuple(Carried(c.name, s, (str(path),)) for c, s in zip(study.space, sparsity, strict=True))
    return Mapped(policy, found)
