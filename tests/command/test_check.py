"""What `autoprune check` says of every layer, and of what cannot be counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command.test_cli import MINE, SPACE, said

GATED = MINE.parent / "gated.py"
SPACE_OF = SPACE.replace(f"{MINE}:make", f"{GATED}:make").replace('[budget]\nmacs = "50%"', "[budget]\n{budget}")


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search space of a network with a layer whose MACs nobody counts, and a budget on parameters."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gated.toml"
    path.write_text(SPACE_OF.replace("{budget}", 'params = "80%"'))
    return path


def test_a_budget_on_macs_that_would_leave_an_operator_out_is_refused(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was "met", at a true saving of 1.5 %."""
    gated.write_text(SPACE_OF.replace("{budget}", 'macs = "50%"'))
    error = said(capsys, "check", str(gated), status=2)
    assert error.count("\n") == 1
    what = "the Bilinear `gate` (_trilinear)"
    assert f"the MACs of {what} are not known" in error
    assert "a budget on params, size, memory or latency is right" in error


def test_other_budgets_go_on_and_say_so(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "check", str(gated), "--json"))
    assert [cost["name"] for cost in found["costs"]] == ["params"]
    assert found["unpriced"] == ["the Bilinear `gate` (_trilinear)"]
    assert "MACs are not known: the Bilinear `gate` (_trilinear)" in said(capsys, "check", str(gated))


def test_every_layer_is_listed_with_its_reason_and_its_parameters(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(said(capsys, "check", str(gated), "--json"))
    frozen = {entry["name"]: (entry["params"], entry["reason"]) for entry in found["frozen"]}
    assert frozen == {
        "gate": (520, "passes through the Bilinear `gate` (_trilinear), which cannot be followed"),
        "last": (10, "is the network's output"),
        "spare": (585, "is not used in the forward pass"),
    }
    assert found["fixed_params"] == sum(params for params, _ in frozen.values())
    text = said(capsys, "check", str(gated))
    assert "1 choices, 3 frozen" in text
    assert "is not used in the forward pass" in text
