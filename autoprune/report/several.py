"""Several runs side by side: what was asked alike is one row, with the mean and the spread over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from autoprune.errors import ConfigError
from autoprune.report import words
from autoprune.report.facts import Report, Role, read

LEVEL = 0.95  # of the intervals over runs, by Student's t


@dataclass(frozen=True, slots=True)
class Spread:
    """Numbers of several runs.

    Attributes:
        mean: of them.
        deviation: sample standard deviation; None of one run.
        runs: how many.
    """

    mean: float
    deviation: float | None
    runs: int

    @property
    def half(self) -> float | None:
        """Half of the width of the interval of the mean, by Student's t; None of one run."""
        if self.deviation is None:
            return None
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, self.runs - 1))
        return quantile * self.deviation / math.sqrt(self.runs)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        name: what they were asked, for people.
        runs: their directories and reports, by seed.
    """

    name: str
    runs: tuple[tuple[Path, Report], ...]

    def test(self, role: Role) -> Spread | None:
        """The test metric of a network."""
        return spread([n.test for _, r in self.runs if (n := r.networks.get(role))])

    def gap(self, role: Role) -> Spread | None:
        """By how much ours differs from another network on the test split, run by run."""
        return spread([words.less(r.ours.test, n.test) for _, r in self.runs if (n := r.networks.get(role))])

    def share(self, cost: str) -> Spread | None:
        """What ours costs as a share of dense."""
        return spread([r.ours.costs[cost] / r.dense.costs[cost] for _, r in self.runs if cost in r.units])

    @property
    def searching(self) -> Spread | None:
        """Seconds of the search."""
        return spread([sum(r.searching.values()) for _, r in self.runs if r.searching])

    @property
    def seeds(self) -> str:
        """For people."""
        return ", ".join(str(r.seed) for _, r in self.runs)


@dataclass(frozen=True)
class Several:
    """Runs of one task, in groups."""

    groups: tuple[Group, ...]

    @property
    def first(self) -> Report:
        """Any of the reports: its task and metric are those of all."""
        return self.groups[0].runs[0][1]

    @property
    def costs(self) -> list[str]:
        """Every cost that all runs have."""
        reports = [r for group in self.groups for _, r in group.runs]
        return [cost for cost in reports[0].units if all(cost in r.units for r in reports)]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "task": self.first.task,
            "metric_name": self.first.metric_name,
            "groups": [
                {
                    "name": group.name,
                    "runs": [str(path) for path, _ in group.runs],
                    "seeds": [r.seed for _, r in group.runs],
                    "test": {role: _plain(group.test(role)) for role in ROLES},
                    "ours_less": {role: _plain(group.gap(role)) for role in ROLES if role != "ours"},
                    "shares": {cost: _plain(group.share(cost)) for cost in self.costs},
                    "search_seconds": _plain(group.searching),
                }
                for group in self.groups
            ],
        }


ROLES: tuple[Role, ...] = ("dense", "ours", "uniform", "rule", "random")


def gathered(directories: Sequence[Path]) -> Several:
    """The reports of runs, in groups by what was asked of them.

    Raises RunError for what is no finished run, and ConfigError for a run that is named twice, the same search with the
    same seed, or a run of another task.
    """
    found = dict[Path, Report]()
    for path in directories:
        if path.resolve() in (known.resolve() for known in found):
            raise ConfigError(f"{path} is named twice; each run once is right")
        found[path] = read(path)
    reports = list(found.values())
    if odd := next((r for r in reports if (r.task, r.metric_name) != (reports[0].task, reports[0].metric_name)), None):
        wanted, other = (f"{r.metric_name} of {r.task}" for r in (reports[0], odd))
        raise ConfigError(f"the runs are judged by {wanted} and by {other}; runs of one task are right")
    groups: dict[tuple[str, ...], list[tuple[Path, Report]]] = {}
    for path, r in found.items():
        groups.setdefault(_asked(r), []).append((path, r))
    for runs in groups.values():
        _require_different(runs)
    apart = _telling(list(groups))
    return Several(
        tuple(
            Group(", ".join(key[at] for at in apart) or key[0], tuple(sorted(runs, key=lambda one: one[1].seed)))
            for key, runs in groups.items()
        )
    )


def _require_different(runs: Sequence[tuple[Path, Report]]) -> None:
    """Raises ConfigError where one seed would count twice: a spread over seeds would be less than it is."""
    seen = dict[int, Path]()
    for path, r in runs:
        if r.seed in seen:
            raise ConfigError(f"{seen[r.seed]} and {path} are one search with one seed, {r.seed}; one of them is right")
        seen[r.seed] = path


def _asked(r: Report) -> tuple[str, ...]:
    """All that was asked of a run but its seed, in words."""
    budget = " and ".join(f"{words.label(limit.cost)} {limit.asked}" for limit in r.limits) or "no budget"
    steps = f"{r.taught} of {r.finetune.get('steps', '?')} steps at {r.finetune.get('lr', '?')}"
    used = tuple(words.used(r, kind) for kind in ("controller", "evaluator", "criterion", "reward"))
    begun = "begun with what others found" if r.sources else "begun anew"
    return used[0], budget, *used[1:], words.counted(r.tried, "trial"), steps, begun, r.name


def _telling(keys: Sequence[tuple[str, ...]]) -> list[int]:
    """Which parts of what was asked tell groups apart; controller and budget in any case."""
    return [at for at in range(len(keys[0])) if at < 2 or len({key[at] for key in keys}) > 1]


def spread(values: Sequence[float | None]) -> Spread | None:
    """Of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def shown(r: Report, of: Spread | None) -> str:
    """A metric over runs, as people read it."""
    if of is None:
        return "-"
    return words.shown(r, of.mean) + _after(r, of.deviation)


def gap(r: Report, of: Spread | None) -> str:
    """A difference of metrics over runs, with its interval where there are several."""
    if of is None:
        return "-"
    if of.half is None:
        return words.gap(r, of.mean)
    low, high = words.gap(r, of.mean - of.half), words.gap(r, of.mean + of.half)
    return f"{words.gap(r, of.mean)}{_after(r, of.deviation)} ({LEVEL:.0%}: {low} to {high})"


def share(of: Spread | None) -> str:
    """A share of the dense cost over runs."""
    if of is None:
        return "-"
    return f"{of.mean:.1%}" + (f" ± {100 * of.deviation:.1f}" if of.deviation is not None else "")


def table(several: Several) -> list[list[str]]:
    """The groups as rows of text, the head first."""
    r = several.first
    head = ["what was asked", "runs", f"test {words.metric(r)}", "against uniform", "against random"]
    rows = [[*head, *(f"{words.label(cost)} of dense" for cost in several.costs), "search"]]
    for group in several.groups:
        time = group.searching
        rows.append(
            [
                group.name,
                str(len(group.runs)),
                shown(r, group.test("ours")),
                gap(r, group.gap("uniform")),
                gap(r, group.gap("random")),
                *(share(group.share(cost)) for cost in several.costs),
                words.duration(time.mean) if time else "-",
            ]
        )
    return rows


def _after(r: Report, deviation: float | None) -> str:
    if deviation is None:
        return ""
    return f" ± {100 * deviation:.2f}" if r.in_percent else f" ± {deviation:.2g}"


def _plain(of: Spread | None) -> dict[str, float | int | None] | None:
    return None if of is None else {"mean": of.mean, "deviation": of.deviation, "half": of.half, "runs": of.runs}
