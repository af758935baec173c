"""What roles say of sparsity, learnt from shapes that are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoprune.values import prior
from autoprune.values.prior import Network
from autoprune.values.roles import Placed, Role


def chain(depth: int) -> tuple[Placed, ...]:
    """Convolutions in three stages, whose width doubles."""
    stages = [min(3 * at // depth, 2) for at in range(depth)]
    return tuple(
        Placed(
            f"conv{at}", "channel", Role("conv", at % 3 == 0, stage, 0.5, at / (depth - 1), 2.0 ** (stage - 2), 16, 3)
        )
        for at, stage in enumerate(stages)
    )


def network(depth: int, noise: float = 0.0, seed: int = 0) -> Network:
    """Deep layers are pruned harder, and shared ones half as hard."""
    choices = chain(depth)
    shape = np.array([(0.5 + one.role.depth) * (0.5 if one.role.shared else 1.0) for one in choices])
    shape = shape * np.exp(noise * np.random.default_rng(seed).standard_normal(depth))
    return Network(choices, shape / shape.mean())


def test_how_hard_a_policy_prunes_does_not_change_its_shape() -> None:
    mild = np.array([0.1, 0.3, 0.0])
    hard = 1 - (1 - mild) ** 3
    np.testing.assert_allclose(prior.shape_of([mild]), prior.shape_of([hard]))
    assert prior.shape_of([mild]).mean() == pytest.approx(1.0)
    assert prior.shape_of([np.zeros(3)]).tolist() == [1.0] * 3
    assert np.isfinite(prior.shape_of([[1.0, 0.0]])).all()


def test_what_is_the_same_in_all_is_predicted_of_a_network_that_was_never_seen() -> None:
    weights = prior.fit([network(9, 0.1), network(12, 0.1, 1), network(15, 0.1, 2)])
    unseen = network(21)
    found = prior.sparsity(weights, unseen.choices)
    assert ((found > 0) & (found < 1)).all()
    assert np.corrcoef(prior.shape_of([found]), unseen.shape)[0, 1] > 0.9
    share = prior.explained([network(9), network(12), network(15)])
    assert share is not None
    assert share > 0.6


def test_what_is_chance_is_said_to_predict_nothing() -> None:
    dice = np.random.default_rng(0)
    networks = [Network(chain(depth), dice.random(depth) * 2) for depth in (9, 12, 15)]
    share = prior.explained(networks)
    assert share is not None
    assert share < 0.2


def test_runs_of_one_network_do_not_speak_for_others() -> None:
    assert prior.explained([network(9), network(9, 0.1)]) is None


def test_a_layer_that_was_never_seen_is_none_of_its_features() -> None:
    choices = chain(9)
    other = dataclasses.replace(choices[0], role=dataclasses.replace(choices[0].role, layer="linear"))
    rows = prior.features([choices[0], other])
    assert rows.shape == (2, len(prior.FEATURES))
    assert rows[:, prior.FEATURES.index("linear")].tolist() == [0.0, 1.0]
