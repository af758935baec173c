"""Commands about what a search left: `policy show` and `policy validate`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from autoprune.command.shared import print_json, print_table
from autoprune.command.terminal import show as print
from autoprune.errors import ConfigError
from autoprune.files import policy_file, ratios
from autoprune.files.policy_file import PolicyFile

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
