"""Numbers as people read them, and tables of them as notebooks show them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_CELL = "text-align: left; padding: 2px 10px 2px 0"
_SHOWN = 30  # rows that a notebook is shown


def counted(number: int, what: str) -> str:
    """So many of something."""
    many = f"{what[:-1]}ies" if what.endswith("cy") else f"{what}s"
    return f"{number} {what if number == 1 else many}"


def number(metric: float, *, percent: bool) -> str:
    """A metric as people read it: shares in percent, all else with four digits."""
    return f"{100 * metric:.2f} %" if percent else f"{metric:#.4g}".rstrip(".")


def begun(text: str) -> str:
    """`text` as a sentence begins with it."""
    return text[:1].upper() + text[1:]


def quantity(value: float) -> str:
    """A large number with three or four digits and a prefix: 20.46 M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:#.4g}".rstrip(".") + f" {letter}"
    return f"{value:.4g}" if float(value).is_integer() else f"{value:#.4g}".rstrip(".")


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


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], below: str = "") -> str:
    """A table as HTML, all of it escaped, for `_repr_html_`; of many rows the first."""
    held = [[quantity(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    more = f"and {len(held) - _SHOWN} more. " if len(held) > _SHOWN else ""
    lines = [_row("th", head), *(_row("td", row) for row in held[:_SHOWN])]
    after = f"<p>{html.escape(more + below)}</p>" if more or below else ""
    return f"<div><p><b>{html.escape(title)}</b></p><table>{''.join(lines)}</table>{after}</div>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f'<{tag} style="{_CELL}">{html.escape(cell)}</{tag}>' for cell in cells) + "</tr>"
