"""Rewards against their papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autoprune import plugins, rewards
from autoprune.errors import ConfigError
from autoprune.rewards import Guaranteed, MnasNet, uses_costs, uses_dense_metric

COSTS = {"macs": 1e6, "params": 1e4, "latency": 1.5}
DENSE = {"macs": 4e6, "params": 2e4, "metric": 0.95, "latency": 3.0}


def test_metric_is_itself() -> None:
    assert rewards.metric(0.9, COSTS, DENSE) == 0.9


def test_amc() -> None:
    assert rewards.r_err(0.9, {}, {}) == pytest.approx(-0.1)
    assert rewards.r_flops(0.9, COSTS, DENSE) == pytest.approx(-0.1 * math.log(1e6))
    assert rewards.r_flops(0.9, {"flops": 2e6}, {}) == rewards.r_flops(0.9, COSTS, DENSE)
    assert rewards.r_param(0.9, COSTS, DENSE) == pytest.approx(-0.1 * math.log(1e4))
    assert rewards.r_latency(0.9, {"latency": 2.5}, DENSE) == pytest.approx(-0.1 * math.log(2500))


@pytest.mark.parametrize("reward", [rewards.r_flops, rewards.r_param, MnasNet(), Guaranteed()])
def test_a_network_that_costs_nothing_is_worth_at_least_as_much_as_one_that_costs_little(reward: Any) -> None:
    """Where whole blocks may go, nothing with a multiplication need stay."""
    none, little = ({"macs": count, "params": count} for count in (0.0, 1.0))
    assert math.isfinite(reward(0.96, none, DENSE))
    assert reward(0.96, none, DENSE) >= reward(0.96, little, DENSE)


def test_mnasnet_is_the_metric_where_the_cost_is_as_wanted() -> None:
    assert MnasNet(share=0.25)(0.9, COSTS, DENSE) == pytest.approx(0.9)


def test_mnasnet_takes_five_percent_for_twice_the_cost() -> None:
    reward = MnasNet(share=0.25)
    assert reward(0.9, {"macs": 2e6}, DENSE) / reward(0.9, COSTS, DENSE) == pytest.approx(0.953, abs=1e-3)


def test_mnasnet_on_another_cost() -> None:
    assert MnasNet(cost="params", share=0.5, exponent=-1.0)(0.8, {"params": 2e4}, DENSE) == pytest.approx(0.4)


def test_guaranteed_is_what_is_saved_within_the_tolerance() -> None:
    assert Guaranteed(tolerance=0.01)(0.945, COSTS, DENSE) == pytest.approx(0.75)
    assert Guaranteed(tolerance=0.0)(0.95, COSTS, DENSE) == pytest.approx(0.75)
    assert Guaranteed(cost="params")(0.97, COSTS, DENSE) == pytest.approx(0.5)


def test_guaranteed_ranks_by_cost_within_the_tolerance_and_by_metric_beyond_it() -> None:
    reward = Guaranteed(tolerance=0.01)
    ascending = [
        reward(0.10, {"macs": 1e5}, DENSE),
        reward(0.93, {"macs": 1e5}, DENSE),
        reward(0.9399, {"macs": 3e6}, DENSE),
        reward(0.99, DENSE, DENSE),
        reward(0.95, {"macs": 3e6}, DENSE),
        reward(0.94, {"macs": 2e6}, DENSE),
    ]
    assert ascending == sorted(set(ascending))
    assert ascending[2] < 0 == ascending[3]


def test_only_guaranteed_asks_for_the_dense_metric() -> None:
    assert [name for name in plugins.OURS["reward"] if uses_dense_metric(built(name))] == ["guaranteed"]
    with pytest.raises(ConfigError, match="needs the cost 'metric'"):
        Guaranteed()(0.9, COSTS, {"macs": 1e6})
    with pytest.raises(ConfigError, match=r"tolerance = -0\.1"):
        Guaranteed(tolerance=-0.1)


def built(name: str) -> rewards.Rewarding:
    return plugins.build("reward", {"use": name})


@pytest.mark.parametrize("name", plugins.OURS["reward"])
def test_better_metric_better_reward(name: str) -> None:
    reward = built(name)
    assert reward(0.91, COSTS, DENSE) > reward(0.90, COSTS, DENSE)


@pytest.mark.parametrize("name", plugins.OURS["reward"])
def test_says_whether_costs_matter_and_means_it(name: str) -> None:
    reward = built(name)
    cheap = reward(0.95, {name: cost / 2 for name, cost in COSTS.items()}, DENSE)
    dear = reward(0.95, COSTS, DENSE)
    assert (cheap > dear) == uses_costs(reward)
    assert cheap >= dear


def test_a_stranger_is_taken_not_to_use_costs() -> None:
    assert not uses_costs(lambda metric, costs, dense: metric)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"share": 0.0}, "share = 0.0"), ({"share": 1.5}, "share = 1.5"), ({"exponent": 0.1}, "exponent = 0.1")],
)
def test_wrong_settings(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MnasNet(**settings)  # type: ignore[arg-type]


def test_a_missing_cost_is_named() -> None:
    with pytest.raises(ConfigError, match="needs the cost 'macs'; this search has params"):
        rewards.r_flops(0.9, {"params": 1.0}, {})
    with pytest.raises(ConfigError, match="mnasnet needs the cost 'ms'"):
        MnasNet(cost="ms")(0.9, COSTS, DENSE)
