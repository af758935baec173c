"""What all tests share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
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


@pytest.fixture(autouse=True, scope="session")
def _no_clock() -> Iterator[None]:
    """No test, and nothing that tests share, takes another precision since the machine was busy: none is faster."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("autoprune.runs.calibration.speedup", lambda *ways: 1.0)
        yield


def _kept_in(folder: Path, patched: pytest.MonkeyPatch) -> Path:
    """No test reads or leaves timings of this machine, or what its user has allowed: both lie in `folder`."""
    patched.setenv("AUTOPRUNE_CACHE", str(folder))
    patched.setenv("AUTOPRUNE_ALLOWED", str(folder / "allowed.txt"))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where what tests share, made before the cache of any one of them, finds and leaves it."""
    with pytest.MonkeyPatch.context() as patched:
        _kept_in(tmp_path_factory.mktemp("cache"), patched)
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _kept_in(tmp_path_factory.mktemp("cache"), monkeypatch)


@pytest.fixture
def clock_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of a second passes from one look at the clock to the next, however busy the machine is."""
    looks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(looks) / 100)
