"""After the search: the winner against the dense network and the baselines, all at the same finetune.

The winner and the baselines are finetuned by the same recipe with the same seed. What is best on the holdout then is
delivered: a search that was misled is never worse than what needs none. This is the only place that reads the test
split: once for each network, and nothing is decided by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from torch import nn

from autoprune.addresses import failing
from autoprune.copies import copied
from autoprune.errors import TrialFailed, one_line
from autoprune.files import export
from autoprune.finetuning import finetune
from autoprune.protocols import SavesTime, Watch
from autoprune.report import words
from autoprune.report.facts import Agreement, Network, Role
from autoprune.runs import fidelity, journal
from autoprune.runs.baselines import Baselines
from autoprune.runs.details import Kept
from autoprune.runs.journal import Run
from autoprune.runs.study import Study
from autoprune.runs.verify import Verifier
from autoprune.task import Task
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
        best: the winner's trial: of the largest reward that meets the budget when it is measured.
        networks: by role, the dense one first.
        delivered: the role of the one that is delivered.
        model: that one, finetuned.
        baselines: what was scored to compare with.
        fidelity: the search's score against the slow one, over the random baseline; None where there is none.
        verifier: what was measured.
        notes: what the reader of the report must know.
        clock: time spent.
        kept: what the comparison leaves behind for the page.
    """

    best: Trial
    networks: Mapping[Role, Network]
    delivered: Role
    model: nn.Module
    baselines: Baselines
    fidelity: Agreement | None
    verifier: Verifier
    notes: Sequence[str]
    clock: Clock
    kept: Kept = field(default_factory=Kept)

    @property
    def policy(self) -> Policy:
        """Of what is delivered."""
        return Policy(self.networks[self.delivered].kept)


def compare(study: Study, run: Run, watch: Watch, baselines: Baselines | None = None) -> Comparison:
    """Take the best trial, choose baselines, finetune all alike, and read the test split.

    `baselines` are scored here where nobody did.
    """
    clock, verifier, notes, kept = Clock(), Verifier(study), list[str](), Kept()
    best = run.best()
    if verifier.limits:
        with clock("measuring"):
            best, said = verifier.best(run, watch)
        notes += [said] if said else []
    baselines = baselines or Baselines.scored(study, run, watch)
    clock.seconds["baselines"] = baselines.seconds
    agreed = None
    if (most := study.config.report.fidelity) and isinstance(study.evaluator, SavesTime):
        with clock("fidelity"):
            agreed = fidelity.of_trials(study, baselines.random, most=most, watch=watch)
        if agreed is None:
            few = f"fewer than {fidelity.FEWEST} random policies have a slow score"
            notes.append(f"How true the score of the search is was not measured: {few}.")
    again = f"`{journal.resuming(run.directory)} --lr {study.finetune.lr / 10:g}`"
    chosen = baselines.chosen(study, best.policy, notes)
    networks, models, said_of = _networks(study, chosen, verifier, clock, watch, again, kept)
    delivered = _delivered(study, networks, verifier)
    notes += said_of
    return Comparison(best, networks, delivered, models[delivered], baselines, agreed, verifier, notes, clock, kept)


def _delivered(study: Study, networks: Mapping[Role, Network], verifier: Verifier) -> Role:
    """The best on the holdout of those that meet the budget, of equals the winner of the search.

    Where the search traded cost for quality itself, of those that cost no more than its winner.
    """
    ours, traded = networks["ours"], study.traded
    trades = not (study.budget.limits and study.budget.fill)

    def suits(role: Role, network: Network) -> bool:
        if role == "ours":
            return True
        if trades and network.costs[traded] > ours.costs[traded]:
            return False
        return verifier.confirms(Policy(network.kept))

    done = [(role, network) for role, network in networks.items() if role != "dense" and network.holdout is not None]
    ranked = sorted(done, key=lambda one: (-cast(float, one[1].holdout), one[0] != "ours"))
    return next((role for role, network in ranked if suits(role, network)), "ours")


def _networks(
    study: Study, chosen: Mapping[Role, Policy], verifier: Verifier, clock: Clock, watch: Watch, again: str, kept: Kept
) -> tuple[dict[Role, Network], dict[Role, nn.Module], list[str]]:
    """The dense network and, finetuned, each chosen one, by role; the latter themselves; and what is to be said.

    Equal policies are trained once. `again` is the command that finetunes once more, at another rate.
    """
    judged, notes = _Judged(study.task, clock, kept), list[str]()
    dense = copied(study.task.model).eval()
    holdout, test = judged("dense", dense)
    size, levels = export.state_bytes(dense), study.space.dense().levels
    rows: dict[Role, Network] = {"dense": Network(holdout, holdout, test, dict(study.dense), size, levels)}
    made: dict[Policy, tuple[Network, nn.Module]] = {}
    for role, policy in chosen.items():
        try:
            if policy not in made:
                found = _finetuned(study, role, policy, clock, watch, kept)
                row = Network(found.searched, *judged(role, found.model), {}, 0, ())
                costs = {name: verifier.measured(name, policy, found.model) for name in study.costs}
                size = export.state_bytes(found.model)
                made[policy] = replace(row, costs=costs, bytes=size, kept=policy.levels), found.model
                notes += _said_of(study, role, found, row.holdout, again, watch)
            rows[role] = made[policy][0]
        except TrialFailed as wrong:
            if role == "ours":
                raise
            notes.append(f"The {role} baseline was left out: {wrong}.")
    models = {role: made[policy][1] for role, policy in chosen.items() if role in rows}
    return rows, models, [*notes, *judged.notes]


