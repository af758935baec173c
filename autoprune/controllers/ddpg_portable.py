"""AMC's agent in a form that other networks can use: see `PortableDDPG`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from autoprune.controllers.ddpg import DDPG
from autoprune.controllers.walk.walk import FEATURES
from autoprune.errors import PolicyError
from autoprune.files import agent_file

_PARTS = ("actor", "critic")


@dataclass
class PortableDDPG(DDPG):
    """AMC's agent, whose state fits every network: it holds AMC's features and no mark of which decision it is.

    So what it has learnt can walk another network; on its own one it learns less sharply, since neighbours look alike.

    Attributes:
        agent: the file of one that another search has trained, to be trained on: it walks from the first trial, after
            no random ones. "" begins anew.
    """

    name = "ddpg-portable"
    marks: ClassVar[bool] = False

    agent: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.warmup = 0 if self.agent else self.warmup

    @cached_property
    def algorithm(self) -> OffPolicyAlgorithm:
        """The agent of Stable-Baselines3, with what it begins with."""
        made: Any = super().algorithm
        if self.agent:
            self._take_up(made, Path(self.agent))
        agent: OffPolicyAlgorithm = made
        return agent

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The tensors of actor and critic, as they are trained so far."""
        parts = {part: getattr(self.algorithm, part).state_dict() for part in _PARTS}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _take_up(self, made: Any, path: Path) -> None:
        """Let `made` begin with the tensors in `path`. Raises PolicyError where they do not fit."""
        found = agent_file.read(path)
        if found.state != FEATURES:
            raise PolicyError(f"{path} looks at {', '.join(found.state)}; a walk shows {', '.join(FEATURES)}")
        for part in _PARTS:
            tensors = {n.removeprefix(f"{part}."): t for n, t in found.tensors.items() if n.startswith(f"{part}.")}
            for name in (part, f"{part}_target"):
                try:
                    getattr(made, name).load_state_dict(tensors)
                except RuntimeError:
                    sizes = f"hidden = {list(self.hidden)}"
                    raise PolicyError(
                        f"{path} holds another {part} than this one of {sizes}; write its sizes"
                    ) from None
