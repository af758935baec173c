"""Several runs on one page: groups, means, spreads, intervals; and the command that makes it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from autoprune.command.cli import main
from autoprune.errors import ConfigError, RunError
from autoprune.files import disk
from autoprune.report import several, several_page
from autoprune.report.facts import FACTS, Report
from autoprune.report.several import Group, Spread, gathered
from tests.report.test_report import facts


def run(seed: int, test: float, controller: str = "evolution") -> Report:
    made = facts()
    ours = dataclasses.replace(made.ours, test=test)
    plugins = {**made.plugins, "controller": controller}
    return dataclasses.replace(made, seed=seed, plugins=plugins, networks={**made.networks, "ours": ours})


def written(made: Report, directory: Path) -> Path:
    directory.mkdir()
    disk.write_json(directory / FACTS, made.plain())
    return directory


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    """Three seeds of one search, and one of another; not in order."""
    found = []
    for name, made in {
        "c": run(2, 0.935),
        "a": run(0, 0.931),
        "r": run(0, 0.929, "random"),
        "b": run(1, 0.933),
    }.items():
        found.append(written(made, tmp_path / name))
    return found


def test_runs_that_differ_in_their_seed_alone_are_one_group(directories: list[Path]) -> None:
    found = gathered(directories)
    assert [group.name for group in found.groups] == ["evolution, MACs 50%", "random, MACs 50%"]
    assert [group.seeds for group in found.groups] == ["0, 1, 2", "0"]
    assert found.groups[0].test("ours") == Spread(pytest.approx(0.933), pytest.approx(0.002), 3)
    assert found.groups[1].test("ours") == Spread(0.929, None, 1)


def test_one_seed_counts_once(directories: list[Path], tmp_path: Path) -> None:
    """Two runs of one seed made the spread over seeds smaller than it is."""
    twin = written(run(1, 0.933), tmp_path / "twin")
    with pytest.raises(ConfigError, match=f"{directories[3]} and {twin} are one search with one seed, 1; one of them"):
        gathered([*directories, twin])
    warm = written(dataclasses.replace(run(1, 0.933), sources=("runs/a",)), tmp_path / "warm")
    names = [group.name for group in gathered([*directories, warm]).groups]
    assert names[0].endswith(", begun anew")
    assert names[2].endswith(", begun with what others found")


def test_the_interval_is_students() -> None:
    """Of 1, 2 and 3: 4.303 x 1 / sqrt(3), the quantile for two degrees of freedom."""
    assert Spread(2.0, 1.0, 3).half == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert Spread(2.0, None, 1).half is None


def test_what_tells_groups_apart_is_in_their_names(tmp_path: Path) -> None:
    longer = dataclasses.replace(run(0, 0.93), finetune={"steps": 9, "lr": 0.1})
    for name, made in (("a", run(0, 0.93)), ("b", longer)):
        written(made, tmp_path / name)
    names = [group.name for group in gathered([tmp_path / "a", tmp_path / "b"]).groups]
    assert names == [f"evolution, MACs 50%, finetune of {steps} steps at 0.1" for steps in (3, 9)]


def test_what_cannot_be_compared_is_refused(directories: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is named twice"):
        gathered([*directories, directories[0] / ".." / directories[0].name])
    written(dataclasses.replace(facts(), task="other"), tmp_path / "o")
    with pytest.raises(ConfigError, match="judged by top-1 of demo and by top-1 of other"):
        gathered([*directories, tmp_path / "o"])
    with pytest.raises(RunError, match=r"has no report\.json"):
        gathered([tmp_path / "none"])


def test_a_network_that_is_missing_is_a_dash(tmp_path: Path) -> None:
    made = facts()
    bare = dataclasses.replace(made, networks={role: made.networks[role] for role in ("dense", "ours")})
    group = Group("x", ((tmp_path, bare),))
    assert group.test("uniform") is None
    assert several.gap(bare, group.gap("uniform")) == "-"


def test_the_page_is_one_file_with_every_run(directories: list[Path]) -> None:
    page = several_page.render(gathered(directories))
    assert page.count("<svg ") == 2
    assert not re.search(r'(?:src|href)="(?!#)', page)
    for said in ("4 runs in 2 groups", "93.30 % ± 0.20", "+0.62 points ± 0.20 (95%: +0.12 points to +1.12 points)"):
        assert said in page
    assert all(str(path) in page for path in directories)
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_one_run_has_no_spread(directories: list[Path]) -> None:
    page = several_page.render(gathered(directories[:1]))
    assert "1 run in 1 group" in page
    assert "±" not in page.partition("<table>")[2].partition("</table>")[0]


def test_the_command_writes_the_page_and_shows_the_table(
    directories: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, given = tmp_path / "both.html", [str(path) for path in directories]
    assert main(["compare", *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"evolution, MACs 50% +3 +93.30 % ± 0.20", said)
    assert said.splitlines()[-1] == str(out)
    assert out.exists()
    assert main(["compare", *given, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"][0]["test"]["ours"]["mean"] == pytest.approx(0.933)
    assert found["groups"][1]["ours_less"]["uniform"]["deviation"] is None
    assert main(["compare", "none"]) == 2
    assert main(["compare", *given, "--out", str(tmp_path)]) == 2
    assert "that is a folder" in capsys.readouterr().err
