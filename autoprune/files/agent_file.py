"""An agent as a safetensors file: actor and critic, and in the header what each number of their state is.

The state is the same for every network, so that an agent that was trained on one walks another. Nothing is unpickled,
and what does not fit together is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic
import safetensors
from torch import Tensor

from autoprune.errors import AutopruneError, PolicyError
from autoprune.files import disk, tensors
from autoprune.models.weights import not_finite, read as read_tensors
from autoprune.values.terms import Floats

NAME = "agent.safetensors"
_NAMES = pydantic.TypeAdapter(tuple[str, ...], config=pydantic.ConfigDict(strict=True))
_VERSION = "1"
_LAYER = re.compile(r"actor\.mu\.\d{1,3}\.weight", re.ASCII)


@dataclass(frozen=True)
class Agent:
    """An actor, and the critic that taught it.

    Attributes:
        learner: the controller that trained it.
        state: what each number of a state is, in order.
        tensors: of both, as "actor.mu.0.weight", "critic.qf0.0.weight" ...: layers with ReLU between them, and a
            hyperbolic tangent after the actor's last.
    """

    learner: str
    state: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def share(self, state: Floats) -> float:
        """What the actor removes, as a share in [0, 1] of what may be, in this state, (features,)."""
        layers = self._layers()
        found = np.asarray(state, dtype=np.float64)
        for weight, bias in layers[:-1]:
            found = np.maximum(weight @ found + bias, 0.0)
        weight, bias = layers[-1]
        return float((np.tanh(weight @ found + bias)[0] + 1.0) / 2.0)

    def fault(self) -> str:
        """Why this is no actor of that state; "" where it is one."""
        layers, inputs = self._layers(), len(self.state)
        if not layers:
            return "it has no layers actor.mu.0, actor.mu.2 ..."
        for at, (weight, bias) in enumerate(layers):
            if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
                return f"layer {at} of its actor has weights {weight.shape}; {inputs} columns are right"
            inputs = len(weight)
        if inputs != 1:
            return f"its actor says {inputs} numbers; one is right"
        return next((fault for name, one in self.tensors.items() if (fault := not_finite(name, one))), "")

    def _layers(self) -> list[tuple[Floats, Floats]]:
        """Weights and biases of the actor, first layer first."""
        names = sorted((int(name.split(".")[2]), name) for name in self.tensors if _LAYER.fullmatch(name))
        pairs = [(name, name.removesuffix("weight") + "bias") for _, name in names]
        return [(_floats(self.tensors[w]), _floats(self.tensors[b])) for w, b in pairs if b in self.tensors]


def write(path: Path, agent: Agent) -> None:
    """Write `agent` so that `path` holds all of it or what it held before."""
    about = {"format": "autoprune agent", "version": _VERSION, "learner": agent.learner}
    state = json.dumps(agent.state)
    disk.write_bytes(path, tensors.written(agent.tensors, {**about, "state": state}))


def read(path: Path) -> Agent:
    """The agent in a file. Raises PolicyError naming what is wrong."""
    try:
        found = read_tensors(path)
        with safetensors.safe_open(path, "pt") as file:
            words = file.metadata() or {}
    except AutopruneError as wrong:
        raise PolicyError(str(wrong)) from None
    if words.get("format") != "autoprune agent" or words.get("version") != _VERSION:
        raise PolicyError(f"{path} is no agent of version {_VERSION}; {NAME} of a run of ddpg-portable is right")
    try:
        agent = Agent(words.get("learner", ""), _NAMES.validate_json(words.get("state", "")), found)
    except pydantic.ValidationError:
        raise PolicyError(f"{path} does not say what its state is; a list of names is right") from None
    if fault := agent.fault():
        raise PolicyError(f"{path} is no agent: {fault}")
    return agent


def _floats(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().double().numpy()
    return found
