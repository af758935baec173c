"""The page that shows a run's facts: `report.html`, one file that opens offline.

It is made from the facts alone, so that it can be made again at any time without a network or a data set.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from autoprune.files import disk
from autoprune.report import bars, plots, words
from autoprune.report.facts import FACTS, Report, read
from autoprune.report.thin import thinned

PAGE = "report.html"


def write(report: Report, directory: Path) -> None:
    """Write the facts and the page into a run's directory."""
    disk.write_json(directory / FACTS, report.plain())
    write_html(directory)


def write_html(directory: Path) -> Path:
    """Make the page again from the facts; returns where it lies."""
    disk.write_text(directory / PAGE, render(thinned(read(directory))))
    return directory / PAGE


def render(report: Report) -> str:
    """The page, as text."""
    drawn = {"progress": plots.progress, "tradeoff": plots.tradeoff, "curves": plots.curves}
    template = environment().get_template("page.html.j2")
    pictures = {name: Markup(draw(report)) for name, draw in drawn.items()}
    return template.render(r=report, words=words, rows=bars, pictures=pictures, hovered=Markup(bars.hovered(report)))


def environment() -> jinja2.Environment:
    """What fills templates in: everything is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("autoprune.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    plain = (words.quantity, words.label, words.size, words.duration, words.rate, words.amount)
    made.filters |= {word.__name__: word for word in plain}
    return made
