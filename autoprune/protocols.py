"""The verbs of the house. A plugin is any object with these methods; it need not import autoprune.

What a plugin may offer beyond that is a protocol of its own here, and is looked for with `isinstance` (which reads the
attributes of a protocol on Python 3.11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from autoprune.inputs import Inputs
from autoprune.structure.prune import Candidate
from autoprune.values.budget import Predicts
from autoprune.values.space import Policy
from autoprune.values.terms import Figure
from autoprune.values.trial import Trial

Watch = Callable[[str, int, int], None]  # what is being done, how many are done, of how many
Sampler = Callable[[], float]  # runs a network once; milliseconds
Costs = Mapping[str, float]


def silent(what: str, done: int, of: int) -> None:
    """A `Watch` that does nothing."""


class Controller(Protocol):
    """Proposes policies and learns from what became of them.

    Its state is a function of its arguments and of the trials it was told: a new controller that is told the same
    trials goes on as the old one would have.
    """

    def ask(self) -> Policy:
        """A policy inside the space and the budget; none twice at a rung while others exist: `values.asks.Asks` helps.

        Raises Exhausted when there is none left to propose.
        """
        ...

    def tell(self, trial: Trial) -> None:
        """Learn from `trial`, whether or not this controller asked for its policy."""
        ...


@runtime_checkable
class Unadvised(Protocol):
    """A controller that says whether it begins by itself: a rule, chance, or a method as it was published."""

    unadvised: bool


@runtime_checkable
class SeeksFront(Protocol):
    """A controller that says whether it looks for a whole front of quality and cost: then a search needs no budget."""

    seeks_front: bool


@dataclass(frozen=True, slots=True)
class Score:
    """How good a candidate is.

    Attributes:
        metric: the task's quality on the holdout, higher is better.
        seconds: what an evaluator tells apart of the time that this took, by name.
    """

    metric: float
    seconds: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """Makes the pruned network of a policy, lets it recover, and says how good it is.

    It is handed a `bench`, an `autoprune.evaluators.bench.Bench`.
    """

    def realise(self, policy: Policy) -> Candidate:
        """The pruned network, a new model; the dense one stays byte-identical."""
        ...

    def recover(self, candidate: Candidate) -> Candidate:
        """The same after this evaluator's recovery, which may change the candidate's network in place.

        Raises TrialFailed where that cannot be.
        """
        ...

    def score(self, candidate: Candidate) -> Score:
        """The task's metric on the holdout of a candidate that has recovered, and is not changed.

        Raises TrialFailed when it is not finite.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """A plugin with something that a reader of the report must know."""

    notes: Sequence[str]  # sentences


@runtime_checkable
class SavesTime(Protocol):
    """An evaluator that saves time at the cost of truth."""

    def careful(self) -> Evaluator:
        """The same recovery in fp32, with every calibration image, scored on the whole holdout."""
        ...


@runtime_checkable
class Repeats(Protocol):
    """An evaluator, a slow one, that can be had once more with other calibration images."""

    def again(self) -> Evaluator | None:
        """The same with other calibration images; None where there are none left."""
        ...


@runtime_checkable
class Trains(Protocol):
    """An evaluator that trains weights of its own, once, before it can score: in `prepare`, or else when it must."""

    seconds: float  # that training took; 0 before it

    def rehearse(self, policy: Policy) -> Candidate:
        """The network of `policy` with weights that are not trained yet; refuses what training would fail on."""
        ...

    def take_up(self, folder: Path) -> None:
        """Use what was trained to the end and lies in `folder`. Raises ModelError where there is no such thing."""
        ...

    def prepare(self, folder: Path | None, watch: Watch) -> None:
        """Train, or go on with what lies in `folder`, where everything is kept that is done.

        `watch` hears what is being done, how many steps are done, of how many. Raises TrainingFailed where training
        does, and ModelError where the file is of something else.
        """
        ...


class CostModel(Protocol):
    """A number that is lower when a network is cheaper."""

    @property
    def unit(self) -> str:
        """What is counted: MAC, param, ms, MiB."""
        ...

    def measure(self, model: nn.Module, example: Inputs) -> float:
        """The cost of `model` on `example`, counted or timed on the model itself."""
        ...


class PredictiveCost(CostModel, Predicts, Protocol):
    """A cost that is known from the policy alone, monotone in every level unless it `MayFall`.

    Where it is not, a budget still holds, but may not be used up to the last channel. One that prices many policies at
    once is an `autoprune.values.budget.PredictsMany`; one with a margin, `KeepsAway`.
    """


