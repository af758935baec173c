"""What a run leaves behind: the policy, the network in every format, the report."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.copies import copied
from autoprune.errors import ModelError
from autoprune.files import export, policy_file, programs
from autoprune.files.compared import Exported
from autoprune.inputs import Inputs, moved
from autoprune.protocols import Explains, PredictiveCost, SaysHowWell, Trains, Watch, silent
from autoprune.report import page, words
from autoprune.report.facts import (
    BEFORE,
    FACTS,
    SCHEMA,
    SEARCHING,
    ChoiceFacts,
    FrozenFacts,
    Limit,
    Network,
    Report,
    Role,
    TrialFacts,
    read,
    tried,
)  # fmt: skip
from autoprune.report.staff import Staff
from autoprune.report.thin import thinned
from autoprune.report.warnings import warned
from autoprune.runs import firsts, policies, repeating, rungs, warm
from autoprune.runs.baselines import Baselines
from autoprune.runs.compare import Clock, Comparison, compare
from autoprune.runs.details import gathered
from autoprune.runs.journal import PREPARING, Run, stored
from autoprune.runs.study import Study
from autoprune.runs.verify import Verifier
from autoprune.runs.workers import Terms
from autoprune.splits import draw
from autoprune.structure.prune import Candidate
from autoprune.targets.inputs import processor_name
from autoprune.values.budget import KeepsAway, Limit as Ceiling
from autoprune.values.trial import Outcome, Trial, policies_per_second, score_of_all, scored

_FOUND = (
    "python",
    "costs",
    firsts.KEY,
    firsts.RULES,
    rungs.KEY,
    rungs.SPENT,
    PREPARING,
    warm.KEY,
)  # of machine.json, what the page shows elsewhere or not at all
COMPARED = 32  # holdout samples on which every written file is compared


def finished(run: Run) -> Report | None:
    """The report of `run`, if it is of just these trials and all of its files are there."""
    if not (run.directory / FACTS).exists():
        return None
    written = stored(run.directory, FACTS)
    if written.get("schema_version") not in (1, SCHEMA) or tried(written) != len(run):
        return None
    found = read(run.directory)
    files = [policy_file.NAME, page.PAGE, *(e.file for e in found.exports)]
    return found if all((run.directory / name).exists() for name in files) else None


def finish(
    study: Study, run: Run, watch: Watch = silent, *, again: bool = False, baselines: Baselines | None = None
) -> Report:
    """Compare and deliver, unless that was done with the same trials: the test split is read once, if not `again`."""
    return (None if again else finished(run)) or deliver(study, run, compare(study, run, watch, baselines), watch)


def deliver(study: Study, run: Run, done: Comparison, watch: Watch) -> Report:
    """Write everything into the run's directory."""
    policy_file.write(run.directory / policy_file.NAME, _policy(study, done))
    with done.clock("each choice alone"):
        detail = gathered(study, done.policy, done.delivered, done.kept, watch)
    with done.clock("export"):
        exports, refused = _exported(study, run, done, watch)
    report = thinned(warned(dataclasses.replace(_report(study, run, done, exports, refused), detail=detail)))
    page.write(report, run.directory)
    return report


def written(study: Study, folder: Path, candidate: Candidate, metric: float) -> None:
    """Write into `folder` what a run would leave that had found just this candidate, but for programs: a rehearsal.

    Nothing is measured but `metric`, which stands for all qualities.
    """
    policy, costs = candidate.policy, {name: float(c.predict(candidate.policy)) for name, c in study.costs.items()}
    trial = Trial(0, policy, Outcome(metric, (metric,), costs))
    size = export.state_bytes(candidate.model)
    rows: dict[Role, Network] = {
        "dense": Network(metric, metric, metric, dict(study.dense), size, study.space.dense().levels),
        "ours": Network(metric, metric, metric, costs, size, policy.levels),
    }
    scored = Baselines([trial], {})
    done = Comparison(trial, rows, "ours", candidate.model, scored, None, Verifier(study), [], Clock())
    with Run(folder, study.config.plain(), study.space) as run:
        run.append(trial)
        policy_file.write(folder / policy_file.NAME, _policy(study, done))
        exported = _weights(study, folder, candidate.model)
        page.write(_report(study, run, done, (exported,), []), folder)


def _compared(study: Study) -> Inputs:
    """Samples on which every written file is compared."""
    images, _ = next(iter(draw(study.task.holdout, COMPARED, study.seed).batches(COMPARED)))
    return moved(images, "cpu")


def _weights(study: Study, directory: Path, model: nn.Module) -> Exported:
    """Write the weights and read them back."""
    task, path = study.task, directory / export.WEIGHTS
    export.save(model, path, rebuild=task.rebuild, task=task.name)
    return export.check_saved(model, path, _compared(study), None if task.rebuild else copied(task.model))


