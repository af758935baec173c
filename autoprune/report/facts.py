"""What a run came to, as numbers: the facts behind the page, `report.json`.

Format 2 is written; format 1, which had networks in a list and choices under "groups", is read for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from autoprune.errors import RunError
from autoprune.files import disk
from autoprune.files.compared import Exported
from autoprune.values.trial import front

FACTS = "report.json"
SCHEMA = 2
SEARCHING = "search: "  # before the phases of a trial, among all seconds
_TRADE = 0.02  # of the dense cost, the least that a front must span to be one
_PHASES = ("ask", "prune", "recover", "score", "journal", "tell")

Role = Literal["dense", "ours", "uniform", "random"]


@dataclass(frozen=True, slots=True)
class Network:
    """One row of the comparison. All pruned networks were finetuned, or trained anew, with the same recipe and seed.

    Attributes:
        searched: metric on the holdout as the search saw it, before the final finetune.
        holdout, test: metric after the final finetune; of the dense network, as it is.
        costs: counted on the network itself, by name of the cost.
        bytes: size of its weights.
        kept: the level of each choice, in the order of the report's choices.
    """

    searched: float
    holdout: float
    test: float
    costs: Mapping[str, float]
    bytes: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling, and what became of it.

    Attributes:
        predicted: of the policy, by arithmetic or by a fit.
        counted: on the pruned network, or measured.
        spread: standard error of a measurement, as a share of it; 0 of a count.
        about: of a cost that is measured: where, and how well it is predicted.
    """

    cost: str
    unit: str
    asked: str
    most: float
    dense: float
    predicted: float
    counted: float
    spread: float = 0.0
    about: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceFacts:
    """A choice and how it was proven to be prunable ("exact" or "shapes")."""

    name: str
    kind: str
    layers: tuple[str, ...]
    of: int
    lowest: int
    proof: str


@dataclass(frozen=True, slots=True)
class FrozenFacts:
    """Channels that could not be pruned, and why."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """A trial without its policy, which the journal has."""

    number: int
    metric: float | None
    reward: float | None
    costs: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one score puts policies in the order of another.

    Attributes:
        tau: Kendall's tau-b, in [-1, 1]; None where one of the scores is the same for all policies.
        low, high: the 90 % bootstrap interval of `tau`.
        recall: share of the best tenth by the other score that is in the best tenth by this one, in [0, 1].
        policies: how many were counted.
        failed: how many were left out, since one of the scores failed.
    """

    tau: float | None
    low: float | None
    high: float | None
    recall: float
    policies: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the page shows.

    Attributes:
        name: of the search space.
        metric_name: of the metric, whose numbers are everywhere here as the task's metric gives them.
        plugins: the names of controller, evaluator, criterion and reward.
        images: samples in each split.
        units: of each cost, by its name.
        networks: by role: dense first, then ours, then the baselines that there are.
        random_trials: what the random baseline was chosen from.
        seconds: time spent, by phase, over all trials and after them.
        exports: the files that were written, run and compared.
        notes: what a reader must know: baselines left out, files that could not be written, a holdout seen in training.
        command: what makes the same run again.
        policies_per_second: of the search, as `values.trial.policies_per_second`; 0 where it is not known.
        scored: how many different networks got a score in the search; 0 where it is not known.
        fidelity: the search's score against the slow one; None where there is none, or it was not asked for.
        lower_is_better: whether the metric is better when it is lower.
        in_percent: whether the metric is a share, to be shown in percent.
    """

    name: str
    task: str
    metric_name: str
    images: Mapping[str, int]
    plugins: Mapping[str, str]
    units: Mapping[str, str]
    networks: Mapping[Role, Network]
    limits: tuple[Limit, ...]
    choices: tuple[ChoiceFacts, ...]
    frozen: tuple[FrozenFacts, ...]
    trials: tuple[TrialFacts, ...]
    random_trials: tuple[TrialFacts, ...]
    best: int
    seconds: Mapping[str, float]
    exports: tuple[Exported, ...]
    finetune: Mapping[str, float | int | str]
    seed: int
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    command: str
    made: str
    notes: tuple[str, ...] = ()
    policies_per_second: float = 0.0
    scored: int = 0
    fidelity: Agreement | None = None
    lower_is_better: bool = False
    in_percent: bool = False
    schema_version: int = field(default=SCHEMA)

    @property
    def ours(self) -> Network:
        """What the search found."""
        return self.networks["ours"]

    @property
    def dense(self) -> Network:
        """What the search began with."""
        return self.networks["dense"]

    @property
    def headline_cost(self) -> str:
        """The cost to speak of first: the budget's, else MACs, else parameters."""
        return self.limits[0].cost if self.limits else next(iter(self.units), "macs")

    @property
    def taught(self) -> str:
        """What pruned networks went through in the end: a finetune, or training from scratch."""
        return "training" if self.finetune.get("start") == "scratch" else "finetune"

    @property
    def sign(self) -> int:
        """What turns the metric into one that is better when higher: 1, or -1."""
        return -1 if self.lower_is_better else 1

    def front(self, cost: str, most: int = 0) -> list[TrialFacts]:
        """The trials with a better metric than every one that costs no more, by rising cost.

        With `most`, no more than so many of them, spread evenly over the cost, the ends among them.
        """
        scored = [t for t in self.trials if t.metric is not None]
        found = [scored[at] for at in front([(self.sign * (t.metric or 0.0), -t.costs[cost]) for t in scored])]
        if not most or len(found) <= most:
            return found
        costs = np.array([t.costs[cost] for t in found])
        wanted = np.linspace(costs[0], costs[-1], most)
        nearest = np.abs(costs - wanted[:, None]).argmin(1)
        return [found[at] for at in np.unique(nearest)]

    def trades(self, cost: str) -> bool:
        """Whether the front trades quality for this cost; where a budget is filled, every trial costs the same."""
        costs = [t.costs[cost] for t in self.front(cost)]
        return bool(costs) and costs[-1] - costs[0] > _TRADE * self.dense.costs[cost]

    @property
    def searching(self) -> dict[str, float]:
        """Seconds that the trials of the search took, by phase, in the order of a trial."""
        spent = {p.removeprefix(SEARCHING): s for p, s in self.seconds.items() if p.startswith(SEARCHING)}
        return {p: spent[p] for p in [*(p for p in _PHASES if p in spent), *(p for p in spent if p not in _PHASES)]}

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of the whole search, and of each phase after it."""
        after = {phase: spent for phase, spent in self.seconds.items() if not phase.startswith(SEARCHING)}
        return {"search": sum(self.searching.values()), **after}

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def read(directory: Path) -> Report:
    """The facts of a finished run. Raises RunError where they are missing or damaged."""
    path = directory / FACTS
    try:
        found = disk.read_json(path)
    except OSError:
        raise RunError(f"{directory} is no run: it has no {FACTS}") from None
    try:
        return pydantic.TypeAdapter(Report).validate_python(_upgraded(found))
    except pydantic.ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its beginning"
        raise RunError(f"{path} is damaged at {place}: {first['msg']}") from None


def _upgraded(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts of format 1 as facts of format 2, which once told shares by the metric's name."""
    found = {"in_percent": str(found.get("metric_name", "")).startswith("top-"), **found}
    if found.get("schema_version") != 1:
        return found
    rest = {key: value for key, value in found.items() if key not in ("groups", "networks")}
    networks = [dict(one) for one in found.get("networks", ())]
    choices = [{"kind": "channel", **one} for one in found.get("groups", ())]
    by_role = {one.pop("role", ""): one for one in networks}
    return {**rest, "schema_version": SCHEMA, "networks": by_role, "choices": choices}
