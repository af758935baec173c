"""The fast evaluators against the loop that people write with Torch-Pruning: same policies, same images, same answer.

    pip install -e '.[benchmarks]'                                  and torchvision for mobilenet_v2
    python benchmarks/evaluator_vs_torch_pruning.py --data DIR [--json FILE]    DIR holds CIFAR-10 and the weights
    python benchmarks/evaluator_vs_torch_pruning.py [--data DIR] --quick        a few policies, in under a minute

The answer is what a policy costs, and the holdout top-1 of its recovered network. All sides take turns in one process
on the same 1,000 holdout images, and every second policy in the reverse order. The loop estimates BatchNorm statistics
on 1,000 training images; the evaluators take what their defaults take of the same ones (and of 24 more, which fill a
batch). All sides hold their images ready, scaled. "Tuned" is the loop with what one may know of PyTorch on processors:
channels last and smaller batches. All sides must make layers of the same widths, else the comparison stops; in how many
layers they kept the same channels is told. That is all of them but where there are depthwise convolutions, whose
weights Torch-Pruning leaves out of a channel's norm. --again tells how far the slow scores, which the evaluators' own
are compared with, agree with themselves on other calibration images. Figures are of a machine that does nothing else.

Without --data only `fashion` can run, on what lies in the package. Memory is measured where there is /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import resident
import torch
from networks import NETWORKS, Case, last_linear
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from autoprune import config
from autoprune.evaluators.recovery.careful import Careful
from autoprune.protocols import Explains, SavesTime
from autoprune.runs import lifecycle, loop, study
from autoprune.runs.study import Study
from autoprune.task import Batch, Split, Task, accuracy
from autoprune.train import train
from autoprune.values.space import Policy, SearchSpace

try:
    import torch_pruning as tp
except ImportError:
    raise SystemExit("this benchmark compares with Torch-Pruning: pip install 'torch-pruning>=1.6'") from None

CALIBRATED = 1_000  # training images that the loop takes
BUDGET, MAX_SPARSITY, LR = "50%", 0.8, 0.02
LOOP, TUNED, OURS, SOLVED = SIDES = ("loop", "tuned", "ours", "reconstruct")  # as the JSON file calls them
SPOKEN = {LOOP: "the loop", TUNED: "the loop, tuned", OURS: "recalibrate", SOLVED: "reconstruct"}
SUFFIX = {OURS: "", SOLVED: "_reconstruct"}  # of what the JSON file says of them
PHASES = ("prune", "price", "recover", "score", "total")
Layers = dict[str, tuple[tuple[int, ...], float]]  # shape and sum of every parameter
Row = dict[str, dict[str, Any]]  # of one policy: what is said, by side


@dataclass(frozen=True)
class Turn:
    """One policy in the hands of one side.

    Attributes:
        seconds: by phase, and in total; a phase that a side does not tell is missing.
        metric: top-1 on the holdout.
        layers: what pruning left.
        model: the recovered network.
    """

    seconds: Mapping[str, float]
    metric: float
    layers: Layers
    model: nn.Module


Side = Callable[[Policy], Turn]


@dataclass
class Clock:
    """The seconds of each phase; what happens between phases is not counted."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Inside, time is counted for `phase`."""
        begun = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - begun


@dataclass
class Loop:
    """The loop that people write: copy, prune with Torch-Pruning, count, recalibrate, score; everything in fp32."""

    task: Task
    space: SearchSpace
    batch: int = 250
    layout: torch.memory_format = torch.contiguous_format

    def __call__(self, policy: Policy) -> Turn:
        """One policy. The images are ready before the clock runs."""
        clock, example, (calibration, holdout) = Clock(), self.task.example, self.ready
        with clock("prune"):
            model = copy.deepcopy(self.task.model)
            prune_in_place(model, example, ratios(model, self.space, policy))
        with clock("price"):
            tp.utils.count_ops_and_params(model, example)
        left = layers(model)
        with clock("recover"):
            model.to(memory_format=self.layout)  # type: ignore[call-overload]
            update_bn(calibration, model)  # mean statistics over all batches
        with clock("score"):
            metric = accuracy(model, holdout)
        return Turn({**clock.seconds, "total": sum(clock.seconds.values())}, metric, left, model)

    @cached_property
    def ready(self) -> tuple[list[Batch], list[Batch]]:
        """Calibration and holdout, scaled and laid out."""
        return self._batches(self.task.train.head(CALIBRATED)), self._batches(self.task.holdout)

    def _batches(self, split: Split) -> list[Batch]:
        return [(inputs.contiguous(memory_format=self.layout), labels) for inputs, labels in split.batches(self.batch)]


