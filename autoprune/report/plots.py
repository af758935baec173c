"""The pictures of the report, as SVG that takes its colours from the page: light or dark, as the reader likes.

Matplotlib draws with stand-in colours; each is replaced by a CSS variable of the page. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from autoprune.report.facts import Report, TrialFacts
from autoprune.report.words import counts, heading, metric, used

INK, MUTED, GRID, TRACK, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
OURS, UNIFORM, RANDOM, DENSE, TRIAL, RULE = "#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b"
GOOD, BAD = "#000101", "#000202"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", TRACK: "--track", PAPER: "--paper",
    OURS: "--ours", UNIFORM: "--uniform", RANDOM: "--random", DENSE: "--dense", TRIAL: "--trial", RULE: "--rule",
    GOOD: "--good", BAD: "--bad",
}  # fmt: skip
MARKERS = {
    "dense": (DENSE, "*", 150),
    "ours": (OURS, "o", 75),
    "uniform": (UNIFORM, "s", 52),
    "rule": (RULE, "^", 58),
    "random": (RANDOM, "D", 48),
}
DPI = 72  # of an SVG: what is laid out is where it is drawn
Point = tuple[Axes, int, float, float]  # a trial's number, and where it lies
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "autoprune", "font.size": 10, "axes.edgecolor": GRID,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": MUTED, "text.color": INK, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False, "legend.fontsize": 9,
}  # fmt: skip


def progress(report: Report) -> str:
    """Every trial's reward and the best so far; the random baseline's best so far for comparison."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.3), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        direct = report.plugins.get("reward") == "metric"
        scale = _scale(report) * report.sign if direct else 1  # rewards are better when higher; metrics may not be
        done = [t for t in report.alike if t.reward is not None]
        numbers = [t.number for t in done]
        rewards = [scale * (t.reward or 0.0) for t in done]
        axes.scatter(numbers, rewards, s=16, color=TRIAL, linewidths=0, label="trial", zorder=2)
        if len(report.random_trials) > 1:
            _staircase(axes, report.random_trials, scale, RANDOM, "random, best so far", dashed=True)
        _staircase(axes, report.alike, scale, OURS, f"{used(report, 'controller')}, best so far")
        _mark_failed(axes, report.trials)
        style: Any = {"color": OURS, "edgecolors": PAPER, "zorder": 5}
        best = next(t for t in report.trials if t.number == report.best)
        axes.scatter([best.number], [scale * (best.reward or 0.0)], s=75, linewidths=1.4, **style)
        higher = [t for t in report.trials if t.reward is not None and t not in done]
        if higher:
            rewards += [scale * (t.reward or 0.0) for t in higher]
            places = [t.number for t in higher], [scale * (t.reward or 0.0) for t in higher]
            axes.scatter(*places, s=26, marker="^", linewidths=0.6, label="on another rung", **style)
        _focus(axes, rewards, report.sign if direct else 1)
        axes.set_xlabel("trial")
        axes.set_ylabel(_axis(report) if direct else "reward")
        axes.set_xlim(-0.8, max(report.tried, 2) - 0.2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=4, handletextpad=0.5)
        points = [(axes, t.number, t.number, scale * (t.reward or 0.0)) for t in done]
        return svg(figure, "Reward of every trial, and the best so far", points)


def tradeoff(report: Report) -> str:
    """Metric on the holdout against each cost, for every trial, with the front of those that no other beats."""
    names = list(dict.fromkeys([report.headline_cost, "macs", "params"]))
    names = [n for n in names if n in report.units and not (n == "macs" and report.headline_cost == "flops")][:2]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), dpi=DPI, layout=ConstrainedLayoutEngine(wspace=0.06))
        panels = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
        for axes, name in zip(panels, names, strict=True):
            _tradeoff_panel(axes, report, name)
        panels[0].set_ylabel(_axis(report))
        shown = {name: mark for axes in panels for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        labels = list(shown)
        figure.legend(list(shown.values()), labels, loc="outside lower center", ncols=len(labels), handletextpad=0.4)
        scale, shown_trials = _scale(report), _scored(report.alike)
        points = [
            (axes, t.number, t.costs[name], scale * (t.metric or 0.0))
            for axes, name in zip(panels, names, strict=True)
            for t in shown_trials
        ]
        return svg(figure, "Holdout metric against cost, for every trial", points)


def curves(report: Report) -> str:
    """The training loss of each network's finetune, by step; "" where nothing was trained."""
    found = report.detail.curves
    if not found:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.8), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for role, curve in sorted(found.items(), key=lambda entry: entry[0] == "ours"):
            name = {"ours": "ours"}.get(role, f"{role} baseline")
            axes.plot(curve.steps, curve.losses, color=MARKERS[role][0], linewidth=1.6, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3, handletextpad=0.5)
        return svg(figure, "Training loss of the finetunes")


