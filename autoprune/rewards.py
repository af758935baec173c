"""One number from quality and costs, higher is better.

A reward whose `uses_costs` is true trades cost against quality itself: then the search need not use the budget up.
One whose `uses_dense_metric` is true also finds the dense network's metric, under "metric", among the dense costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

from autoprune.errors import ConfigError
from autoprune.metrics import Judge
from autoprune.protocols import Bounds, Costs, Reward, UsesCosts, UsesDenseMetric
from autoprune.values.ranges import Range, ShareAbove, require

_LEAST = 1e-6  # of a wanted cost, what one that is not there counts as


def trades(*cost: str) -> Callable[[Reward], Reward]:
    """Say that a reward trades cost against quality, and which cost it needs besides those of the budget, if any."""

    def mark(reward: Reward) -> Reward:
        reward.uses_costs = True  # type: ignore[attr-defined]  # now it is a `UsesCosts`
        for name in cost:
            reward.cost = name  # type: ignore[attr-defined]  # and a `NamesCost`
        return reward

    return mark


def of_shares(reward: Reward) -> Reward:
    """Say that a reward is of metrics in [0, 1], higher being better."""
    reward.between = (0.0, 1.0)  # type: ignore[attr-defined]  # now it is a `Bounds`
    return reward


def require_fit(name: str, reward: Reward, judge: Judge) -> None:
    """Raise ConfigError where the reward called `name` means nothing for the numbers of `judge`."""
    if not isinstance(reward, Bounds):
        return
    instead = "reward 'metric' or 'guaranteed' is right"
    if judge.lower_is_better:
        raise ConfigError(f"reward {name} is of metrics that are better when higher, not of {judge.name!r}; {instead}")
    if reward.between[1] == 1 and not judge.percent:
        raise ConfigError(
            f"reward {name} is of metrics in [0, 1], and {judge.name!r} is not said to be one: "
            f"give Task(percent=True) if it is; else {instead}"
        )


def uses_costs(reward: Reward) -> bool:
    """Whether `reward` trades cost against quality; a reward that does not say so is taken not to."""
    return isinstance(reward, UsesCosts) and reward.uses_costs


def uses_dense_metric(reward: Reward) -> bool:
    """Whether `reward` compares with the dense network's metric; a reward that does not say so is taken not to."""
    return isinstance(reward, UsesDenseMetric) and reward.uses_dense_metric


def metric(metric: float, costs: Costs, dense: Costs) -> float:
    """The metric itself; the budget bounds the costs."""
    return metric


def r_err(metric: float, costs: Costs, dense: Costs) -> float:
    """-error, for a metric in [0, 1]. He et al. 2018 (AMC), https://arxiv.org/abs/1802.03494."""
    return -(1.0 - metric)


@of_shares
@trades()
def r_flops(metric: float, costs: Costs, dense: Costs) -> float:
    """-error x log(MACs), for a metric in [0, 1]. He et al. 2018 (AMC), whose code counts MACs, too; none are 1."""
    return -(1.0 - metric) * math.log(max(_macs(costs), 1.0))


@of_shares
@trades("params")
def r_param(metric: float, costs: Costs, dense: Costs) -> float:
    """-error x log(parameters), for a metric in [0, 1]. He et al. 2018 (AMC)."""
    return -(1.0 - metric) * math.log(max(_cost(costs, "params", "r_param"), 1.0))


@of_shares
@trades("latency")
def r_latency(metric: float, costs: Costs, dense: Costs) -> float:
    """-error x log(microseconds on the target), for a metric in [0, 1]: the form of He et al. 2018 (AMC)."""
    return -(1.0 - metric) * math.log(1e3 * _cost(costs, "latency", "r_latency"))


@dataclass(frozen=True)
class MnasNet:
    """metric x (cost / wanted cost) ^ exponent. Tan et al. 2019, https://arxiv.org/abs/1807.11626, equation 2.

    Attributes:
        cost: name of the cost that is traded, e.g. "macs".
        share: the wanted cost as a share of the dense network's, in (0, 1].
        exponent: how much cost weighs, < 0; at -0.07 (the paper's) twice the cost is worth 5% of the metric. A cost of
            less than a millionth of the wanted one, such as none, weighs as a millionth.
    """

    uses_costs: ClassVar[bool] = True
    between: ClassVar[tuple[float, float]] = (0.0, math.inf)

    cost: str = "macs"
    share: ShareAbove = 0.5
    exponent: Annotated[float, Range(-100, 0)] = -0.07

    def __post_init__(self) -> None:
        require(self)

    def __call__(self, metric: float, costs: Costs, dense: Costs) -> float:
        """As `Reward`."""
        wanted = self.share * _cost(dense, self.cost, "mnasnet")
        share = max(_cost(costs, self.cost, "mnasnet") / wanted, _LEAST)
        return metric * cast(float, share**self.exponent)


@dataclass(frozen=True)
class Guaranteed:
    """The share of a cost that is saved where quality is guaranteed, the metric still missing (below 0) elsewhere.

    AMC's accuracy-guaranteed compression (He et al. 2018, https://arxiv.org/abs/1802.03494): the smallest
    network that loses no more than `tolerance`. Every network within the tolerance is worth more than any beyond it.

    Attributes:
        cost: name of the cost that is saved, e.g. "macs" or "params".
        tolerance: how far the metric may be below the dense network's, in the metric's unit, >= 0.
    """

    uses_costs: ClassVar[bool] = True
    uses_dense_metric: ClassVar[bool] = True

    cost: str = "macs"
    tolerance: Annotated[float, Range(0, 1e9)] = 0.005

    def __post_init__(self) -> None:
        require(self)

    def __call__(self, metric: float, costs: Costs, dense: Costs) -> float:
        """As `Reward`."""
        over = metric - (_cost(dense, "metric", "guaranteed") - self.tolerance)
        if over < 0:
            return over
        return 1.0 - _cost(costs, self.cost, "guaranteed") / _cost(dense, self.cost, "guaranteed")


def _macs(costs: Costs) -> float:
    return costs["flops"] / 2 if "macs" not in costs and "flops" in costs else _cost(costs, "macs", "r_flops")


def _cost(costs: Costs, name: str, reward: str) -> float:
    if name not in costs:
        raise ConfigError(
            f"reward {reward} needs the cost {name!r}; this search has {', '.join(sorted(costs)) or 'none'}"
        )
    return costs[name]
