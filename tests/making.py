"""Short ways to make what tests are about."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.evaluators.bench import Bench
from autoprune.protocols import Criterion, Evaluator
from autoprune.structure.trace import trace
from autoprune.task import Task
from autoprune.values.space import Choice, Policy, SearchSpace, levels_of
from autoprune.values.trial import Failure, Outcome, Trial

NOTHING: Mapping[str, float] = {}


def group(name: str, of: int, layers: tuple[str, ...] = (), lowest: int = 1, step: int = 1) -> Choice:
    """A choice of channels."""
    return Choice(name, levels_of(of, lowest, step), layers=layers)


def done(
    number: int,
    policy: Policy,
    metric: float = 0.5,
    costs: Mapping[str, float] = NOTHING,
    reward: float | None = None,
    seconds: Mapping[str, float] = NOTHING,
) -> Trial:
    """A trial that succeeded; the reward is the metric unless it is given."""
    return Trial(number, policy, Outcome(metric, (metric if reward is None else reward,), costs), seconds)


def failed(
    number: int,
    policy: Policy,
    error: str = "it failed",
    costs: Mapping[str, float] = NOTHING,
    seconds: Mapping[str, float] = NOTHING,
) -> Trial:
    """A trial that did not."""
    return Trial(number, policy, Failure(error, costs), seconds)


def bench(task: Task, criterion: Criterion, seed: int = 0, **more: object) -> Bench:
    """All that an evaluator is handed, of a network that is traced here."""
    found = trace(task.model, task.example)
    space = SearchSpace(task.name, found.choices, found.ops, found.parameters)
    return Bench(task, found, space, criterion, seed, **more)  # type: ignore[arg-type]


def metric(evaluator: Evaluator, policy: Policy) -> float:
    """What a search sees of a policy."""
    return evaluator.score(evaluator.recover(evaluator.realise(policy))).metric
