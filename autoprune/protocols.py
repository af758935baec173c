"""The verbs of the house. A plugin is any object with these methods; it need not import autoprune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from autoprune.criteria import Units
from autoprune.targets.timing import Figure
from autoprune.values.space import Policy
from autoprune.values.trial import Trial

Watch = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


class Controller(Protocol):
    """Proposes policies and learns from what became of them.

    Its state is a function of its arguments and of the trials it was told: a new controller that is told the same
    trials goes on as the old one would have.
    """

    def ask(self) -> Policy:
        """A policy inside the space and the budget. Raises Exhausted when there is none left to propose."""
        ...

    def tell(self, trial: Trial) -> None:
        """Learn from `trial`, whether or not this controller asked for its policy."""
        ...


class Evaluator(Protocol):
    """Makes the pruned model of a policy and says how good it is.

    What a reader of the report must know of it, it may say in `notes`, a tuple of sentences. Where it saves time at the
    cost of truth, `careful()` may give an evaluator like it that does not (`runs.fidelity.Careful`). How long
    the phases of the last `metric` took, it may say in `spent`, seconds by name.
    """

    def realise(self, policy: Policy) -> nn.Module:
        """The pruned network, a new model; the dense one stays byte-identical."""
        ...

    def metric(self, model: nn.Module) -> float:
        """The task's metric on the holdout after this evaluator's recovery, which changes `model`.

        Raises TrialFailed when it is not finite.
        """
        ...


@runtime_checkable
class Trains(Protocol):
    """An evaluator that trains weights of its own, once, before it can score. Without `prepare`, it does when it must.

    `seconds` is how long the training of what it has took.
    """

    @property
    def seconds(self) -> float:
        """Of training; 0 before it."""
        ...

    def rehearse(self, policy: Policy) -> nn.Module:
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

    def measure(self, model: nn.Module, example: Tensor) -> float:
        """The cost of `model` on `example`, counted or timed on the model itself."""
        ...


class PredictiveCost(CostModel, Protocol):
    """A cost that is known from the policy alone, monotone in every sparsity unless its `monotone` is false.

    Where it is not, a budget still holds, but may not be used up to the last channel.
    """

    def predict(self, policy: Policy) -> float:
        """The cost of the network that `policy` describes."""
        ...


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
class Times(Protocol):
    """A cost whose measurement differs from its prediction, so that networks are measured in the end.

    `margin`, if it has one, is the share by which policies are kept below a ceiling on it.
    """

    def figures(self, models: Sequence[nn.Module]) -> Sequence[Figure]:
        """What `models` cost as shares of the dense network, measured together, with the spread."""
        ...


class Target(Protocol):
    """A runtime on a device, where networks are timed.

    One that makes networks ready faster when they are pruned from the same one may offer `family(dense, example)`,
    which gives a function like `ready` of a network alone.
    """

    @property
    def key(self) -> Mapping[str, str | int]:
        """What a time depends on besides the network: "runtime" with its version, "device", threads and the like."""
        ...

    def ready(self, model: nn.Module, example: Tensor) -> Callable[[], float]:
        """`model` made ready for inputs like `example`, (n, ...); each call runs it once and gives milliseconds.

        Raises TargetError where the runtime cannot run it.
        """
        ...


class Criterion(Protocol):
    """How much each unit of a group matters."""

    def __call__(self, units: Units) -> Tensor:
        """One finite score a unit, shape (n,); the larger stay longer."""
        ...


class Reward(Protocol):
    """One number from quality and costs, higher is better."""

    def __call__(self, metric: float, costs: Mapping[str, float], dense: Mapping[str, float]) -> float:
        """`costs` of the pruned network and `dense` costs, by name of the cost model.

        Where this reward's `uses_dense_metric` is true, `dense["metric"]` is the dense network's metric.
        """
        ...
