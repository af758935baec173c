"""After the search: the final finetune, the comparison with the baselines, the files and the report.

The winner and the baselines "uniform" and "random" (the best of some random policies, by the search's own reward) are
finetuned by the same recipe with the same seed. This is the only place that reads the test split: once for each
network, when everything is decided.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import platform
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import torch
from torch import Tensor, nn

from autoprune.errors import Exhausted, ModelError, TrialFailed
from autoprune.files import export, policy_file
from autoprune.files.export import Exported
from autoprune.protocols import Trains, Watch
from autoprune.report import facts as report
from autoprune.report.facts import FrozenFacts, GroupFacts, Limit, Network, Report, Role, TrialFacts
from autoprune.runs import fidelity, loop
from autoprune.runs.journal import Run, stored
from autoprune.runs.kendall import Agreement
from autoprune.runs.study import GIVEN, Study
from autoprune.runs.verify import Verifier
from autoprune.targets.inputs import processor_name
from autoprune.train import restart, train
from autoprune.values.budget import Limit as Ceiling
from autoprune.values.space import Policy
from autoprune.values.trial import Trial, policies_per_second

COMPARED = 32  # holdout samples on which every written file is compared
_DISTRIBUTIONS = ("autoprune", "torch", "numpy", "optuna", "safetensors", "onnx", "onnxruntime")


def finish(study: Study, run: Run, watch: Watch = lambda what, done, of: None) -> Report:
    """Finetune, measure, export and report the best policy of `run`; everything is written into its directory.

    A run that was finished with the same trials is not finished again: the test split is read once.
    """
    best = run.best()
    before = finished(run)
    if before is not None:
        return before
    work = _Finish(study, run, best, watch)
    work.verify()
    work.baselines()
    work.judge()
    networks = work.networks()
    exports = work.files(networks)
    done = work.report(networks, exports)
    report.write(done, run.directory)
    return done


def finished(run: Run) -> Report | None:
    """The report of `run`, if it is of just these trials and all of its files are there."""
    if not (run.directory / report.FACTS).exists():
        return None
    written = stored(run.directory, report.FACTS)
    if written.get("schema_version") != report.SCHEMA or len(written.get("trials", ())) != len(run):
        return None
    found = report.read(run.directory)
    files = [policy_file.NAME, report.PAGE, *(e.file for e in found.exports)]
    return found if all((run.directory / name).exists() for name in files) else None


@dataclass
class _Finish:
    """The work after the search, as its steps.

    Attributes:
        best: the trial that is taken: of the largest reward that meets the budget when it is measured.
        chosen: the policies that are compared and the holdout metric that the search saw, by role.
        verifier: measures what must be.
        random: the trials of the random baseline.
        fidelity: the search's score against the slow one, over the random baseline.
        notes: what the reader of the report must know.
        seconds: time spent by phase.
        model: the winner, finetuned.
    """

    study: Study
    run: Run
    best: Trial
    watch: Watch

    def __post_init__(self) -> None:
        self.chosen: dict[Role, Policy] = {"ours": self.best.policy}
        self.verifier = Verifier(self.study)
        self.random: list[Trial] = []
        self.fidelity: Agreement | None = None
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.model: nn.Module = self.study.task.model
        self.dense = copy.deepcopy(self.study.task.model).eval()

    def verify(self) -> None:
        """Take the best trial that meets the budget when it is measured, where there is something to measure."""
        if not self.verifier.limits:
            return
        with self._timed("measuring"):
            self.best, said = self.verifier.best(self.run, self.watch)
        self.chosen["ours"] = self.best.policy
        self.notes += [said] if said else []

    def baselines(self) -> None:
        """Choose the policies to compare with."""
        with self._timed("random baseline"):
            self._sample()
        scored = [t for t in self.random if t.reward is not None]
        try:
            self.chosen["uniform"] = self.study.controller("uniform").ask()
        except Exhausted as wrong:
            self.notes.append(f"The uniform baseline was left out: {wrong}.")
        if scored:
            self.chosen["random"] = max(scored, key=lambda t: (cast(float, t.reward), -t.number)).policy

    def judge(self) -> None:
        """See how true the search's score is, where the evaluator has a slow one."""
        most = self.study.config.report.fidelity
        if most and isinstance(self.study.evaluator, fidelity.Careful):
            with self._timed("fidelity"):
                self.fidelity = fidelity.of_trials(self.study, self.random, most=most, watch=self.watch)
            if self.fidelity is None:
                few = f"fewer than {fidelity.FEWEST} random policies have a slow score"
                self.notes.append(f"How true the score of the search is was not measured: {few}.")

    def networks(self) -> list[Network]:
        """The dense network and, finetuned, each chosen one; equal policies are trained once."""
        made: dict[Policy, Network] = {}
        rows = [self._dense_row()]
        for role, policy in self.chosen.items():
            try:
                if policy not in made:
                    made[policy] = self._finetuned(role, policy)
                rows.append(dataclasses.replace(made[policy], role=role))
            except TrialFailed as wrong:
                if role == "ours":
                    raise
                self.notes.append(f"The {role} baseline was left out: {wrong}.")
        return rows

    def files(self, networks: list[Network]) -> tuple[Exported, ...]:
        """Write the policy and the network in every format; a format that cannot be is noted."""
        task, directory = self.study.task, self.run.directory
        inputs = self._inputs()
        policy_file.write(directory / policy_file.NAME, self._policy(networks[1]))
        with self._timed("export"):
            self.watch("export", 0, 3)
            path = directory / export.WEIGHTS
            export.save(self.model, path, rebuild=task.rebuild, task=task.name)
            written = [export.check_saved(self.model, path, inputs, None if task.rebuild else self.dense)]
            formats = ((export.export_program, export.PROGRAM), (export.export_onnx, export.ONNX))
            for done, (write, name) in enumerate(formats, start=1):
                self.watch("export", done, 3)
                (directory / name).unlink(missing_ok=True)
                try:
                    written.append(write(self.model, directory / name, inputs))
                except ModelError as wrong:
                    self.notes.append(f"{wrong}.")
            self.watch("export", 3, 3)
        return tuple(written)

    def report(self, networks: list[Network], exports: tuple[Exported, ...]) -> Report:
        """Everything, gathered."""
        study, config = self.study, self.study.config
        if study.task.holdout_seen:
            self.notes.insert(
                0, "The dense network was trained on the holdout, which flatters every holdout number here."
            )
        if len(self.run) < config.search.trials:
            trials = f"{len(self.run)} of {config.search.trials} trials were made"
            self.notes.append(f"{trials}: {config.controller.use} had no further policy to propose.")
        self.notes += getattr(study.evaluator, "notes", ())
        for cost in study.costs.values():
            self.notes += getattr(cost, "notes", ())
        self.notes += alike(networks, study.costs) + beyond(networks[2:], study.budget.limits)
        plugins = {kind: getattr(config, kind).use for kind in ("controller", "evaluator", "criterion", "reward")}
        proofs = zip(study.space, study.trace.proofs, strict=True)
        return Report(
            name=study.name,
            task=study.task.name,
            metric_name=study.task.metric_name,
            images={split: len(getattr(study.task, split)) for split in ("train", "holdout", "test")},
            plugins=plugins,
            units={name: cost.unit for name, cost in study.costs.items()},
            networks=tuple(networks),
            limits=self._limits(networks[1]),
            groups=tuple(GroupFacts(g.name, g.layers, g.of, g.choices()[0], proof) for g, proof in proofs),
            frozen=tuple(FrozenFacts(f.name, f.units, f.reason) for f in study.trace.frozen),
            trials=tuple(map(_facts, self.run)),
            random_trials=tuple(map(_facts, self.random)),
            best=self.best.number,
            seconds=_by_phase(self.run) | _trained(study.evaluator) | self.seconds,
            exports=exports,
            finetune={"start": config.finetune.start, **dataclasses.asdict(study.finetune)},
            seed=study.seed,
            versions=_versions(),
            machine=_machine(self.run.machine),
            command=_command(study),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            notes=tuple(self.notes),
            policies_per_second=policies_per_second(self.run),
            fidelity=self.fidelity,
        )

    def _sample(self) -> None:
        """Ask and attempt random policies; none is told, since random does not learn."""
        controller = self.study.controller("random")
        attempt = loop.remembering(self.study.attempt, self.run)
        count = self.study.random_trials
        for number in range(count):
            self.watch("random baseline", number, count)
            try:
                self.random.append(attempt(number, controller.ask()))
            except Exhausted:
                break
        self.watch("random baseline", count, count)

    def _dense_row(self) -> Network:
        task, space = self.study.task, self.study.space
        with self._timed("test"):
            holdout, test = task.metric(self.dense, task.holdout), task.metric(self.dense, task.test)
        kept = space.kept(space.dense())
        return Network("dense", holdout, holdout, test, dict(self.study.dense), export.state_bytes(self.dense), kept)

    def _finetuned(self, role: Role, policy: Policy) -> Network:
        """Prune, recover, finetune, and only then read the test split."""
        study, task, recipe = self.study, self.study.task, self.study.finetune
        anew = study.config.finetune.start == "scratch"
        name = f"{'train' if anew else 'finetune'} {role}"
        with self._timed("training" if anew else "finetune"):
            self.watch(name, 0, max(recipe.steps, 1))
            model = study.evaluator.realise(policy)
            searched = study.evaluator.metric(model)
            if anew:
                restart(model, study.seed)

            def step(done: int, loss: float) -> None:
                self.watch(name, done, recipe.steps)

            train(model, task.train, task.loss, recipe, seed=study.seed, teacher=self.dense, watch=step)
        with self._timed("test"):
            holdout, test = task.metric(model, task.holdout), task.metric(model, task.test)
        if role == "ours":
            self.model = model
        kept = study.space.kept(policy)
        return Network(role, searched, holdout, test, self._counted(model, policy), export.state_bytes(model), kept)

    def _counted(self, model: nn.Module, policy: Policy) -> dict[str, float]:
        return {name: self.verifier.measured(name, policy, model) for name in self.study.costs}

    def _limits(self, ours: Network) -> tuple[Limit, ...]:
        return tuple(
            Limit(
                cost=limit.name,
                unit=limit.cost.unit,
                asked=limit.asked,
                most=limit.most,
                dense=self.study.dense[limit.name],
                predicted=limit.cost.predict(self.best.policy),
                counted=ours.costs[limit.name],
                spread=self.verifier.spread(limit.name, self.best.policy),
                about=about(limit.cost),
            )
            for limit in self.study.budget.limits
        )

    def _policy(self, ours: Network) -> policy_file.PolicyFile:
        study, config = self.study, self.study.config
        return policy_file.PolicyFile(
            task=config.task.settings,
            model=policy_file.fingerprint(study.task.model, study.task.rebuild),
            space=study.name,
            groups=policy_file.entries(study.space, self.best.policy),
            criterion=config.criterion.settings,
            evaluator=config.evaluator.settings,
            budget={x.name: policy_file.LimitEntry(asked=x.asked, most=x.most) for x in study.budget.limits},
            costs={
                name: policy_file.CostEntry(
                    unit=cost.unit,
                    dense=study.dense[name],
                    predicted=cost.predict(self.best.policy),
                    counted=ours.costs[name],
                )
                for name, cost in study.costs.items()
            },
            metric=self.best.metric,
            seed=study.seed,
            versions=_versions(),
        )

    def _inputs(self) -> Tensor:
        inputs, _ = next(iter(self.study.task.holdout.head(COMPARED).batches(COMPARED)))
        return inputs.cpu()

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begun


