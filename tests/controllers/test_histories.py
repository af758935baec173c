"""What controllers remember: no more than they look at, so that an ask costs the same however long a search goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from optuna.samplers import TPESampler

from autoprune.controllers.bayes import Bayes
from autoprune.controllers.cmaes import CmaEs
from autoprune.controllers.ddpg import DDPG
from autoprune.controllers.evolution import Evolution
from autoprune.controllers.genetic import Genetic
from autoprune.controllers.nsga2 import Nsga2
from autoprune.controllers.optuna import BEST, ModelBased, kept
from autoprune.controllers.qmc import Qmc
from autoprune.controllers.random import Random
from autoprune.protocols import Controller
from autoprune.testing.controllers import drive, new
from autoprune.testing.surrogate import half, judge, toy_space
from autoprune.values.space import Policy
from autoprune.values.trial import Trial
from tests import counting
from tests.making import done

SPACE = toy_space(depth=6)
MAKES: dict[str, Callable[..., Any]] = {
    "random": Random,
    "qmc": Qmc,
    "evolution": Evolution,
    "genetic": Genetic,
    "bayes": Bayes,
    "cmaes": CmaEs,
    "nsga2": Nsga2,
    "ddpg": partial(DDPG, hidden=(8,), warmup=100_000),
}


@cache
def past(trials: int) -> list[Trial]:
    """Any policies, and rewards by lot."""
    rng = np.random.default_rng(1)
    drawn = zip(rng.random((trials, len(SPACE))).tolist(), rng.random(trials).tolist(), strict=True)
    return [done(number, SPACE.snap(point), reward, {"macs": reward}) for number, (point, reward) in enumerate(drawn)]


def told(name: str, trials: int) -> Controller:
    controller: Controller = new(MAKES[name], SPACE)
    for trial in past(trials):
        controller.tell(trial)
    return controller


@pytest.mark.parametrize("name", MAKES)
def test_an_ask_looks_at_no_more_after_nine_hundred_trials_than_after_five_hundred(name: str) -> None:
    """bayes asked for 309 ms at 400 trials and for 3,344 at 5,000; nsga2 as long."""
    few, many = (counting.least(told(name, trials).ask, times=3) for trials in (510, 910))
    assert many.calls < 1.5 * few.calls
    assert many.held < 1.5 * few.held + 4000


@pytest.mark.parametrize("name", MAKES)
def test_a_controller_holds_no_more_of_a_trial_than_that_its_policy_was_seen(name: str) -> None:
    """A set's place for a policy that the journal's trials hold anyway; a trial in Optuna's words has several thousand
    bytes."""
    controller: Controller = new(MAKES[name], SPACE)

    def tell(trials: list[Trial]) -> None:
        for trial in trials:
            controller.tell(trial)
        controller.ask()

    every = past(4000)
    few, many = counting.held(lambda: tell(every[:1500]), lambda: tell(every[1500:]))
    assert many - few < 160 * 2500


def test_a_model_that_has_forgotten_goes_on_from_a_journal_as_it_would_have() -> None:
    """Also where the run was stopped during an ask."""

    def ask() -> Policy:
        return model.ask(lambda seed: TPESampler(multivariate=True, seed=seed))

    model, trials = ModelBased(SPACE, half(SPACE), 0, most=40), list[Trial]()
    for number in range(75):  # forgets at 40, 48, 56 ...
        trials.append(judge(SPACE, number, ask()))
        model.tell(trials[-1])
    ask()  # never told
    wanted = trials[60:]
    for stopped in (60, 71):
        model = ModelBased(SPACE, half(SPACE), 0, most=40)
        for trial in trials[:stopped]:
            model.tell(trial)
        for trial in wanted[stopped - 60 :]:
            assert ask() == trial.policy
            model.tell(trial)


def test_the_best_are_kept_and_of_the_others_the_latest() -> None:
    rewards = [1.0, *np.linspace(0.0, 0.5, 99).tolist()]
    found = kept(rewards, 40)
    assert found == [0, *range(61, 100)]
    assert kept(sorted(rewards, reverse=True), 40) == [*range(BEST), *range(85, 100)]
    assert kept([0.5] * 50, 30) == [*range(BEST), *range(45, 50)]  # of equals the first are the best


def test_genetic_breeds_from_whole_generations() -> None:
    """What the current generation finds waits until it is over, also where tells come late."""
    make = partial(Genetic, population=6, parents=2, mutations=6, crossovers=0, mutate=0.3)
    controller = new(make, SPACE)
    trials = drive(controller, 15, space=SPACE)
    best = sorted(trials[:12], key=lambda t: -(t.reward or 0.0))[:2]
    again = new(make, SPACE)
    for trial in trials[:12]:
        again.tell(trial)
    expected = again.ask()
    assert expected == trials[12].policy
    late = new(make, SPACE)
    for trial in trials:
        late.tell(trial)
    elite = [tuple(place) for place in map(SPACE.cube.places, (t.policy for t in best))]
    assert [tuple(SPACE.cube.places(policy)) for policy in late._then] == elite
