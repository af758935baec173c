"""How fast the machine is in which precision: timed once, kept, and read ever after."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.engine.precision import Way
from autoprune.files import cache
from autoprune.runs import calibration
from autoprune.runs.calibration import Calibration
from tests.assets.mine import network

BATCH = torch.zeros(4, 1, 8, 8)


class Speeds:
    """What is timed, one after the other."""

    def __init__(self, *found: float) -> None:
        self.left = list(found)

    def __call__(self, old: Way, new: Way, batch: object) -> float:
        return self.left.pop(0)


def gained(model: nn.Module | None = None, anew: bool = False, batch: torch.Tensor = BATCH) -> tuple[float, list[str]]:
    model = model or network()
    made = Calibration(model, anew)
    return made(Way(model, "fp32"), Way(model, "bf16"), batch), made.notes


def kept() -> Path:
    (found,) = (cache.folder() / "precision").glob("*/bf16-*.json")
    return found


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Speeds:
    """Times that change from moment to moment, as those of a busy machine do."""
    speeds = Speeds(1.5, 0.7, 3.0)
    monkeypatch.setattr(calibration, "speedup", speeds)
    return speeds


def test_is_timed_once_and_read_ever_after(timed: Speeds) -> None:
    assert [gained() for _ in range(3)] == [(1.5, [])] * 3
    assert len(timed.left) == 2
    assert json.loads(kept().read_text())["facts"]["torch"] == torch.__version__


def test_other_weights_are_of_the_same_shapes_and_other_shapes_are_timed(timed: Speeds) -> None:
    gained()
    other = network()
    nn.init.zeros_(other[0].weight)
    assert gained(other)[0] == 1.5
    assert gained(nn.Sequential(*network(), nn.ReLU()))[0] == 0.7
    assert gained(batch=torch.zeros(8, 1, 8, 8))[0] == 3.0


def test_other_threads_are_timed_by_themselves(timed: Speeds) -> None:
    threads = torch.get_num_threads()
    gained()
    try:
        torch.set_num_threads(threads + 1)
        assert gained()[0] == 0.7
    finally:
        torch.set_num_threads(threads)
    assert gained()[0] == 1.5


def test_is_made_anew_when_that_is_asked_for(timed: Speeds) -> None:
    gained()
    assert gained(anew=True)[0] == 0.7
    assert gained()[0] == 0.7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"times as fast": 2.0}', '{"times as fast": NaN}', "\0" * 9])
def test_a_damaged_file_is_made_anew_and_that_is_said(content: str, timed: Speeds) -> None:
    gained()
    kept().write_text(content)
    value, (note,) = gained()
    assert value == 0.7
    assert f"{kept()} is damaged" in note
    assert gained() == (0.7, [])


@pytest.mark.parametrize("wrong", [-1.0, 0.0, True, "2", math.inf])
def test_times_that_cannot_be_are_damage(wrong: object, timed: Speeds) -> None:
    gained()
    kept().write_text(json.dumps({**json.loads(kept().read_text()), "times as fast": wrong}))
    assert "is damaged" in gained()[1][0]


def test_a_folder_that_cannot_be_written_is_said(
    timed: Speeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "file" / "cache"))
    value, (note,) = gained()
    assert value == 1.5
    assert "could not be kept" in note
    assert "search.precision" in note


def test_no_test_reads_the_developers_own() -> None:
    assert str(cache.folder()) == os.environ["AUTOPRUNE_CACHE"]
    assert Path.home() not in cache.folder().parents
