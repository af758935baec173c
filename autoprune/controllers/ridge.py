"""What a small regression expects of policies: rewards by sparsities and their squares, in closed form."""

from __future__ import annotations

import numpy as np

from autoprune.values.terms import Floats

_RIDGE = 0.1  # penalty a trial, on standardised sparsities


def promise(points: Floats, rewards: Floats, candidates: Floats) -> Floats:
    """What is expected of each row of `candidates`, on a scale of its own, (policies,).

    Args:
        points: (trials, axes), where policies lie in the cube that got `rewards`, (trials,).
        candidates: (policies, axes).
    """
    rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-12)
    features = _features(points)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    known, new = (features - mean) / deviation, (_features(candidates) - mean) / deviation
    weighted = known * np.exp(np.minimum(rewards, 0.0))[:, None]  # how good the bad ones are matters less
    curvature = known.T @ weighted + _RIDGE * len(points) * np.eye(known.shape[1])
    expected: Floats = new @ np.linalg.solve(curvature, weighted.T @ rewards)
    return expected


def _features(points: Floats) -> Floats:
    """Coordinates and their squares, (policies, axes) -> (policies, 2 axes)."""
    return np.hstack([points, points**2])
