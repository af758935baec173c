"""`policy.json`: which network, how much of each of its groups stays, and what that costs. Readable without autoprune.

The file is plain JSON and every key says what it holds. `model.architecture` is a fingerprint of the names, shapes and
types of the dense network's tensors, `model.weights` one of their values: the first must agree before a policy may be
applied, the second tells a retrained network from the one that was searched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from torch import nn

from autoprune.errors import PolicyError
from autoprune.runs.journal import write_text
from autoprune.values.space import Group, Policy, SearchSpace

NAME = "policy.json"
SCHEMA = 1


class Table(pydantic.BaseModel):
    """A JSON object whose keys are all known."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class GroupEntry(Table):
    """What one group keeps."""

    name: str
    layers: tuple[str, ...]
    kept: int
    of: int
    sparsity: float

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> GroupEntry:
        if not 1 <= self.kept <= self.of:
            raise ValueError(f"group {self.name!r} keeps {self.kept} of {self.of}; 1 to {self.of} can stay")
        if abs(self.sparsity - (self.of - self.kept) / self.of) > 1e-6:
            said = f"{self.kept} of {self.of} is a sparsity of {(self.of - self.kept) / self.of:.4f}"
            raise ValueError(f"group {self.name!r}: {said}, not {self.sparsity}")
        return self


class ModelEntry(Table):
    """Which dense network the policy is for.

    `rebuild` names a built-in architecture and is empty for others; both fingerprints are sha256, see `fingerprint`.
    """

    rebuild: str = ""
    architecture: str
    weights: str


class CostEntry(Table):
    """One cost, in its unit: of the dense network, predicted from the policy, counted on the pruned network."""

    unit: str
    dense: float
    predicted: float
    counted: float


class LimitEntry(Table):
    """One ceiling: as it was written, and the largest value it allows."""

    asked: str
    most: float


class PolicyFile(Table):
    """Everything that is needed to prune the same way again."""

    schema_version: Literal[1] = 1
    task: dict[str, Any]
    model: ModelEntry
    space: str
    groups: tuple[GroupEntry, ...]
    criterion: dict[str, Any]
    evaluator: dict[str, Any]
    budget: dict[str, LimitEntry]
    costs: dict[str, CostEntry]
    metric: float | None = None
    seed: int
    versions: dict[str, str]

    def policy(self, groups: Sequence[Group]) -> Policy:
        """The policy, in the order of `groups`. Raises PolicyError naming what does not fit."""
        found = {entry.name: entry for entry in self.groups}
        absent = [g.name for g in groups if g.name not in found]
        extra = sorted(set(found) - {g.name for g in groups})
        if absent or extra:
            what = f"has no group {absent[0]!r}" if absent else f"has the group {extra[0]!r}, which the network has not"
            raise PolicyError(f"the policy is for another network: it {what}; {_difference(len(absent), len(extra))}")
        for group in groups:
            if found[group.name].of != group.of:
                units = f"{found[group.name].of} units in the policy and {group.of} in the network"
                raise PolicyError(f"the policy is for another network: group {group.name!r} has {units}")
        return Policy(tuple(g.sparsity(found[g.name].kept) for g in groups))


def fingerprint(model: nn.Module, rebuild: str = "") -> ModelEntry:
    """Which network `model` is. Equal for equal names, shapes, types and values of its parameters and buffers."""
    shapes, values = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        shapes.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        values.update(flat.view(torch.uint8).numpy().tobytes())
    return ModelEntry(rebuild=rebuild, architecture=shapes.hexdigest(), weights=values.hexdigest())


def entries(space: SearchSpace, policy: Policy) -> tuple[GroupEntry, ...]:
    """What `policy` keeps of each group."""
    pairs = zip(space, space.kept(policy), strict=True)
    return tuple(
        GroupEntry(name=g.name, layers=g.layers, kept=kept, of=g.of, sparsity=round(g.sparsity(kept), 9))
        for g, kept in pairs
    )


def write(path: Path, file: PolicyFile) -> None:
    """Write `file` so that `path` holds all of it or what it held before."""
    write_text(path, file.model_dump_json(indent=2) + "\n")


def read(path: str | Path) -> PolicyFile:
    """The policy in a file, or in a run's directory. Raises PolicyError naming what is wrong."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        reason = getattr(wrong, "strerror", None) or "it is no text"
        raise PolicyError(f"{path} cannot be read ({reason}); a {NAME} that a search wrote is needed there") from None
    try:
        return PolicyFile.model_validate_json(text)
    except pydantic.ValidationError as wrong:
        raise PolicyError(f"{path} is no policy file of schema version {SCHEMA}: {_fault(wrong)}") from None


def require_same(file: PolicyFile, model: nn.Module, *, weights: bool) -> None:
    """Raise PolicyError where `model` has another architecture than the policy's or, with `weights`, other values."""
    here = fingerprint(model)
    if here.architecture != file.model.architecture:
        differs = f"architecture {here.architecture[:12]}, the policy's is {file.model.architecture[:12]}"
        raise PolicyError(f"the policy is for another network: this one has {differs} (names, shapes or types differ)")
    if weights and here.weights != file.model.weights:
        differs = f"weights {here.weights[:12]}, the policy's are {file.model.weights[:12]}"
        raise PolicyError(
            f"the policy is for other weights of this network: these are {differs}; hand over the task itself"
        )


def _difference(absent: int, extra: int) -> str:
    return f"{absent} groups are missing and {extra} are unknown"


def _fault(wrong: pydantic.ValidationError) -> str:
    first = wrong.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