@dataclass
class _Judged:
    """How good networks are on holdout and test; None where the metric fails, which must not lose all else."""

    task: Task
    clock: Clock
    kept: Kept
    failed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def __call__(self, role: str, model: nn.Module) -> tuple[float | None, float | None]:
        """Of `model`, on holdout and test."""
        with self.clock("test"):
            return self._quality(role, model, "holdout"), self._quality(role, model, "test")

    def _quality(self, role: str, model: nn.Module, split: str) -> float | None:
        try:
            with failing():
                samples = getattr(self.task, split)
                once = self.kept.quality(self.task.judge, role, model, samples) if split == "test" else None
                return self.task.quality(model, samples) if once is None else once
        except TrialFailed as wrong:
            self.failed.setdefault((split, one_line(wrong)), []).append(role)
            return None

    @property
    def notes(self) -> list[str]:
        """Whose metric is not known, and why."""
        name = self.task.judge.name
        return [f"No {split} {name} of {', '.join(roles)}: {why}." for (split, why), roles in self.failed.items()]


@dataclass(frozen=True)
class _Finetuned:
    """A network that was pruned, recovered and finetuned.

    Attributes:
        model: the network; as it recovered, where its finetune failed.
        searched: its metric as the search sees it; None where that fails now.
        before: on the holdout, before the finetune; None where that is not known.
        failed: why its finetune failed; "" where it did not.
    """

    model: nn.Module
    searched: float | None
    before: float | None
    failed: str


def _finetuned(study: Study, role: str, policy: Policy, clock: Clock, watch: Watch, kept: Kept) -> _Finetuned:
    """The network of `policy`, pruned, recovered and finetuned. Raises TrialFailed where it cannot be had at all."""
    it, anew = study.evaluator, study.config.finetune.start == "scratch"
    name = f"{'train' if anew else 'finetune'} {role}"
    with clock("training" if anew else "finetune"):
        watch(name, 0, max(study.finetune.steps, 1))
        with failing():
            candidate = it.recover(it.realise(policy))
        searched = _attempted(lambda: it.score(candidate).metric)
        as_it_was, before = copied(candidate.model).eval(), None
        if role == "ours" and study.finetune.steps and not anew:
            before = _attempted(lambda: study.task.quality(as_it_was, study.task.holdout))
        try:
            with failing():
                taught(study, candidate.model, name, watch, kept.losses.setdefault(role, []))
        except TrialFailed as wrong:
            return _Finetuned(as_it_was, searched, before, one_line(wrong))
    return _Finetuned(candidate.model, searched, before, "")


def _attempted(metric: Callable[[], float]) -> float | None:
    """What `metric` gives; None where it fails."""
    try:
        with failing():
            return metric()
    except TrialFailed:
        return None


def _said_of(
    study: Study, role: Role, found: _Finetuned, after: float | None, again: str, watch: Watch
) -> Iterator[str]:
    """What a reader must know of a finetune: that it failed, or that it did harm; the winner's is told at once, too."""
    whose = "the network that was found" if role == "ours" else f"the {role} baseline"
    if found.failed:
        why = f"of {whose} failed ({found.failed}): it is here without one"
        yield f"{words.FINETUNE}{why}. {again} finetunes once more."
        watch(f"the finetune of {whose} failed", 1, 1)
    elif found.before is not None and after is not None and after < found.before:
        judge = study.task.judge
        shown = (words.number(judge.known(one), percent=judge.percent) for one in (found.before, after))
        harm = f"made the holdout {judge.name} of {whose} worse, {' -> '.join(shown)}"
        yield f"{words.FINETUNE}{harm}. {again} finetunes once more, at a lower rate."
        watch(f"the finetune {harm}", 1, 1)


def taught(study: Study, model: nn.Module, name: str, watch: Watch, losses: list[float] | None = None) -> None:
    """Train a pruned network that is kept, in place, by the study's recipe: the one way that there is.

    `watch` hears how far what is called `name` has come; each step's loss is added to `losses`.
    Raises TrialFailed where the loss is not finite.
    """
    recipe, anew = study.finetune, study.config.finetune.start == "scratch"

    def step(done: int, loss: float) -> None:
        watch(name, done, recipe.steps)
        if losses is not None:
            losses.append(loss)

    finetune(model, study.task, recipe, seed=study.seed, anew=anew, watch=step)
