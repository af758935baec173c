"""What a run came to: the facts (`report.json`), and the page that shows them (`report.html`, one file, opens offline).

The page is made from the facts alone, so that it can be made again at any time without a network or a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pydantic
from markupsafe import Markup

from autoprune.errors import RunError
from autoprune.files.export import Exported
from autoprune.runs.journal import stored, write_json, write_text
from autoprune.runs.kendall import Agreement

FACTS, PAGE = "report.json", "report.html"
SCHEMA = 1
SEARCHING = "search: "  # before the phases of a trial, among all seconds
_TRADE = 0.02  # of the dense cost, the least that a front must span to be one
_COUNTED = ("MAC", "FLOP", "param")  # units that the name of the cost says already
_PHASES = ("ask", "prune", "recover", "score", "journal", "tell")

Role = Literal["dense", "ours", "uniform", "random"]


@dataclass(frozen=True, slots=True)
class Network:
    """One row of the comparison. All pruned networks were finetuned, or trained anew, with the same recipe and seed.

    Attributes:
        role: "dense", "ours", "uniform" or "random".
        searched: metric on the holdout as the search saw it, before the final finetune.
        holdout, test: metric after the final finetune; of the dense network, as it is.
        costs: counted on the network itself, by name of the cost.
        bytes: size of its weights.
        kept: units of each group that stayed, in the order of the report's groups.
    """

    role: Role
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
class GroupFacts:
    """A group and how it was proven to be prunable ("exact" or "shapes")."""

    name: str
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
class Report:
    """Everything the page shows.

    Attributes:
        name: of the search space.
        plugins: the names of controller, evaluator, criterion and reward.
        images: samples in each split.
        units: of each cost, by its name.
        networks: dense first, then ours, then the baselines.
        random_trials: what the random baseline was chosen from.
        seconds: time spent, by phase, over all trials and after them.
        exports: the files that were written, run and compared.
        notes: what a reader must know: baselines left out, files that could not be written, a holdout seen in training.
        command: what makes the same run again.
        policies_per_second: of the search, as `autoprune.values.trial.policies_per_second`; 0 where it is not known.
        fidelity: the search's score against the slow one; None where there is none, or it was not asked for.
    """

    name: str
    task: str
    metric_name: str
    images: Mapping[str, int]
    plugins: Mapping[str, str]
    units: Mapping[str, str]
    networks: tuple[Network, ...]
    limits: tuple[Limit, ...]
    groups: tuple[GroupFacts, ...]
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
    fidelity: Agreement | None = None
    schema_version: int = field(default=SCHEMA)

    def network(self, role: Role) -> Network | None:
        """The network of that role; None where there is none."""
        return next((n for n in self.networks if n.role == role), None)

    @property
    def ours(self) -> Network:
        """What the search found."""
        return next(n for n in self.networks if n.role == "ours")

    @property
    def dense(self) -> Network:
        """What the search began with."""
        return next(n for n in self.networks if n.role == "dense")

    @property
    def headline_cost(self) -> str:
        """The cost to speak of first: the budget's, else MACs."""
        return self.limits[0].cost if self.limits else "macs"

    @property
    def taught(self) -> str:
        """What pruned networks went through in the end: a finetune, or training from scratch."""
        return "training" if self.finetune.get("start") == "scratch" else "finetune"

    def front(self, cost: str, most: int = 0) -> list[TrialFacts]:
        """The trials with a better metric than every one that costs no more, by rising cost.

        With `most`, no more than so many of them, spread evenly over the cost, the ends among them.
        """
        scored = [t for t in self.trials if t.metric is not None]
        found: list[TrialFacts] = []
        for trial in sorted(scored, key=lambda t: (t.costs[cost], -(t.metric or 0.0))):
            if not found or (trial.metric or 0.0) > (found[-1].metric or 0.0):
                found.append(trial)
        if not most or len(found) <= most:
            return found
        costs = np.array([t.costs[cost] for t in found])
        wanted = np.linspace(costs[0], costs[-1], most)
        nearest = np.abs(costs - wanted[:, None]).argmin(1)
        return [found[i] for i in np.unique(nearest)]

    def trades(self, cost: str) -> bool:
        """Whether the front trades quality for this cost; where a budget is filled, every trial costs the same."""
        costs = [t.costs[cost] for t in self.front(cost)]
        return bool(costs) and costs[-1] - costs[0] > _TRADE * self.dense.costs[cost]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """The result in one sentence."""
        cost, ours, dense = self.headline_cost, self.ours, self.dense
        share = ours.costs[cost] / dense.costs[cost]
        unit = "" if self.units[cost] in _COUNTED else f" {self.units[cost]}"
        lead = f"{share:.1%} of the {label(cost)} ({quantity(ours.costs[cost])} of {quantity(dense.costs[cost])}{unit})"
        quality = f"test {self.metric_name} {self.shown(ours.test)}, dense {self.shown(dense.test)}"
        uniform = self.network("uniform")
        training = "training" if self.taught == "training" else "finetuning"
        against = f", uniform pruning at equal {training} {self.shown(uniform.test)}" if uniform else ""
        return f"{lead}: {quality} ({self.gap(ours.test - dense.test)}){against}."

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

    def remarks(self) -> list[str]:
        """How true the search's score is, if that is known, and where the time of the search went."""
        spent = self.searching
        total = sum(spent.values())
        shares = ", ".join(f"{phase} {duration(s)} ({s / (total or 1):.0%})" for phase, s in spent.items())
        said = [f"Score of the search against the slow score: {self.fidelity.sentence()}."] if self.fidelity else []
        pace = f", {rate(self.policies_per_second)}" if self.policies_per_second else ""
        said += [f"{label(x.cost).capitalize()} {x.about}." for x in self.limits if x.about]
        said += [f"The search took {duration(total)}{pace}: {shares}."] if spent else []
        return [*said, self._front_in_words()] if self.trades(self.headline_cost) else said

    def _front_in_words(self) -> str:
        """What the front spans, and how to take a point of it."""
        cost = self.headline_cost
        ends = self.front(cost)
        low, high = (f"{t.costs[cost] / self.dense.costs[cost]:.0%}" for t in (ends[0], ends[-1]))
        worst, best = (self.shown(t.metric) for t in (ends[0], ends[-1]))
        between = f"{worst} at {low} of the {label(cost)} and {best} at {high}"
        return f"The front has {len(ends)} points between {between}; `autoprune apply RUN --at {cost}=40%` takes any."

    def title(self, role: Role) -> str:
        """What a network is called in tables."""
        ours, random = self.plugins.get("controller", "search"), f"best of {len(self.random_trials)} random"
        return {"dense": "dense", "ours": f"found by {ours}", "uniform": "uniform", "random": random}[role]

    @property
    def in_percent(self) -> bool:
        """Whether the metric is a share, to be shown in percent."""
        return self.metric_name.startswith("top-")

    def shown(self, metric: float | None) -> str:
        """A metric as people read it."""
        if metric is None:
            return "-"
        return f"{100 * metric:.2f} %" if self.in_percent else f"{metric:.4g}"

    def gap(self, difference: float) -> str:
        """A difference of metrics as people read it."""
        size = 100 * difference if self.in_percent else difference
        sign = "+" if size > 0 else "−" if size < 0 else "±"  # noqa: RUF001 - a minus sign, not a hyphen
        number = f"{abs(size):.2f}" if self.in_percent else f"{abs(size):.4g}"
        return f"{sign}{number} points" if self.in_percent else f"{sign}{number}"