def _exported(study: Study, run: Run, done: Comparison, watch: Watch) -> tuple[tuple[Exported, ...], list[str]]:
    """Write the network in every format; and say which could not be written."""
    model, directory, refused = done.model, run.directory, list[str]()
    watch("export", 0, 3)
    found, images = [_weights(study, directory, model)], _compared(study)
    formats = ((programs.export_program, programs.PROGRAM), (programs.export_onnx, programs.ONNX))
    for number, (write, name) in enumerate(formats, start=1):
        watch("export", number, 3)
        (directory / name).unlink(missing_ok=True)
        try:
            found.append(write(model, directory / name, images))
        except ModelError as wrong:
            refused.append(f"{wrong}.")
    watch("export", 3, 3)
    return tuple(found), refused


def _report(study: Study, run: Run, done: Comparison, exports: tuple[Exported, ...], refused: list[str]) -> Report:
    """Everything, gathered."""
    config = study.config
    proofs = zip(study.space, study.trace.proofs, strict=True)
    terms = Terms.of(run.machine)
    staff = Staff.of(run, "finished" if terms.finished else "asked", terms.window)
    measured = done.verifier.known()
    timed = sorted({cost for costs in measured.values() for cost in costs})

    def facts(trial: Trial) -> TrialFacts:
        return _facts(study, trial, measured.get(trial.policy, {}))

    return Report(
        name=study.name,
        task=study.task.name,
        metric_name=study.task.judge.name,
        images={split: len(getattr(study.task, split)) for split in ("train", "holdout", "test")},
        plugins=_plugins(study, run),
        units={name: cost.unit for name, cost in study.costs.items()},
        networks={role: _known(study, network) for role, network in done.networks.items()},
        limits=tuple(_limit(study, done, limit) for limit in study.budget.limits),
        choices=tuple(ChoiceFacts(c.name, c.kind, c.layers, c.dense, c.levels[0], proof) for c, proof in proofs),
        frozen=tuple(FrozenFacts(f.name, f.units, f.reason) for f in study.trace.frozen),
        trials=tuple(map(facts, run)),
        random_trials=tuple(map(facts, done.baselines.random)),
        rules={name: facts(trial) for name, trial in done.baselines.rules.items()},
        rule=done.baselines.rule,
        delivered=done.delivered,
        rungs=tuple(rungs.became(run)),
        sources=tuple(run.machine.get(warm.KEY, {}).get("sources", ())),
        best=done.best.number,
        seconds=_before(run) | _by_phase(run) | _trained(study.evaluator) | done.clock.seconds,
        exports=exports,
        finetune={"start": config.finetune.start, **dataclasses.asdict(study.finetune)},
        seed=study.seed,
        versions=policies.versions(),
        machine=_machine(run.machine),
        command=repeating.command(study),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=tuple(_notes(study, run, done, refused)),
        policies_per_second=policies_per_second(run) * (staff.workers if staff else 1),
        staff=staff,
        scored=scored(run),
        fidelity=done.fidelity,
        lower_is_better=study.task.judge.lower_is_better,
        in_percent=study.task.judge.percent,
        traded=study.traded,
        time=config.search.time,
        measured={cost: tuple(t.number for t in run if cost in measured.get(t.policy, {})) for cost in timed},
    )


def _plugins(study: Study, run: Run) -> dict[str, str]:
    """The plugins in use, by kind; a run that only evaluated what came from elsewhere had no controller."""
    kinds = ("controller", "evaluator", "criterion", "reward")
    found: dict[str, str] = {kind: getattr(study.config, kind).use for kind in kinds}
    only = 0 < len(run) <= run.machine.get(warm.KEY, {}).get("first", 0)
    return {**found, "controller": "transfer"} if only else found


def _notes(study: Study, run: Run, done: Comparison, refused: Sequence[str]) -> list[str]:
    """What a reader must know."""
    config, found = study.config, [*study.notes]
    if study.task.holdout_seen:
        found.append("The dense network was trained on the holdout, which flatters every holdout number here.")
    if not study.task.trains:
        found.append("There is no training split: nothing was trained, and what needs inputs looked at the holdout's.")
    if (same := score_of_all(run)) is not None:
        found.append(words.all_alike(study.task.judge, same))
    if errors := [trial.error for trial in run if trial.error]:
        found.append(f"{words.counted(len(errors), 'trial')} failed, the first with: {errors[0]}.")
    found += [*study.remarks, *done.notes, *refused]
    found += [f"MACs are not counted: those of {what} are not known." for what in study.space.unpriced[:1]]
    if len(run) < config.search.trials and not config.search.time:
        trials = f"{len(run)} of {config.search.trials} trials were made"
        found.append(f"{trials}: {config.controller.use} had no further policy to propose.")
    for plugin in (study.evaluator, *study.costs.values()):
        found += plugin.notes if isinstance(plugin, Explains) else ()
    found += _of_search(study, run)
    return found + alike(done.networks, study.costs) + beyond(done.networks, study.budget.limits)