def _tradeoff_panel(axes: Axes, report: Report, cost: str) -> None:
    scale = _scale(report)
    points = np.array([(t.costs[cost], scale * t.metric) for t in _scored(report.alike) if t.metric is not None])
    axes.scatter(points[:, 0], points[:, 1], s=18, color=TRIAL, linewidths=0, label="trial", zorder=2)
    if report.trades(cost):
        front = np.array([(t.costs[cost], scale * (t.metric or 0.0)) for t in report.front(cost)])
        axes.step(
            front[:, 0], front[:, 1], where="post", color=OURS, linewidth=1.3, alpha=0.75, label="front", zorder=3
        )
    for role, network in report.networks.items():
        colour, marker, area = MARKERS[role]
        style: Any = {"s": area, "color": colour, "marker": marker, "edgecolors": PAPER, "linewidths": 1.0}
        name = {"ours": "ours", "dense": "dense", "rule": "best rule"}.get(role, f"{role} baseline")
        if network.searched is None:
            continue
        axes.scatter(
            [network.costs[cost]], [scale * network.searched], label=name, zorder=4 + (role == "ours"), **style
        )
    ceiling = next((limit for limit in report.limits if limit.cost == cost), None)
    if ceiling:
        axes.axvline(ceiling.most, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "budget", (ceiling.most, 1), xycoords=("data", "axes fraction"), xytext=(4, -3),
            textcoords="offset points", va="top", fontsize=8.5, color=MUTED,
        )  # fmt: skip
    _focus(
        axes,
        [*points[:, 1], *(scale * n.searched for n in report.networks.values() if n.searched is not None)],
        report.sign,
    )
    left = min(points[:, 0].min(), *(n.costs[cost] for n in report.networks.values()))
    right = max(points[:, 0].max(), *(n.costs[cost] for n in report.networks.values()))
    margin = 0.06 * (right - left) or 0.06 * right
    axes.set_xlim(left - margin, right + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if counts(report.units[cost]):  # thousands and millions; of anything else the unit stands in the label
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel(heading(cost, report.units[cost]))


def _staircase(
    axes: Axes, trials: Sequence[TrialFacts], scale: float, colour: str, name: str, *, dashed: bool = False
) -> None:
    rewards = np.array([-np.inf if t.reward is None else t.reward for t in trials])
    best = scale * np.maximum.accumulate(rewards)
    seen = np.isfinite(best)
    numbers = np.array([t.number for t in trials])[seen]
    line = (0, (4, 2)) if dashed else "-"
    axes.step(
        numbers,
        best[seen],
        where="post",
        color=colour,
        linewidth=1.5 if dashed else 2,
        linestyle=line,
        label=name,
        zorder=3,
    )


def _mark_failed(axes: Axes, trials: Iterable[TrialFacts]) -> None:
    failed = [t.number for t in trials if t.reward is None]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.scatter(failed, [0.03] * len(failed), marker="x", s=22, color=MUTED, label="failed", transform=bottom)


def _focus(axes: Axes, values: Sequence[float], sign: int) -> None:
    """Fit the axis to nine tenths of the values: a few hopeless trials must not flatten the rest.

    `sign` is -1 where lower values are better.
    """
    low, tenth, high = np.quantile(sign * np.asarray(values), (0.0, 0.1, 1.0))
    floor = max(low, tenth - 0.5 * max(high - tenth, 1e-9))
    margin = 0.1 * max(high - floor, 1e-6)
    axes.set_ylim(*sorted((sign * (floor - 1.2 * margin), sign * (high + 1.2 * margin))))


def _scale(report: Report) -> int:
    return 100 if report.in_percent else 1


def _axis(report: Report) -> str:
    """What an axis of the metric is called."""
    return f"holdout {metric(report)}{', %' if report.in_percent else ''}"


def _scored(trials: Iterable[TrialFacts]) -> list[TrialFacts]:
    return [t for t in trials if t.metric is not None]


def _hits(figure: Figure, points: Iterable[Point]) -> str:
    """Circles over the points that are within their axes, which a page shows what lies beneath."""
    height, found = figure.bbox.height, []
    for axes, number, x, y in points:
        across, up = axes.transData.transform((x, y))
        if axes.bbox.contains(across, up):
            found.append(f'<circle class="hit" data-t="{number}" cx="{across:.1f}" cy="{height - up:.1f}" r="6"/>')
    return "".join(found)


def svg(figure: Figure, title: str, points: Iterable[Point] = ()) -> str:
    """The figure as an <svg> element whose colours are CSS variables; `points` can be hovered over."""
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    drawn = re.sub(r"^.*?(?=<svg )", "", text.getvalue(), flags=re.DOTALL)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"#0[0-9ab]0[0-9ab]0[0-9ab]\b", lambda m: f"var({VARIABLES[m.group(0)]})", drawn)
    prefix = re.sub(r"\W+", "-", title.lower())[:16]
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", drawn)
    drawn = drawn.replace("</svg>", f"{_hits(figure, points)}</svg>")
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
