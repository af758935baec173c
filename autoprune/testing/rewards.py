"""The contract of a reward. Subclass it, give a `reward` fixture, and every promise is tested.

class TestMine(RewardContract):
    @pytest.fixture
    def reward(self):
        return mine
"""

from __future__ import annotations

import math

import pytest

from autoprune.protocols import Reward

DENSE = {"macs": 40e6, "flops": 80e6, "params": 270e3, "latency": 3.0, "metric": 0.9}


class RewardContract:
    """What the search relies on: one finite number, which a better network never lowers."""

    @pytest.fixture
    def reward(self) -> Reward:
        """The reward under test."""
        raise NotImplementedError

    def test_is_finite(self, reward: Reward) -> None:
        """At chance, at perfection and at half the cost; each number, where there are several."""
        for metric in (0.0, 0.1, 0.5, 1.0):
            assert all(map(math.isfinite, several(reward(metric, at(0.5), DENSE))))

    def test_rises_with_the_metric(self, reward: Reward) -> None:
        """Of two networks that cost the same, the better one is rewarded more."""
        values = [several(reward(metric, at(0.5), DENSE))[0] for metric in (0.1, 0.5, 0.8)]
        assert values == sorted(values)
        assert values[0] < values[-1]

    def test_never_falls_with_a_saving(self, reward: Reward) -> None:
        """Of two networks that are as good, the cheaper one is rewarded no less."""
        values = [several(reward(0.8, at(share), DENSE)) for share in (1.0, 0.5, 0.1)]
        for one in zip(*values, strict=True):
            assert list(one) == sorted(one)

    def test_same_numbers_same_reward(self, reward: Reward) -> None:
        """It remembers nothing and writes nothing."""
        costs, dense = at(0.5), dict(DENSE)
        assert reward(0.8, costs, dense) == reward(0.8, costs, dense)
        assert (costs, dense) == (at(0.5), DENSE)


def several(earned: float | tuple[float, ...]) -> tuple[float, ...]:
    """All numbers of a reward; the first is what controllers maximise."""
    return earned if isinstance(earned, tuple) else (earned,)


def at(share: float) -> dict[str, float]:
    """The costs of a network that costs `share` of the dense one."""
    return {name: share * value for name, value in DENSE.items() if name != "metric"}