def ratios(model: nn.Module, space: SearchSpace, policy: Policy) -> dict[nn.Module, float]:
    """`policy` as Torch-Pruning takes it. It rounds what stays down, so half a channel less is asked to leave."""
    kept = zip(space, policy.levels, strict=True)
    return {model.get_submodule(c.name): (c.dense - stay - 0.5) / c.dense for c, stay in kept if stay < c.dense}


def prune_in_place(model: nn.Module, example: Tensor, wanted: Mapping[nn.Module, float]) -> None:
    """As Torch-Pruning's documentation does it, with the criterion of the other side: the norm of all weights."""
    weights = [nn.modules.conv._ConvNd, nn.Linear]  # and not the scales of BatchNorm
    tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2, target_types=weights),
        pruning_ratio=0.0,
        pruning_ratio_dict=wanted,
        ignored_layers=[last_linear(model)],
    ).step()


@dataclass
class Ours:
    """An evaluator with its default settings. `others` are calibration images that it does not take."""

    built: Study
    others: Split

    def __call__(self, policy: Policy) -> Turn:
        """One policy, as a search evaluates it."""
        clock, evaluator = Clock(), self.built.evaluator
        with clock("price"):
            self.built.costs["macs"].predict(policy)
        with clock("prune"):
            candidate = evaluator.realise(policy)
        left = layers(candidate.model)
        with clock("recover"):
            recovered = evaluator.recover(candidate)
        with clock("score"):
            score = evaluator.score(recovered)
        return Turn({**clock.seconds, "total": sum(clock.seconds.values())}, score.metric, left, recovered.model)

    def slow(self, policy: Policy) -> float:
        """The same evaluator's score, taken slowly."""
        return scored(self._careful, policy)

    def again(self, policy: Policy) -> float:
        """The slow score with other calibration images."""
        task = replace(self.built.task, train=self.others)
        return scored(replace(self._careful, bench=replace(self._careful.bench, task=task)), policy)

    @cached_property
    def _careful(self) -> Careful:
        assert isinstance(self.built.evaluator, SavesTime)
        made = self.built.evaluator.careful()
        assert isinstance(made, Careful)
        return made


def scored(evaluator: Careful, policy: Policy) -> float:
    """The metric of a policy."""
    return evaluator.score(evaluator.recover(evaluator.realise(policy))).metric


