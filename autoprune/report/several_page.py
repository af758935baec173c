"""The page of several runs: `compare.html`, one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autoprune.report import page, plots, several, words
from autoprune.report.facts import Report
from autoprune.report.several import Group, Several

PAGE = "compare.html"


def render(found: Several) -> str:
    """The page, as text."""
    template = page.environment().get_template("compare.html.j2")
    drawn = {"quality": quality(found), "progress": progress(found)}
    pictures = {name: Markup(svg) for name, svg in drawn.items()}
    return template.render(several=found, r=found.first, words=words, of=several, pictures=pictures, colours=_COLOURS)


def quality(found: Several) -> str:
    """Test metric against the headline cost: a point a run, a larger one for the mean of its group."""
    r, cost = found.first, found.costs[0]
    scale = 100 if r.in_percent else 1
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.2, 3.6), dpi=plots.DPI, layout="constrained")
        axes = figure.add_subplot()
        for group, colour in zip(found.groups, _colours(found.groups), strict=True):
            points = [(100 * x.ours.costs[cost] / x.dense.costs[cost], x.ours.test) for _, x in group.runs]
            known = np.array([(share, scale * test) for share, test in points if test is not None]).reshape(-1, 2)
            axes.scatter(known[:, 0], known[:, 1], s=22, color=colour, alpha=0.6, linewidths=0)
            if len(known):
                axes.scatter(
                    known[:, 0].mean(),
                    known[:, 1].mean(),
                    s=80,
                    color=colour,
                    marker="D",
                    label=group.name,
                    edgecolors=plots.PAPER,
                )
        axes.set_xlabel(f"{words.label(cost)}, % of dense")
        axes.set_ylabel(f"test {words.metric(r)}{', %' if r.in_percent else ''}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=_columns(found))
        return plots.svg(figure, "Test metric against cost, run by run")


def progress(found: Several) -> str:
    """The best reward so far over trials: the mean of each group, and the range of its runs."""
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.2, 3.2), dpi=plots.DPI, layout="constrained")
        axes = figure.add_subplot()
        for group, colour in zip(found.groups, _colours(found.groups), strict=True):
            rows = np.array(_so_far([r for _, r in group.runs]))
            if not rows.size:
                continue
            numbers = np.arange(rows.shape[1])
            axes.fill_between(numbers, rows.min(0), rows.max(0), step="post", color=colour, alpha=0.15, linewidth=0)
            axes.step(numbers, rows.mean(0), where="post", color=colour, linewidth=2, label=group.name)
        axes.set_xlabel("trial")
        axes.set_ylabel("best reward so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=_columns(found))
        return plots.svg(figure, "Best reward so far, by group")


def _so_far(reports: Sequence[Report]) -> list[list[float]]:
    """For each run its best reward after every trial, as far as all runs go; from the first that none lacks."""
    last = min(max(t.number for t in r.trials) for r in reports)
    rows = []
    for r in reports:
        rewards = {t.number: t.reward for t in r.trials if t.reward is not None}
        known = [rewards.get(number, -np.inf) for number in range(last + 1)]
        rows.append(np.maximum.accumulate(known))
    whole = np.isfinite(np.array(rows)).all(0)
    return [[value if fine else np.nan for value, fine in zip(row, whole, strict=True)] for row in rows]


def _columns(found: Several) -> int:
    """Of a legend: long names stand below one another."""
    return 2 if max(len(group.name) for group in found.groups) <= _SHORT else 1


_SHORT = 45  # signs of a name that may stand beside another
_COLOURS = ("ours", "uniform", "random", "muted", "bad", "good")


def _colours(groups: Sequence[Group]) -> list[str]:
    ours = (plots.OURS, plots.UNIFORM, plots.RANDOM, plots.MUTED, plots.BAD, plots.GOOD)
    return [ours[at % len(ours)] for at in range(len(groups))]
