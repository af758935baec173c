"""Tables and lists of words as terminals show them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from autoprune.errors import harmless


def show(*words: object, file: TextIO | None = None) -> None:
    """As `print`, of words that may be a stranger's: what would move the cursor or the like is written out."""
    print(*(harmless(str(word)) for word in words), file=file or sys.stdout)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lines of columns as wide as their widest cell; numbers to the right."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    for row in cells:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        yield "  ".join(padded).rstrip()


def shortened(words: Sequence[str], most: int = 3) -> str:
    """The first `most` words, and how many more there are."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def joined(words: Iterable[str]) -> str:
    """Every word once, sorted."""
    return ", ".join(sorted(set(words)))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