def headline(facts: Mapping[str, Any]) -> str:
    """The result in one sentence, from the facts as JSON holds them."""
    return _checked(facts, FACTS).sentence()


def table(facts: Mapping[str, Any]) -> list[list[str]]:
    """The comparison as rows of text, the head first, from the facts as JSON holds them."""
    found = _checked(facts, FACTS)
    metric = found.metric_name
    heads = [label(c) if unit in _COUNTED else f"{label(c)}, {unit}" for c, unit in found.units.items()]
    rows = [["network", f"test {metric}", f"holdout {metric}", *heads, "weights"]]
    for n in found.networks:
        costs = [f"{quantity(n.costs[c])} ({n.costs[c] / found.dense.costs[c]:.1%})" for c in found.units]
        rows.append([found.title(n.role), found.shown(n.test), found.shown(n.holdout), *costs, size(n.bytes)])
    return rows


def amount(value: float, unit: str) -> str:
    """A cost in full: whole numbers of what is counted, four digits of what is measured."""
    return f"{value:,.0f}" if unit in _COUNTED else f"{value:.4g} {unit}"


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What the summary says below the table, a sentence each, from the facts as JSON holds them."""
    return _checked(facts, FACTS).remarks()


def write(report: Report, directory: Path) -> None:
    """Write the facts and the page into a run's directory."""
    write_json(directory / FACTS, report.plain())
    write_html(directory)


def read(directory: Path) -> Report:
    """The facts of a finished run. Raises RunError where they are missing or damaged."""
    return _checked(stored(directory, FACTS), str(directory / FACTS))


def _checked(facts: Mapping[str, Any], source: str) -> Report:
    try:
        return pydantic.TypeAdapter(Report).validate_python(facts)
    except pydantic.ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its beginning"
        raise RunError(f"{source} is damaged at {place}: {first['msg']}") from None


def write_html(directory: Path) -> Path:
    """Make the page again from the facts; returns where it lies."""
    write_text(directory / PAGE, render(read(directory)))
    return directory / PAGE


def render(report: Report) -> str:
    """The page, as text."""
    from autoprune.report import plots  # matplotlib is slow to import, and only needed here

    pictures = {
        "progress": plots.progress(report),
        "tradeoff": plots.tradeoff(report),
        "groups": plots.groups(report),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autoprune.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "quantity": quantity,
        "label": label,
        "size": size,
        "duration": duration,
        "rate": rate,
        "amount": amount,
    }
    template = environment.get_template("page.html.j2")
    return template.render(r=report, pictures={name: Markup(svg) for name, svg in pictures.items()})


def label(cost: str) -> str:
    """A cost's name as people write it."""
    return {"macs": "MACs", "flops": "FLOPs", "params": "parameters"}.get(cost, cost)


def quantity(value: float) -> str:
    """A large number with three or four digits and a prefix: 20.46 M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:#.4g}".rstrip(".") + f" {letter}"
    return f"{value:.4g}"


def size(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(policies_per_second: float) -> str:
    """How fast policies are evaluated, as people read it."""
    return f"{policies_per_second:.{1 if policies_per_second >= 0.95 else 2}f} policies/s"
