"""What roles say of sparsity: a small regression over what several searches have found.

A policy is taken as a shape: the logarithm of what stays of each choice, against its mean over the network, so that how
hard the whole is pruned does not matter; 1 is as hard as the mean, 0 is dense. The shape is linear in a few facts of
roles (ridge regression, in closed form). A prediction is a shape again, and a budget says how hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.values.roles import Placed
from autoprune.values.terms import Floats

FEATURES = ("constant", "stage", "stage squared", "depth", "depth squared", "first", "position", "width", "shared",
            "kernel", "stride", "depthwise", "linear", "other layer")  # fmt: skip
_LEAST = 0.02  # of what stays: a block that leaves has no logarithm
_RIDGE = 0.05  # penalty on each weight but the first, a row
_HARDEST = 4.0  # a choice that is predicted to be pruned harder than so many times the mean is not believed
_HALF = math.log(2)  # a shape of 1 is half of a choice


@dataclass(frozen=True, slots=True)
class Network:
    """The choices of a network, and what searches have found of them, as one shape, (choices,)."""

    choices: tuple[Placed, ...]
    shape: Floats


def shape_of(sparsities: Sequence[Sequence[float]]) -> Floats:
    """The mean shape of policies, (policies, choices) in [0, 1] -> (choices,); all ones of dense ones."""
    logs = -np.log(np.maximum(1.0 - np.asarray(sparsities, dtype=np.float64), _LEAST))  # (policies, choices)
    means = logs.mean(axis=1, keepdims=True)
    shapes: Floats = np.where(means > 0, logs / np.maximum(means, 1e-12), 1.0).mean(axis=0)
    return shapes


def features(choices: Sequence[Placed]) -> Floats:
    """(choices, features), as `FEATURES` names them."""
    last = max((one.role.stage for one in choices), default=0)
    rows = []
    for one in choices:
        role, stage = one.role, one.role.stage / max(last, 1)
        conv = role.layer in ("conv", "depthwise", "linear")
        rows.append([
            1.0, stage, stage**2, role.depth, role.depth**2, role.depth == 0, role.position, role.width, role.shared,
            math.log2(max(role.kernel, 1)), math.log2(max(role.stride, 1)),
            role.layer == "depthwise", role.layer == "linear", not conv,
        ])  # fmt: skip
    return np.array(rows, dtype=np.float64).reshape(len(choices), len(FEATURES))


def fit(networks: Sequence[Network]) -> Floats:
    """The weights, (features,), that say the shapes of `networks` best; each network counts the same."""
    x = np.concatenate([features(one.choices) for one in networks])
    y = np.concatenate([one.shape for one in networks]) - 1.0  # what uniform pruning does not say
    weight = np.concatenate([np.full(len(one.shape), 1 / len(one.shape)) for one in networks])
    penalty = _RIDGE * np.diag([0.0, *np.ones(len(FEATURES) - 1)]) * len(networks)
    left = (x * weight[:, None]).T @ x + penalty + 1e-9 * np.eye(len(FEATURES))
    found: Floats = np.linalg.solve(left, x.T @ (weight * y))
    return found


def sparsity(weights: Floats, choices: Sequence[Placed]) -> Floats:
    """The shape that `weights` predict, as the sparsity of each of `choices`, (choices,) in [0, 1)."""
    shape = np.clip(1.0 + features(choices) @ weights, 0.0, _HARDEST)
    found: Floats = 1.0 - np.exp(-_HALF * shape)
    return found


def explained(networks: Sequence[Network]) -> float | None:
    """Which share of how shapes differ from uniform pruning is predicted for networks that were left out; None of one.

    Below 0 where uniform pruning says more. Networks of the same choices are left out together.
    """
    kinds = [tuple((one.kind, one.role) for one in network.choices) for network in networks]
    if len(set(kinds)) < 2:
        return None
    missed = total = 0.0
    for kind in dict.fromkeys(kinds):
        weights = fit([one for one, its in zip(networks, kinds, strict=True) if its != kind])
        for one in (one for one, its in zip(networks, kinds, strict=True) if its == kind):
            predicted = np.clip(1.0 + features(one.choices) @ weights, 0.0, _HARDEST)
            missed += float(((one.shape - predicted) ** 2).mean())
            total += float(((one.shape - 1.0) ** 2).mean())
    return 1.0 - missed / total if total else None