def main() -> None:
    """Compare on every network; what is known so far is written after each."""
    asked = arguments()
    found = {}
    for name in asked.networks:
        torch.manual_seed(asked.seed)
        found[name] = compared(NETWORKS[name](asked.data), asked)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="", help="directory with CIFAR-10 and the weights of both ResNets")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="the default is all that there are data for")
    parser.add_argument("--policies", type=int, default=0, help="for each network; the default depends on its size")
    parser.add_argument("--finetune", type=int, default=24, help="so many policies of the ResNets; 0: none")
    parser.add_argument("--steps", type=int, default=40, help="of each finetune")
    parser.add_argument("--search", type=int, default=0, help="trials of a search on each network in the end; 0: none")
    parser.add_argument("--again", action="store_true", help="slow scores with other calibration images, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="the ResNets, two policies, no finetune")
    asked = parser.parse_args()
    cifar = ["resnet20", "resnet56"] if asked.quick else [name for name in NETWORKS if name != "fashion"]
    asked.networks = asked.networks or (cifar if asked.data else ["fashion"])
    if not asked.data and asked.networks != ["fashion"]:
        parser.error("--data DIR is needed for all networks but fashion")
    if asked.quick:
        asked.policies, asked.finetune = asked.policies or 2, 0
    return asked


def compared(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one network; prints them, and each policy as it is done."""
    begun = time.perf_counter()
    ours = studied(case, "recalibrate", asked.seed)
    sides: dict[str, Side] = {
        LOOP: Loop(case.task, ours.space),
        TUNED: Loop(case.task, ours.space, 125, torch.channels_last),
        OURS: Ours(ours, case.others),
        SOLVED: Ours(studied(case, "reconstruct", asked.seed, ours.precision), case.others),
    }
    print(described(case, ours, time.perf_counter() - begun), flush=True)
    random = ours.controller("random")
    first = {name: first_of(side, random.ask()) for name, side in sides.items()}
    for note in ours.evaluator.notes if isinstance(ours.evaluator, Explains) else ():
        print(note, flush=True)
    policy = random.ask()
    peaks = {name: resident.peak(partial(side, policy)) for name, side in sides.items()}
    rows = [one(case, sides, random.ask(), n, asked) for n in range(asked.policies or case.policies)]
    found = figures(rows)
    for name in SIDES:
        once = {"peak_mib": peaks[name], "held_mib": first[name][1], "seconds_first": first[name][0]}
        found |= {f"{what}_{name}": value for what, value in once.items()}
    print("\n".join(shown(found, asked.steps)), flush=True)
    if asked.search:
        found["seconds_search"] = took = searched(case, asked.search, asked.seed)
        print(f"a search of {asked.search} trials (evolution, recalibrate): {took:.1f} s", flush=True)
    return found | {"precision": ours.precision, "seed": asked.seed, "threads": torch.get_num_threads()}


def studied(case: Case, use: str, seed: int, precision: str = "") -> Study:
    """A study of the evaluator called `use`, with its default settings."""
    tables = {
        "name": case.task.name,
        "task": {"use": study.GIVEN},
        "space": {"max_sparsity": MAX_SPARSITY, "group": [{"match": g, "max_sparsity": 0.0} for g in case.whole]},
        "budget": {"macs": BUDGET},
        "evaluator": {"use": use},
        "search": {"seed": seed, "trials": study.PAYS},  # many: with every short cut
    }
    found = {"precision": precision} if precision else {}
    return study.build(config.parse(tables, "the benchmark"), task=case.task, found=found)


def searched(case: Case, trials: int, seed: int) -> float:
    """Seconds of a search by evolution, from reading the network to the last line of the journal."""
    begun = time.perf_counter()
    built = studied(case, "recalibrate", seed)
    with tempfile.TemporaryDirectory() as folder, lifecycle.begin(built, Path(folder)) as run:
        loop.search(built.controller("evolution"), loop.remembering(built.attempt, run), run, trials=trials)
    return time.perf_counter() - begun


def one(case: Case, sides: Mapping[str, Side], policy: Policy, number: int, asked: argparse.Namespace) -> Row:
    """One policy on every side, in turn."""
    order = SIDES if number % 2 == 0 else SIDES[::-1]
    turns = {name: sides[name](policy) for name in order}
    check_widths(turns)
    plain, solved = sides[OURS], sides[SOLVED]
    assert isinstance(plain, Ours)
    assert isinstance(solved, Ours)
    row: Row = {
        "seconds": {name: turn.seconds for name, turn in turns.items()},
        "metric": {name: turn.metric for name, turn in turns.items()},
        "slow": {OURS: turns[LOOP].metric, SOLVED: solved.slow(policy)},
        "again": {OURS: plain.again(policy), SOLVED: solved.again(policy)} if asked.again else {},
        "same": {OURS: same(turns[LOOP].layers, turns[OURS].layers)},
        "finetuned": {},
    }
    if case.training and case.judged and number < asked.finetune:
        recipe = replace(solved.built.finetune, steps=asked.steps, lr=LR)
        for name in (LOOP, OURS, SOLVED):
            train(turns[name].model, case.training, case.task.loss, recipe, seed=asked.seed)
            row["finetuned"][name] = accuracy(turns[name].model, case.judged.batches(250))
    cells = (f"{SPOKEN[name]} {turns[name].seconds['total']:.2f} s {turns[name].metric:.1%}" for name in SIDES)
    print(f"  policy {number}: " + ", ".join(cells), flush=True)
    return row


def layers(model: nn.Module) -> Layers:
    """What tells two pruned networks apart."""
    with torch.no_grad():
        return {name: (tuple(p.shape), float(p.contiguous().double().sum())) for name, p in model.named_parameters()}


def same(left: Layers, right: Layers) -> float:
    """In what share of the layers' weights the same channels stayed."""
    weights = [name for name, (shape, _) in left.items() if len(shape) > 1]
    return statistics.mean(left[name] == right[name] for name in weights)


def check_widths(turns: Mapping[str, Turn]) -> None:
    """Stop where two sides made networks of different sizes."""
    wanted = {name: shape for name, (shape, _) in turns[OURS].layers.items()}
    for side, turn in turns.items():
        for name, (shape, _) in turn.layers.items():
            if shape != wanted.get(name):
                raise SystemExit(f"{side} made {name} {shape}, {OURS} made it {wanted.get(name)}: no fair comparison")


def first_of(side: Side, policy: Policy) -> tuple[float, float | None]:
    """The seconds of a side's first policy, with all that is done once, and the MiB held from then on."""
    spent: list[float] = []
    held = resident.held(lambda: spent.append(side(policy).seconds["total"]))
    return spent[0], held


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """What the policies came to, under the names of the JSON file."""
    judged = [row for row in rows if row["finetuned"]]
    found: dict[str, Any] = {"policies": len(rows), "finetuned": len(judged)}
    for name in SIDES:
        phases = {phase: [row["seconds"][name].get(phase) for row in rows] for phase in PHASES}
        medians = {phase: statistics.median(v) for phase, v in phases.items() if None not in v}
        found |= {f"phases_{name}": medians, f"seconds_{name}": medians["total"]}
    for ours, suffix in SUFFIX.items():
        for theirs, tuned in ((LOOP, ""), (TUNED, "_tuned")):
            times = [row["seconds"][theirs]["total"] / row["seconds"][ours]["total"] for row in rows]
            found[f"speedup{suffix}{tuned}"] = statistics.median(times)
            found[f"speedup{suffix}{tuned}_range"] = [min(times), max(times)]
        gaps = [row["metric"][ours] - row["metric"][LOOP] for row in rows]
        found[f"metric_difference{suffix}"] = statistics.mean(gaps)
        found[f"metric_difference{suffix}_deviation"] = statistics.stdev(gaps) if gaps[1:] else 0.0
        found[f"tau{suffix}_finetune"] = tau(judged, ("metric", ours), ("finetuned", ours))
        found[f"tau{suffix}_finetune_slow"] = tau(judged, ("slow", ours), ("finetuned", ours))
        found[f"tau{suffix}_finetune_lead"] = lead(judged, ours)
        pair = ("metric", ours), ("slow", ours)
        found[f"tau{suffix}"] = tau(rows, *pair)
        found[f"tau{suffix}_error"] = error(rows, partial(tau, left=pair[0], right=pair[1]))
        found[f"tau{suffix}_again"] = tau([row for row in rows if row["again"]], ("slow", ours), ("again", ours))
    found["tau_loop_finetune"] = tau(judged, ("metric", LOOP), ("finetuned", LOOP))
    found["same_channels"] = statistics.mean(row["same"][OURS] for row in rows)
    return found


def tau(rows: Sequence[Row], left: tuple[str, str], right: tuple[str, str]) -> float | None:
    """Kendall's tau-b of two figures over the policies; None where it cannot be said."""
    if len(rows) < 2:
        return None
    values = [[row[what][side] for row in rows] for what, side in (left, right)]
    found = float(kendalltau(*values).statistic)
    return found if math.isfinite(found) else None


def lead(rows: Sequence[Row], ours: str) -> tuple[float, float] | None:
    """By how much the tau of `ours` with finetuned top-1 exceeds the loop's, and its standard error."""

    def gained(some: Sequence[Row]) -> float | None:
        mine, theirs = (tau(some, ("metric", side), ("finetuned", side)) for side in (ours, LOOP))
        return None if mine is None or theirs is None else mine - theirs

    found, by = gained(rows), error(rows, gained)
    return None if found is None or by is None else (found, by)


def error(rows: Sequence[Row], figure: Callable[[Sequence[Row]], float | None]) -> float | None:
    """The standard error of a figure of the policies, by the jackknife; None where it cannot be said.

    The policies are the sample (Arvesen 1969, Annals of Mathematical Statistics 40, pages 2076 to 2100).
    """
    without = [figure([*rows[:number], *rows[number + 1 :]]) for number in range(len(rows))]
    known = [value for value in without if value is not None]
    return math.sqrt((len(known) - 1) * statistics.pvariance(known)) if len(known) == len(rows) > 2 else None


def described(case: Case, built: Study, seconds: float) -> str:
    """What is compared on."""
    whole = f", {', '.join(case.whole)} left whole (Torch-Pruning couples it wrongly)" if case.whole else ""
    groups = len(built.space.cube)
    return (
        f"\n{case.task.name}: {case.about}\n{groups} groups{whole}; random policies at {BUDGET} of the MACs\n"
        f"the evaluators score in {built.precision}; {torch.get_num_threads()} threads, load {load():.1f}; "
        f"both evaluators were built in {seconds:.1f} s"
    )


def load() -> float:
    """How many processes want the processors, this one included: more than there are spoils the figures."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def shown(found: Mapping[str, Any], steps: int) -> Iterator[str]:
    """The figures as people read them."""
    titles = ["seconds a policy", *PHASES, "first policy", "peak MiB", "held MiB"]
    yield f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}"
    for name in SIDES:
        times = [found[f"phases_{name}"].get(phase) for phase in PHASES] + [found[f"seconds_first_{name}"]]
        room = [found[f"{what}_mib_{name}"] for what in ("peak", "held")]
        cells = [SPOKEN[name], *(said(t, ".3f") for t in times), *(said(mib, ".0f") for mib in room)]
        yield f"| {' | '.join(cells)} |"
    yield f"\nover {found['policies']} policies; times are medians, ratios medians of the policies' own (least to most)"
    for ours, suffix in SUFFIX.items():
        plain, tuned = (ratio(found, f"speedup{suffix}{which}") for which in ("", "_tuned"))
        yield f"{SPOKEN[ours]}: {plain} times as fast as the loop, {tuned} times as fast as the tuned loop"
        gap = f"metric_difference{suffix}"
        yield f"{SPOKEN[ours]} - the loop, top-1: {found[gap]:+.2%}, standard deviation {found[gap + '_deviation']:.2%}"
    yield f"recalibrate and the loop kept the same channels in {found['same_channels']:.1%} of the layers"
    for suffix, pair in (
        ("", "recalibrate and the loop's score, which is its slow one"),
        ("_reconstruct", "reconstruct and its own slow score"),
    ):
        by = said(found[f"tau{suffix}_error"], ".3f")
        yield f"Kendall's tau of {pair}: {said(found[f'tau{suffix}'], '.3f')}, standard error {by}"
    if found["tau_again"] is not None:
        yield f"Kendall's tau of the slow scores and themselves with other calibration images: {both(found, '_again')}"
    if found["finetuned"]:
        after = {LOOP: "tau_loop_finetune", **{ours: f"tau{suffix}_finetune" for ours, suffix in SUFFIX.items()}}
        told = ", ".join(f"{SPOKEN[name]} {said(found[k], '.3f')}" for name, k in after.items())
        yield f"Kendall's tau with top-1 after {steps} steps of finetuning, {found['finetuned']} policies: {told}"
        yield f"Kendall's tau of the slow scores with the same: {both(found, '_finetune_slow')}"
        for ours, suffix in SUFFIX.items():
            if (leads := found[f"tau{suffix}_finetune_lead"]) is not None:
                yield f"{SPOKEN[ours]} - the loop, that tau: {leads[0]:+.3f}, standard error {leads[1]:.3f}"


def both(found: Mapping[str, Any], which: str) -> str:
    """A tau of both evaluators."""
    return ", ".join(f"{SPOKEN[ours]} {said(found[f'tau{suffix}{which}'], '.3f')}" for ours, suffix in SUFFIX.items())


def said(value: float | None, form: str) -> str:
    """A figure, or that there is none."""
    return "-" if value is None else format(value, form)


def ratio(found: Mapping[str, Any], key: str) -> str:
    """A median and its range."""
    least, most = found[f"{key}_range"]
    return f"{found[key]:.2f} ({least:.2f} to {most:.2f})"


if __name__ == "__main__":
    main()