def alike(networks: Sequence[Network], costs: Mapping[str, object]) -> list[str]:
    """Which networks cost the same, as far as measuring can tell, a sentence for each pair."""
    noises = {name: float(getattr(cost, "margin", 0.0)) for name, cost in costs.items()}
    pairs = [(a, b) for at, a in enumerate(networks) for b in networks[at + 1 :] if a.kept != b.kept]
    return [
        f"The {name} of {a.role} and {b.role} are equal within the noise of {noise:.1%}."
        for name, noise in noises.items()
        for a, b in pairs
        if abs(a.costs[name] / b.costs[name] - 1) < noise
    ]


def beyond(baselines: Sequence[Network], limits: Sequence[Ceiling]) -> list[str]:
    """Which baselines, whose policies met the ceilings by prediction, exceed one when they are measured."""
    return [
        f"The {network.role} baseline takes {network.costs[limit.name] / limit.most:.1%} of the {limit.name} ceiling."
        for limit in limits
        for network in baselines
        if network.costs[limit.name] > limit.most
    ]


def about(cost: object) -> str:
    """What a cost says of how well it predicts, and where it was measured; "" where it counts."""
    said = getattr(cost, "sentence", None)
    return str(said()) if callable(said) else ""


def _facts(trial: Trial) -> TrialFacts:
    return TrialFacts(trial.number, trial.metric, trial.reward, dict(trial.costs), trial.error)


