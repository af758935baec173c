"""What `autoprune compare` does: several finished runs on one page, and as a table."""

from __future__ import annotations

import argparse

from autoprune.command.shared import print_json, print_table, refuse_unwritable
from autoprune.command.terminal import show as print
from autoprune.files import disk
from autoprune.report import several, several_page


def command(asked: argparse.Namespace) -> None:
    """Write the page and show the table."""
    refuse_unwritable(asked.out)
    found = several.gathered(asked.directories)
    disk.write_text(asked.out, several_page.render(found))
    if asked.json:
        print_json({"page": str(asked.out), **found.plain()})
        return
    head, *rows = several.table(found)
    print_table(head, rows)
    print(f"\n{asked.out}")
