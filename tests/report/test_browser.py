"""Pages in a real browser: no errors on the console, nothing wider than the window, trials that show themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprune.report import page as pages, several_page
from autoprune.report.several import gathered
from tests.report.test_page import detailed
from tests.report.test_several import run, written

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOOK = """<script>
addEventListener("load", function () {
  var root = document.documentElement, hit = document.querySelector("circle.hit"), tip = document.getElementById("tip");
  if (hit) { hit.dispatchEvent(new PointerEvent("pointerenter")); }
  var said = {wide: root.scrollWidth, window: root.clientWidth, tip: tip ? tip.innerText : ""};
  document.title = JSON.stringify(said).replace(/[<>&]/g, " ");
});
</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


def opened(page: Path, width: int, folder: Path, *, dark: bool = False) -> tuple[str, str]:
    """The page as the browser has it then, and what it wrote on its console."""
    assert CHROMIUM
    options = ["--force-dark-mode"] * dark
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--hide-scrollbars",
         "--enable-logging=stderr", f"--window-size={width},900", "--virtual-time-budget=2000", *options,
         f"--screenshot={folder / 'shot.png'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (900, True), (500, False)])
def test_the_page_of_a_run(width: int, dark: bool, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(pages.render(detailed()).replace("</body>", f"{LOOK}</body>"))
    found, console = opened(page, width, tmp_path / "profile", dark=dark)
    assert console == ""
    title = re.search(r"<title>(.*?)</title>", found)
    assert title is not None
    numbers = dict(re.findall(r'"(wide|window)":(\d+)', title[1]))
    assert int(numbers["wide"]) <= int(numbers["window"]) == width
    assert re.search(r"Trial \d+", title[1])
    assert "of 64" in title[1]


@pytest.mark.parametrize("width", [1400, 500])
def test_the_page_of_several_runs(width: int, tmp_path: Path) -> None:
    for seed in range(3):
        written(run(seed, 0.93 + 0.001 * seed), tmp_path / str(seed))
    page = tmp_path / "compare.html"
    made = several_page.render(gathered([tmp_path / str(seed) for seed in range(3)]))
    page.write_text(made.replace("</body>", f"{LOOK}</body>"))
    found, console = opened(page, width, tmp_path / "profile")
    assert console == ""
    title = re.search(r"<title>(.*?)</title>", found)
    assert title is not None
    numbers = dict(re.findall(r'"(wide|window)":(\d+)', title[1]))
    assert int(numbers["wide"]) <= int(numbers["window"])