def _by_phase(run: Run) -> dict[str, float]:
    """Time spent in all trials, by phase."""
    spent: dict[str, float] = {}
    for trial in run:
        for phase, seconds in trial.seconds.items():
            name = report.SEARCHING + phase
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


def _trained(evaluator: object) -> dict[str, float]:
    """Time spent on weights that the evaluator trained for the search, if it did."""
    return {"shared weights": evaluator.seconds} if isinstance(evaluator, Trains) else {}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine(of_run: Mapping[str, object]) -> dict[str, str]:
    """Where it ran; the versions in the run's own record are left to `_versions`."""
    facts = {
        "processor": processor_name(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **of_run,
    }
    return {word: str(value) for word, value in facts.items() if word not in (*_DISTRIBUTIONS, "python")}


def _command(study: Study) -> str:
    """The command line that makes a like run, where one can."""
    config = study.config
    task = config.task.use
    if task == GIVEN:
        return "autoprune.search(task, ...) in Python"
    source = task if config.name == task.rpartition(":")[2] else f"{study.name}.toml"
    words = ["autoprune", "search", source, "--controller", config.controller.use]
    for name, asked in config.budget.items():
        words += ["--budget", f"{name}={asked}"]
    words += ["--trials", str(config.search.trials), "--seed", str(study.seed)]
    return shlex.join(words)