@runtime_checkable
class MayFall(Protocol):
    """A cost that says whether it never rises with sparsity."""

    monotone: bool  # False where a network with a unit less may cost more


@runtime_checkable
class Learns(Protocol):
    """A cost that must measure something before it can predict.

    `state` is what it learnt, as JSON holds it; a new one that is given it as `known` predicts the same.
    """

    def state(self) -> Mapping[str, Any]:
        """What was learnt."""
        ...

    def learn(self, watch: Watch) -> None:
        """Measure what is needed; `watch` hears what is being done, how many are done, of how many."""
        ...


@runtime_checkable
class ByLayer(Protocol):
    """A cost that knows which layer takes how much of it."""

    def by_layer(self, policy: Policy) -> Mapping[str, float]:
        """What each layer takes in the network of `policy`, in the cost's unit; "" is what no pruning changes."""
        ...


@runtime_checkable
class SaysHowWell(Protocol):
    """A cost that is measured."""

    def sentence(self) -> str:
        """Where it was measured and how well it predicts, for people."""
        ...


@runtime_checkable
class Times(Protocol):
    """A cost whose measurement differs from its prediction, so that networks are measured in the end."""

    def figures(self, models: Sequence[nn.Module]) -> Sequence[Figure]:
        """What `models` cost as shares of the dense network, measured together, with the spread."""
        ...


@runtime_checkable
class Proves(Protocol):
    """A cost that becomes surer of its predictions by what is measured in the end."""

    def prove(self, policy: Policy, figure: Figure) -> None:
        """Note what the network of `policy` was measured to cost, as a share of the dense network."""
        ...


class Target(Protocol):
    """A runtime on a device, where networks are timed."""

    @property
    def key(self) -> Mapping[str, str | int]:
        """What a time depends on besides the network: "runtime" with its version, "device", threads and the like."""
        ...

    def ready(self, model: nn.Module, example: Inputs) -> Sampler:
        """`model` made ready for inputs like `example`; each call runs it once and gives milliseconds.

        Raises TargetError where the runtime cannot run it.
        """
        ...


@runtime_checkable
class TimesFamilies(Protocol):
    """A target that makes networks ready faster when they are pruned from the same one."""

    def family(self, dense: nn.Module, example: Inputs) -> Callable[[nn.Module], Sampler]:
        """A function like `Target.ready` of a network alone."""
        ...


@dataclass(frozen=True, slots=True)
class Units:
    """The n units of one group, one row each.

    Attributes:
        weight: (n, k), the rows of every layer that produces the units.
        coupled: (n, K), all weights that leave with a unit, the columns of its consumers among them; needs "coupled".
        scale: (n, m), the BatchNorm gammas behind a unit; needs "scale".
        grad: (n, K), the root mean square over calibration batches of the loss's gradient, matching `coupled` element
            by element (a trained network's mean gradient is nearly zero and says little); needs "grad".
        generator: the randomness a criterion may use; needs "generator".
    """

    weight: Tensor
    coupled: Tensor | None = None
    scale: Tensor | None = None
    grad: Tensor | None = None
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(self.weight)


class Criterion(Protocol):
    """How much each unit of a group matters."""

    def __call__(self, units: Units, /) -> Tensor:
        """One finite score a unit, shape (n,); the larger stay longer."""
        ...


@runtime_checkable
class Needs(Protocol):
    """A criterion that reads optional fields of `Units`."""

    needs: frozenset[str]  # their names


class Reward(Protocol):
    """One number from quality and costs, higher is better; or several, which make a front."""

    def __call__(self, metric: float, costs: Costs, dense: Costs, /) -> float | tuple[float, ...]:
        """`costs` of the pruned network and `dense` costs, by name of the cost model."""
        ...


@runtime_checkable
class UsesCosts(Protocol):
    """A reward that says whether it trades cost against quality itself: the search then need not use the budget up."""

    uses_costs: bool


@runtime_checkable
class UsesDenseMetric(Protocol):
    """A reward that says whether it finds the dense network's metric, under "metric", among the dense costs."""

    uses_dense_metric: bool


@runtime_checkable
class Bounds(Protocol):
    """A reward that means something only where the metric, the higher the better, lies between two numbers."""

    between: tuple[float, float]


@runtime_checkable
class NeedsLoss(Protocol):
    """An evaluator that says whether it trains with the task's loss, so that it needs labelled training samples."""

    needs_loss: bool


@runtime_checkable
class NamesCost(Protocol):
    """A reward that needs a cost besides those of the budget."""

    cost: str  # its name
