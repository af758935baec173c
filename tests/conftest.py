"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

KILLS = 10

hypothesis.settings.register_profile("busy", deadline=None)  # other work may run beside the tests
hypothesis.settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=KILLS, metavar="N", help="how many kills -m chaos makes (default: 10)"
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or leaves timings of this machine, or what its user has allowed."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(folder))
    monkeypatch.setenv("AUTOPRUNE_ALLOWED", str(folder / "allowed.txt"))
    return folder
