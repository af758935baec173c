"""After the search: the winner against the dense network and the baselines, all at the same finetune.

The baselines are "uniform" and "random", the best of some random policies by the search's own reward. The winner and
they are finetuned by the same recipe with the same seed. This is the only place that reads the test split: once for
each network, when everything is decided.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from torch import nn

from autoprune.copies import copied
from autoprune.errors import Exhausted, TrialFailed
from autoprune.files import export
from autoprune.protocols import SavesTime, Watch
from autoprune.report.facts import Agreement, Network, Role
from autoprune.runs import fidelity, loop
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.runs.verify import Verifier
from autoprune.task import Task
from autoprune.train import restart, train
from autoprune.values.space import Policy
from autoprune.values.trial import Trial


@dataclass
class Clock:
    """Seconds spent, by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Inside, time counts for `phase`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True)
class Comparison:
    """What the search was worth.

    Attributes:
        best: the trial that is taken: of the largest reward that meets the budget when it is measured.
        networks: by role, the dense one first.
        model: the winner, finetuned.
        random: the trials of the random baseline.
        fidelity: the search's score against the slow one, over the random baseline; None where there is none.
        verifier: what was measured.
        notes: what the reader of the report must know.
        clock: time spent.
    """

    best: Trial
    networks: Mapping[Role, Network]
    model: nn.Module
    random: Sequence[Trial]
    fidelity: Agreement | None
    verifier: Verifier
    notes: Sequence[str]
    clock: Clock


def compare(study: Study, run: Run, watch: Watch) -> Comparison:
    """Take the best trial, choose baselines, finetune all alike, and read the test split."""
    clock, verifier, notes = Clock(), Verifier(study), list[str]()
    best = run.best()
    if verifier.limits:
        with clock("measuring"):
            best, said = verifier.best(run, watch)
        notes += [said] if said else []
    with clock("random baseline"):
        random = _sampled(study, run, watch)
    agreed = None
    if (most := study.config.report.fidelity) and isinstance(study.evaluator, SavesTime):
        with clock("fidelity"):
            agreed = fidelity.of_trials(study, random, most=most, watch=watch)
        if agreed is None:
            few = f"fewer than {fidelity.FEWEST} random policies have a slow score"
            notes.append(f"How true the score of the search is was not measured: {few}.")
    networks, model, left_out = _networks(study, _chosen(study, best, random, notes), verifier, clock, watch)
    return Comparison(best, networks, model, random, agreed, verifier, [*notes, *left_out], clock)


def _sampled(study: Study, run: Run, watch: Watch) -> list[Trial]:
    """Random policies, asked and attempted; none is told, since random does not learn."""
    controller, found = study.controller("random"), list[Trial]()
    attempt = loop.remembering(study.attempt, run)
    for number in range(study.random_trials):
        watch("random baseline", number, study.random_trials)
        try:
            found.append(attempt(number, controller.ask()))
        except Exhausted:
            break
    watch("random baseline", study.random_trials, study.random_trials)
    return found


def _chosen(study: Study, best: Trial, random: Sequence[Trial], notes: list[str]) -> dict[Role, Policy]:
    """The policies to compare, by role; what is left out is noted."""
    chosen: dict[Role, Policy] = {"ours": best.policy}
    try:
        chosen["uniform"] = study.controller("uniform").ask()
    except Exhausted as wrong:
        notes.append(f"The uniform baseline was left out: {wrong}.")
    if scored := [t for t in random if t.reward is not None]:
        chosen["random"] = max(scored, key=lambda t: (cast(float, t.reward), -t.number)).policy
    return chosen


def _networks(
    study: Study, chosen: Mapping[Role, Policy], verifier: Verifier, clock: Clock, watch: Watch
) -> tuple[dict[Role, Network], nn.Module, list[str]]:
    """The dense network and, finetuned, each chosen one, by role; the winner itself; and what was left out.

    Equal policies are trained once.
    """
    task, notes = study.task, list[str]()
    dense = copied(task.model).eval()
    with clock("test"):
        holdout, test = _judged(task, dense)
    size, levels = export.state_bytes(dense), study.space.dense().levels
    rows: dict[Role, Network] = {"dense": Network(holdout, holdout, test, dict(study.dense), size, levels)}
    made: dict[Policy, tuple[Network, nn.Module]] = {}
    for role, policy in chosen.items():
        try:
            if policy not in made:
                model, searched = _finetuned(study, role, policy, dense, clock, watch)
                with clock("test"):
                    row = Network(searched, *_judged(task, model), {}, 0, ())
                costs = {name: verifier.measured(name, policy, model) for name in study.costs}
                made[policy] = replace(row, costs=costs, bytes=export.state_bytes(model), kept=policy.levels), model
            rows[role] = made[policy][0]
        except TrialFailed as wrong:
            if role == "ours":
                raise
            notes.append(f"The {role} baseline was left out: {wrong}.")
    return rows, made[chosen["ours"]][1], notes


def _judged(task: Task, model: nn.Module) -> tuple[float, float]:
    """How good `model` is on holdout and test."""
    return task.quality(model, task.holdout), task.quality(model, task.test)


def _finetuned(
    study: Study, role: str, policy: Policy, dense: nn.Module, clock: Clock, watch: Watch
) -> tuple[nn.Module, float]:
    """The network of `policy`, pruned, recovered and finetuned; and its metric as the search saw it."""
    task, recipe, it = study.task, study.finetune, study.evaluator
    anew = study.config.finetune.start == "scratch"
    name = f"{'train' if anew else 'finetune'} {role}"
    with clock("training" if anew else "finetune"):
        watch(name, 0, max(recipe.steps, 1))
        candidate = it.recover(it.realise(policy))
        searched = it.score(candidate).metric
        if anew:
            restart(candidate.model, study.seed)

        def step(done: int, loss: float) -> None:
            watch(name, done, recipe.steps)

        train(candidate.model, task.train, task.loss, recipe, seed=study.seed, teacher=dense, watch=step)
    return candidate.model, searched