def _of_search(study: Study, run: Run) -> Iterator[str]:
    """What the policies that were asked first were worth, and what the controller has to say of all it was told."""
    lowest = [trial for trial in run if not trial.rung]
    known = run.machine.get(warm.KEY, {})
    given, first = known.get("first", 0), len(firsts.known(run.machine))
    if known:
        told = f" The controller was told {words.counted(len(known['told']), 'trial')}." if known["told"] else ""
        yield _began(study, lowest[:given], f"what {', '.join(known['sources'])} had found") + told
    if lowest[given:first]:
        what = "the uniform policy" + (" and rankings of the network's units" if first - given > 1 else "")
        yield _began(study, lowest[given:first], what)
    controller = warm.begun(study, run.machine)
    if isinstance(controller, Explains):
        for trial in lowest:
            controller.tell(trial)
        yield from controller.notes


def _began(study: Study, trials: Sequence[Trial], what: str) -> str:
    """What the first trials, those of `what`, were worth."""
    if not (scored := [trial for trial in trials if trial.reward is not None]):
        return f"The search began with {what}: none of {len(trials)} succeeded."
    best = max(scored, key=lambda trial: (trial.reward or 0.0, -trial.number))
    metric = words.number(study.task.judge.known(best.metric or 0.0), percent=study.task.judge.percent)
    return f"The search began with {what}: the best of {len(trials)}, trial {best.number}, has {metric}."


def _limit(study: Study, done: Comparison, limit: Ceiling) -> Limit:
    cost, policy = limit.cost, done.policy
    return Limit(
        cost=limit.name,
        unit=cost.unit,
        asked=limit.asked,
        most=limit.most,
        dense=study.dense[limit.name],
        predicted=float(cost.predict(policy)),
        counted=done.networks[done.delivered].costs[limit.name],
        moments=(moments := done.verifier.at_moments(limit.name, policy)),
        spread=done.verifier.figure(limit.name, policy).spread if moments else 0.0,
        said=limit.sentence(),
        about=cost.sentence() if isinstance(cost, SaysHowWell) else "",
    )


def _policy(study: Study, done: Comparison) -> policy_file.PolicyFile:
    network = done.networks[done.delivered]
    return policies.file_of(study, done.policy, network.costs, network.searched)


def alike(networks: Mapping[Role, Network], costs: Mapping[str, PredictiveCost]) -> list[str]:
    """Which networks cost the same, as far as measuring can tell, a sentence for each pair."""
    noises = {name: cost.noise for name, cost in costs.items() if isinstance(cost, KeepsAway)}
    rows = list(networks.items())
    pairs = [(a, b) for at, a in enumerate(rows) for b in rows[at + 1 :] if a[1].kept != b[1].kept]
    return [
        f"The {name} of {one} and {other} are equal within the noise of {noise:.1%}."
        for name, noise in noises.items()
        for (one, a), (other, b) in pairs
        if abs(a.costs[name] / b.costs[name] - 1) < noise
    ]


def beyond(networks: Mapping[Role, Network], limits: Sequence[Ceiling]) -> list[str]:
    """Which baselines, whose policies met the ceilings by prediction, exceed one when they are measured."""
    return [
        f"The {role} baseline takes {network.costs[limit.name] / limit.most:.1%} of the {limit.name} ceiling."
        for limit in limits
        for role, network in networks.items()
        if role not in ("dense", "ours") and network.costs[limit.name] > limit.most
    ]


def _facts(study: Study, trial: Trial, measured: Mapping[str, float]) -> TrialFacts:
    """A trial, with what was measured of its policy in place of what was predicted."""
    metric = None if trial.metric is None else study.task.judge.known(trial.metric)
    costs, kept = {**trial.costs, **measured}, trial.policy.levels
    return TrialFacts(trial.number, metric, trial.reward, costs, trial.error, kept, trial.rung)


def _known(study: Study, network: Network) -> Network:
    """`network` with its metrics as the user knows them."""
    numbers = {field: getattr(network, field) for field in ("searched", "holdout", "test")}
    judge = study.task.judge
    known: dict[str, Any] = {field: n if n is None else judge.known(n) for field, n in numbers.items()}
    return dataclasses.replace(network, **known)


def _before(run: Run) -> dict[str, float]:
    """Time spent before the search; nothing is said of a run that was begun before it was kept."""
    return {BEFORE: run.machine[PREPARING]} if PREPARING in run.machine else {}


def _by_phase(run: Run) -> dict[str, float]:
    """Time spent in all trials, by phase."""
    spent: dict[str, float] = {}
    for trial in run:
        for phase, seconds in trial.seconds.items():
            name = SEARCHING + phase
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _trained(evaluator: object) -> dict[str, float]:
    """Time spent on weights that the evaluator trained for the search, if it did."""
    return {"shared weights": evaluator.seconds} if isinstance(evaluator, Trains) else {}


def _machine(of_run: Mapping[str, object]) -> dict[str, str]:
    """Where it ran; versions in the run's own record are left to `_versions`, what was found out to `machine.json`."""
    facts = {
        "processor": processor_name(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **of_run,
    }
    return {word: str(value) for word, value in facts.items() if word not in (*policies.versions(), *_FOUND)}
