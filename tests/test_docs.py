"""What the pages of docs/ show in Python works as it stands there: their blocks run one after the other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.making import no_programs

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("python.md",)


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("page", PAGES)
def test_their_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    no_programs(monkeypatch)
    known: dict[str, object] = {"__name__": page}
    for block in blocks(page):
        exec(compile(block, f"{page}: {block[:40]!r}", "exec"), known)  # noqa: S102 - that is what is tested


@pytest.mark.slow  # mypy reads torch
@pytest.mark.parametrize("page", PAGES)
def test_their_types_are_right(page: str, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("\n".join(blocks(page)))
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", str(tmp_path / "shown.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
