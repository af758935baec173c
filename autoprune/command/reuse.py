"""What `autoprune policy` and `learn` do, and what is said of a policy that was mapped to another network."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from autoprune.command.shared import print_json, print_table, refuse_unwritable
from autoprune.command.terminal import show as print
from autoprune.errors import ConfigError
from autoprune.files import policy_file, ratios
from autoprune.files.policy_file import PolicyFile
from autoprune.runs import prior
from autoprune.runs.mapped import Mapped
from autoprune.values.space import SearchSpace

_ROLE = ("layer", "stage", "position", "width", "kernel", "stride")


def policy(asked: argparse.Namespace) -> None:
    """Show a policy file, or say whether it is one."""
    file = policy_file.read(asked.file)
    if asked.form and asked.action != "show":
        raise ConfigError("--as is for `autoprune policy show`; leave it out")
    if asked.form:
        print_json(ratios.pruning_ratios(file))
    elif asked.json:
        print_json(file.model_dump(mode="json"))
    elif asked.action == "validate":
        print(f"{asked.file} is a policy of {len(file.choices)} choices for {file.space}")
    else:
        print("\n".join(_about(file)) + "\n")
        print_table(["choice", "kind", "kept", "of", "sparsity", *_ROLE], [list(row) for row in _rows(file)])


def learn(asked: argparse.Namespace) -> None:
    """Learn from runs, write that, and say how well it speaks of networks that it never saw."""
    refuse_unwritable(asked.out)
    made = prior.learn(asked.runs)
    prior.write(asked.out, made)
    if asked.json:
        print_json({"prior": str(asked.out), **made.model_dump(mode="json")})
        return
    print_table(["run of", "trials", "choices"], [[one.name, one.trials, one.choices] for one in made.runs])
    print()
    print_table(["fact", "weight"], list(zip(made.features, made.weights, strict=True)))
    print(f"\n{_worth(made)}\n\n{asked.out}")


def _worth(made: prior.Prior) -> str:
    """How well a prior predicts what it was not told."""
    if made.explained is None:
        return "All runs are of the same choices: how well this speaks of other networks is not known."
    said = f"Of networks that it was not told, it predicts {made.explained:.0%} of how they differ from uniform pruning"
    return f"{said}." if made.explained > 0 else f"{said}: less than nothing, uniform pruning is the better guess."


def _about(file: PolicyFile) -> Iterator[str]:
    """What the policy is for, and what it costs, a line each."""
    task = file.task.get("use", "?")
    yield f"{file.space}: a policy of {len(file.choices)} choices for task {task}, seed {file.seed}"
    for name, cost in file.costs.items():
        share = f", {cost.counted / cost.dense:.1%} of dense" if cost.dense else ""
        limit = f" (at most {file.budget[name].asked})" if name in file.budget else ""
        yield f"{name} {cost.counted:.6g} {cost.unit}{share}{limit}"
    if file.metric is not None:
        yield f"metric on the holdout, in the search: {file.metric:.4g}"


def _rows(file: PolicyFile) -> Iterator[list[object]]:
    """A row for each choice, with its role where the file says that."""
    for entry in file.choices:
        role = [getattr(entry.role, word, "") for word in _ROLE]
        yield [entry.name, entry.kind, entry.kept, entry.of, f"{entry.sparsity:.1%}", *role]


def mapping(space: SearchSpace, found: Mapped) -> dict[str, Any]:
    """As plain values: each choice, from what it got what, and what it has within the budget."""
    pairs = zip(space, found.choices, found.policy.levels, strict=True)
    return {
        "mapping": [
            {
                "name": choice.name, "from": list(one.sources), "why": one.why, "wanted": one.sparsity,
                "kept": level, "of": choice.dense, "sparsity": choice.sparsity(level),
            }
            for choice, one, level in pairs
        ]
    }  # fmt: skip


def show_mapping(space: SearchSpace, found: Mapped) -> None:
    """Where each choice of the network gets its level from, and what has none and why."""
    rows = [
        [one["name"], " - ".join(one["from"]) or "nothing", f"{one['wanted']:.1%}", one["kept"], one["of"]]
        for one in mapping(space, found)["mapping"]
    ]
    print_table(["choice", "from", "sparsity there", "kept", "of"], rows)
    for one in found.lost:
        print(f"{one.name} corresponds to nothing: {one.why}; it is taken at {one.sparsity:.1%}.")
    print()
