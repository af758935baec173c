"""MetaPruning's evolutionary search: its generations are the published ones, and it never repeats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoprune.controllers.genetic import Genetic
from autoprune.errors import BudgetError, ConfigError, Exhausted
from autoprune.testing.surrogate import half, toy_space
from autoprune.values.budget import Budget
from autoprune.values.space import Policy, SearchSpace
from autoprune.values.trial import Trial
from tests.making import done, failed, group

Kept = tuple[int, ...]


def reward(space: SearchSpace, policy: Policy) -> float:
    """Largest where the first half of the groups is thin and the second whole."""
    shares = np.array(policy.levels) / [g.dense for g in space]
    return float(shares[len(shares) // 2 :].mean() - shares[: len(shares) // 2].mean())


def told(controller: Genetic, space: SearchSpace, trials: int, failing: int = -1) -> list[Trial]:
    """What `trials` asks gave; every `failing`-th fails."""
    found = []
    for number in range(trials):
        policy = controller.ask()
        if failing > 0 and number % failing == 0:
            trial = failed(number, policy, "it broke")
        else:
            trial = done(number, policy, reward=reward(space, policy))
        controller.tell(trial)
        found.append(trial)
    return found


def made(space: SearchSpace, **settings: Any) -> Genetic:
    return Genetic(space=space, budget=half(space), **settings)


def distances(space: SearchSpace, child: Policy, parents: list[Policy]) -> int:
    """In how many groups `child` differs from the nearest of `parents`."""
    genes = np.array(child.levels)
    return min(int((genes != np.array(p.levels)).sum()) for p in parents)


def test_a_generation_is_mutations_then_crossovers_then_random_ones() -> None:
    space = toy_space(depth=8)
    free = Genetic(space, Budget(space), population=20, parents=5, mutations=8, crossovers=8)
    first = told(free, space, 20)
    elite = [t.policy for t in sorted(first, key=lambda t: -(t.reward or 0.0))[:5]]
    children = [t.policy for t in told_from(free, space, 20, 20)]
    mutated, crossed, drawn = children[:8], children[8:16], children[16:]
    assert max(distances(space, child, elite) for child in mutated) <= 4  # a gene changes with a chance of 0.1
    genes = [set(column) for column in zip(*(p.levels for p in elite), strict=True)]
    for child in crossed:
        assert all(gene in allowed for gene, allowed in zip(child.levels, genes, strict=True))
    assert min(distances(space, child, elite) for child in drawn) > 4


def told_from(controller: Genetic, space: SearchSpace, start: int, count: int) -> list[Trial]:
    found = []
    for number in range(start, start + count):
        policy = controller.ask()
        found.append(done(number, policy, reward=reward(space, policy)))
        controller.tell(found[-1])
    return found


def test_parents_are_of_earlier_generations_only() -> None:
    space = toy_space(depth=8)
    one, other = (made(space, population=10, mutations=5, crossovers=5) for _ in range(2))
    for number in range(10):
        policy = one.ask()
        assert policy == other.ask()
        for controller in (one, other):
            controller.tell(done(number, policy, reward=reward(space, policy)))
    policy = one.ask()  # the second generation begins
    assert policy == other.ask()
    one.tell(done(10, policy, reward=100.0))
    other.tell(done(10, policy, reward=-100.0))
    assert one.ask() == other.ask()  # that reward counts from the third on


@pytest.mark.parametrize("infeasible", ["project", "redraw"])
def test_nothing_is_proposed_twice_or_beyond_the_budget(infeasible: str) -> None:
    space = toy_space(depth=8)
    controller = made(space, infeasible=infeasible)
    trials = told(controller, space, 400, failing=7)
    assert len({trial.policy for trial in trials}) == 400
    assert all(controller.budget.admits(trial.policy) for trial in trials)


def test_it_converges_on_what_is_rewarded() -> None:
    space = toy_space(depth=8)
    trials = told(made(space), space, 500)
    means = [np.mean([t.reward for t in trials[i : i + 50]]) for i in (0, 450)]
    assert means[1] > means[0] + 0.2


def test_a_space_of_few_policies_is_exhausted() -> None:
    space = SearchSpace("two", (group("a", 2), group("b", 3)))
    controller = Genetic(space, Budget(space), population=4, mutations=2, crossovers=2)
    assert len({trial.policy for trial in told(controller, space, 6)}) == 6
    with pytest.raises(Exhausted, match="that was not proposed before"):
        controller.ask()


def test_a_budget_that_drawing_never_meets_names_what_does() -> None:
    space = toy_space(depth=8)
    cost = half(space).limits[0].cost
    from autoprune.values.budget import limits

    tight = limits({"macs": cost.predict(space.thinnest()) * 1.0001}, {"macs": cost}, space)
    controller = Genetic(space, Budget(space, tight), infeasible="redraw")
    with pytest.raises(BudgetError, match="infeasible = 'project' is right"):
        controller.ask()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"population": 0}, "population = 0"),
        ({"parents": 1}, "parents = 1"),
        ({"mutations": 26}, "26 mutations and 25 crossovers in a population of 50"),
        ({"mutate": 0.0}, "mutate = 0.0"),
        ({"infeasible": "repair"}, "infeasible = 'repair'; 'project' or 'redraw' is right"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(toy_space(), **settings)
