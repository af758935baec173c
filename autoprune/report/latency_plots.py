"""The picture of a latency model: predicted against measured, and where the time goes, layer by layer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_POINT, _BAR, _LINE = "#2a6f97", "#2a6f97", "#8a8f98"
_MOST = 30  # layers that are drawn by themselves


def draw(points: Sequence[tuple[float, float]], layers: Mapping[str, float], title: str) -> str:
    """An SVG: on the left `points` (predicted, measured), in ms; on the right the milliseconds of `layers`."""
    figure = Figure(figsize=(11, max(4.5, 0.22 * min(len(layers), _MOST) + 1.2)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    _against(left, points)
    _layers(right, layers)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text)  # type: ignore[no-untyped-call]
    return text.getvalue()


def _against(axes, points: Sequence[tuple[float, float]]) -> None:  # type: ignore[no-untyped-def]
    low, high = min(min(p) for p in points), max(max(p) for p in points)
    axes.plot([low, high], [low, high], color=_LINE, linewidth=1, label="equal")
    axes.fill_between([low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color=_LINE, alpha=0.15, lw=0,
                      label="within 5 %")  # fmt: skip
    axes.scatter(
        [m for _, m in points], [p for p, _ in points], s=22, color=_POINT, linewidths=0, label="unseen policy"
    )
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("predicted, ms")
    axes.legend(frameon=False)


def _layers(axes, layers: Mapping[str, float]) -> None:  # type: ignore[no-untyped-def]
    named = [(name or "the rest", ms) for name, ms in layers.items()]
    shown = named
    if len(named) > _MOST:
        largest = sorted(named, key=lambda entry: -entry[1])[: _MOST - 1]
        others = sum(ms for _, ms in named) - sum(ms for _, ms in largest)
        shown = [*(entry for entry in named if entry in largest), (f"{len(named) - len(largest)} others", others)]
    rows = range(len(shown))
    axes.barh(rows, [ms for _, ms in shown], color=_BAR, height=0.7)
    axes.set_yticks(rows, [name for name, _ in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms in the dense network, as fitted")
