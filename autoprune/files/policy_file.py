"""`policy.json`: which network, the level of each of its choices, and what that costs. Readable without autoprune.

The file is plain JSON and every key says what it holds; docs/policy.schema.json is its JSON Schema. Version 3 is
written. Version 2, which had no `producers` and other roles, which do not carry a policy over to another network, and
version 1, whose choices were called groups and had no kind, are read for ever. `model.architecture` is a fingerprint of
the names, shapes and types of the dense network's tensors, `model.weights` one of their values: the first must agree
before a policy may be applied, the second tells a retrained network from the one that was searched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
from torch import nn

from autoprune import bounded
from autoprune.errors import PolicyError, first_fault, one_line, reason
from autoprune.files import disk
from autoprune.values.ranges import Range, Seed, Share
from autoprune.values.roles import Placed, Role
from autoprune.values.space import Choice, Policy, SearchSpace

NAME = "policy.json"
MOST = 64 * bounded.MIB  # of a file; a thousand choices take one
SCHEMA: Literal[3] = 3


class Table(pydantic.BaseModel):
    """A JSON object whose keys are all known."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ChoiceEntry(Table):
    """What stays of one choice: `kept` units of `of`.

    `layers` are all that lose weights, `producers` those of them whose output the units are, and `role` says where in
    the network that is, see `values.roles`; the last two are missing in files of versions that did not write them.
    """

    name: str
    kind: str = "channel"
    layers: tuple[str, ...]
    kept: Annotated[int, Range(0, 10**9)]
    of: Annotated[int, Range(1, 10**9)]
    sparsity: Share
    producers: tuple[str, ...] = ()
    role: Role | None = None

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> ChoiceEntry:
        least = 1 if self.kind == "channel" else 0
        if not least <= self.kept <= self.of:
            what = f"choice {self.name!r} keeps {self.kept} of {self.of}"
            raise ValueError(f"{what}; {least} to {self.of} can stay")
        if abs(self.sparsity - (self.of - self.kept) / self.of) > 1e-6:
            said = f"{self.kept} of {self.of} is a sparsity of {(self.of - self.kept) / self.of:.4f}"
            raise ValueError(f"choice {self.name!r}: {said}, not {self.sparsity}")
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
    """Everything that is needed to prune the same way again, and to finetune as the search did.

    `finetune` is empty in files of versions that did not write it.
    """

    schema_version: Literal[3]
    task: dict[str, Any]
    model: ModelEntry
    space: str
    choices: tuple[ChoiceEntry, ...]
    criterion: dict[str, Any]
    evaluator: dict[str, Any]
    operator: tuple[dict[str, Any], ...] = ()
    finetune: dict[str, Any] = {}
    budget: dict[str, LimitEntry]
    costs: dict[str, CostEntry]
    metric: float | None = None
    seed: Seed
    versions: dict[str, str]

    @pydantic.model_validator(mode="after")
    def _says_each_once(self) -> PolicyFile:
        names = [entry.name for entry in self.choices]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"it has the choice {twice[0]!r} twice; each once is right")
        return self

    def policy(self, choices: Sequence[Choice]) -> Policy:
        """The policy, in the order of `choices`. Raises PolicyError naming what does not fit."""
        found = {entry.name: entry for entry in self.choices}
        absent = [c.name for c in choices if c.name not in found]
        extra = sorted(set(found) - {c.name for c in choices})
        if absent or extra:
            what = (
                f"has no choice {absent[0]!r}" if absent else f"has the choice {extra[0]!r}, which the network has not"
            )
            raise PolicyError(f"the policy is for another network: it {what}; {_difference(len(absent), len(extra))}")
        for choice in choices:
            entry = found[choice.name]
            kinds = (choice.kind, "channel") if choice.kind == "head" else (choice.kind,)  # as heads were called
            if entry.of != choice.dense or entry.kind not in kinds:
                units = (
                    f"{entry.of} {entry.kind} units in the policy and {choice.dense} {choice.kind} units in the network"
                )
                raise PolicyError(f"the policy is for another network: choice {choice.name!r} has {units}")
        return Policy(tuple(found[choice.name].kept for choice in choices))

    def placed(self) -> tuple[Placed, ...]:
        """The choices by their roles. Raises PolicyError where the file does not say them."""
        if lost := [entry.name for entry in self.choices if entry.role is None]:
            raise PolicyError(
                f"the policy does not say where in its network the choice {lost[0]!r} is, as files of earlier versions "
                "do not; a search of this version writes it"
            )
        return tuple(Placed(one.name, one.kind, one.role, one.sparsity) for one in self.choices if one.role)


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, as docs/policy.schema.json holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicyFile.model_json_schema()}


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


def entries(space: SearchSpace, policy: Policy, roles: Sequence[Role]) -> tuple[ChoiceEntry, ...]:
    """What `policy` keeps of each choice; `roles` are theirs."""
    return tuple(
        ChoiceEntry(
            name=c.name,
            kind=c.kind,
            layers=c.layers,
            kept=level,
            of=c.dense,
            sparsity=round(c.sparsity(level), 9),
            producers=c.producers,
            role=role,
        )
        for c, level, role in zip(space, policy.levels, roles, strict=True)
    )


def write(path: Path, file: PolicyFile) -> None:
    """Write `file` so that `path` holds all of it or what it held before."""
    disk.write_text(path, file.model_dump_json(indent=2) + "\n")


def read(path: str | Path) -> PolicyFile:
    """The policy in a file, or in a run's directory. Raises PolicyError naming what is wrong."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        text = bounded.read(path, MOST)
    except OSError as wrong:
        what = f"{path} cannot be read ({reason(wrong)})"
        raise PolicyError(f"{what}; a {NAME} that a search wrote is needed there") from None
    try:
        return PolicyFile.model_validate_json(json.dumps(_upgraded(bounded.parsed(text))))
    except pydantic.ValidationError as wrong:
        raise PolicyError(f"{path} is no policy file of schema version {SCHEMA}: {_fault(wrong)}") from None
    except ValueError as wrong:
        raise PolicyError(f"{path} is no policy file of schema version {SCHEMA}: {one_line(wrong)}") from None


def _upgraded(found: Any) -> Any:
    """A file of version 1 or 2 as one of this version; any other as it is."""
    if not isinstance(found, dict):
        return found
    if found.get("schema_version") == 1 and "choices" not in found:
        kept = {word: value for word, value in found.items() if word != "groups"}
        found = {**kept, "schema_version": 2, "choices": found.get("groups")}
    choices = found.get("choices")
    if found.get("schema_version") != 2 or not isinstance(choices, list):
        return found
    return {**found, "schema_version": SCHEMA, "choices": [_without_role(one) for one in choices]}


def _without_role(choice: Any) -> Any:
    """A choice of version 2 without what it called a role; with what is not one of that version."""
    if not isinstance(choice, dict) or not isinstance(choice.get("role", []), list):
        return choice
    return {word: value for word, value in choice.items() if word != "role"}


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
    return f"{absent} choices are missing and {extra} are unknown"


def _fault(wrong: pydantic.ValidationError) -> str:
    place, said = first_fault(wrong.errors())
    return f"{place}: {said}" if place else said
