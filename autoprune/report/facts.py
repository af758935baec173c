"""What a run came to, as numbers: the facts behind the page, `report.json`.

Format 2 is written; format 1, which had networks in a list and choices under "groups", is read for ever.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from autoprune.errors import RunError, first_fault
from autoprune.files import disk
from autoprune.files.compared import Exported
from autoprune.report.detail import Detail
from autoprune.report.rows import (
    Agreement as Agreement,
    ChoiceFacts as ChoiceFacts,
    FrozenFacts as FrozenFacts,
    LeftOut as LeftOut,
    Limit as Limit,
    Network as Network,
    Role as Role,
    RungFacts as RungFacts,
    TrialFacts as TrialFacts,
)
from autoprune.report.staff import Staff
from autoprune.values import people
from autoprune.values.trial import front

FACTS = "report.json"
SCHEMA = 2
BEFORE = "before the search"  # a phase: tracing, measuring, all that is found out before a policy is asked for
SEARCHING = "search: "  # before the phases of a trial, among all seconds
_TRADE = 0.05  # of the dense cost, the least that a front must span to be one
_PHASES = ("ask", "prune", "recover", "score", "journal", "tell")


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
        trials: of the search; of very many not all, see `left_out`.
        measured: by name of the cost, the trials of the search of which it was measured, and is not as predicted.
        random_trials: what the random baseline was chosen from; of very many not all.
        rules: rules of thumb and rankings as the search scored them, by name; the best is called `rule`.
        delivered: the network that was taken in the end: the best on the holdout.
        rungs: of the ladder, from the cheapest judgement on; none where all trials were judged alike.
        left_out: how many trials are not listed here.
        detail: intervals, curves, layers and warnings.
        staff: who evaluated; None where the search did.
        sources: the policies, runs and agents that the search began with; none where it began anew.
        seconds: time spent, by phase, before the search, over all trials and after them.
        exports: the files that were written, run and compared.
        notes: what a reader must know: baselines left out, files that could not be written, a holdout seen in training.
        command: what makes the same run again.
        policies_per_second: of the search, as `values.trial.policies_per_second`; 0 where it is not known.
        scored: how many different networks got a score in the search; 0 where it is not known.
        fidelity: the search's score against the slow one; None where there is none, or it was not asked for.
        lower_is_better: whether the metric is better when it is lower.
        in_percent: whether the metric is a share, to be shown in percent.
        time: seconds that the search was asked to take; 0 where it was asked for so many trials.
        traded: the cost that is weighed against quality where there is no budget; "" where it is not known.
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
    traded: str = ""
    time: float = 0.0
    measured: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    rules: Mapping[str, TrialFacts] = field(default_factory=dict)
    rule: str = ""
    delivered: Role = "ours"
    rungs: tuple[RungFacts, ...] = ()
    detail: Detail = field(default_factory=Detail)
    staff: Staff | None = None
    sources: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA)

    @property
    def ours(self) -> Network:
        """What the search found."""
        return self.networks["ours"]

    @property
    def final(self) -> Network:
        """What was delivered."""
        return self.networks[self.delivered]

    @property
    def dense(self) -> Network:
        """What the search began with."""
        return self.networks["dense"]

    @property
    def tried(self) -> int:
        """How many trials the search had, listed or not."""
        return len(self.trials) + self.left_out.trials

    @property
    def alike(self) -> list[TrialFacts]:
        """The trials that were judged as most were, so that their metrics may be compared."""
        counts = Counter(trial.rung for trial in self.trials)
        most = max(counts, key=lambda rung: (counts[rung], -rung), default=0)
        return [trial for trial in self.trials if trial.rung == most]

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(trial.metric is None for trial in self.trials) + self.left_out.failed

    @property
    def headline_cost(self) -> str:
        """The cost to speak of first: the budget's, else the one that was weighed against quality."""
        return self.limits[0].cost if self.limits else self.traded or next(iter(self.units), "macs")

    @property
    def taught(self) -> str:
        """What pruned networks went through in the end: a finetune, or training from scratch."""
        return "training" if self.finetune.get("start") == "scratch" else "finetune"

    @property
    def trained(self) -> bool:
        """Whether pruned networks were trained at all in the end."""
        return self.finetune.get("steps") != 0

    @property
    def sign(self) -> int:
        """What turns the metric into one that is better when higher: 1, or -1."""
        return -1 if self.lower_is_better else 1

    def front(self, cost: str, most: int = 0) -> list[TrialFacts]:
        """The trials with a better metric than every one that costs no more, by rising cost.

        With `most`, no more than so many of them, spread evenly over the cost, the ends among them.
        """
        scored = [t for t in self.alike if t.metric is not None]
        found = [scored[at] for at in front([(self.sign * (t.metric or 0.0), -t.costs[cost]) for t in scored])]
        if not most or len(found) <= most:
            return found
        costs = np.array([t.costs[cost] for t in found])
        wanted = np.linspace(costs[0], costs[-1], most)
        nearest = np.abs(costs - wanted[:, None]).argmin(1)
        return [found[at] for at in np.unique(nearest)]

    def front_and_best(self, cost: str, most: int) -> list[TrialFacts]:
        """As `front`, with the trial that was taken among them, by rising cost."""
        found = {t.number: t for t in self.front(cost, most)}
        found |= {t.number: t for t in self.trials if t.number == self.best}
        return sorted(found.values(), key=lambda t: t.costs[cost])

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
        """Seconds before the search, of the whole of it, and of each phase after it."""
        others = {phase: spent for phase, spent in self.seconds.items() if not phase.startswith(SEARCHING)}
        before = {BEFORE: others.pop(BEFORE)} if BEFORE in others else {}
        return {**before, "search": sum(self.searching.values()), **others}

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        rows = [(role, n.test, n.holdout, *n.costs.values()) for role, n in self.networks.items()]
        return people.table(f"Report of {self.name}", ("network", "test", "holdout", *self.units), rows)


def read(directory: Path) -> Report:
    """The facts of a finished run. Raises RunError where they are missing or damaged."""
    path = directory / FACTS
    try:
        found = disk.read_json(path)
    except OSError:
        raise RunError(f"{directory} is no run: it has no {FACTS}") from None
    try:
        if found.get("schema_version") not in (1, SCHEMA):
            raise RunError(f"{path} is a report of format {found.get('schema_version')!r}; 1 and {SCHEMA} can be read")
        return pydantic.TypeAdapter(Report).validate_json(json.dumps(_upgraded(found)), strict=True)
    except (AttributeError, TypeError, ValueError) as wrong:
        if not isinstance(wrong, pydantic.ValidationError):
            raise RunError(f"{path} is damaged; it should hold the facts of a report of format 1 or {SCHEMA}") from None
        place, said = first_fault(wrong.errors())
        raise RunError(f"{path} is damaged at {place or 'its beginning'}: {said}") from None


def tried(found: Mapping[str, Any]) -> int:
    """As `Report.tried`, of facts as JSON holds them, whatever their format."""
    left = found.get("left_out")
    more = left.get("trials") if isinstance(left, dict) else 0
    return len(found.get("trials", ())) + (more if isinstance(more, int) else 0)


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
