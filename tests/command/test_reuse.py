"""The commands about what a search left, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autoprune.command import cli
from autoprune.files import policy_file
from tests import ASSETS

OLD = ASSETS / "golden" / "golden" / "policy.json"
NEW = ASSETS / "policies" / "resnet20_fashion_mnist.json"


def edited(path: Path, **changes: Any) -> Path:
    """A copy of `NEW` in which the first choice, or the file, says something else."""
    plain = json.loads(NEW.read_text())
    first = {word: value for word, value in changes.items() if word in plain["choices"][0]}
    plain |= {word: value for word, value in changes.items() if word not in first}
    plain["choices"][0] |= first
    path.write_text(json.dumps(plain))
    return path


def refused(capsys: pytest.CaptureFixture[str], *command: str | Path) -> str:
    """The one line of a command that ends with 2 and has printed nothing else."""
    assert cli.main([str(word) for word in command]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def test_policy_show_says_what_it_is_for_and_where_each_choice_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show", str(NEW)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a policy of 10 choices for task fashion_mnist, seed 0")
    assert re.fullmatch(r"macs 1\.5\d+e\+07 MAC, 50\.0% of dense \(at most 50%\)", lines[1])
    head, *rows = [line.split() for line in lines[lines.index("") + 1 :]]
    assert head[:5] == ["choice", "kind", "kept", "of", "sparsity"]
    assert len(rows) == 10
    assert rows[0][0] == "conv1"
    assert rows[0][5:] == ["conv", "0", "0.5000", "0.2500", "3", "1"]


def test_policy_show_of_an_old_file_shows_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show", str(OLD)]) == 0
    assert "layer1.0.conv1  channel    11  16  31.2%\n" in capsys.readouterr().out


def test_policy_show_as_json_is_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show", str(NEW), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(NEW.read_text())


def test_policy_show_as_torch_pruning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "show", str(NEW), "--as", "torch-pruning"]) == 0
    ratios = json.loads(capsys.readouterr().out)
    stream, *inner = policy_file.read(NEW).choices
    assert len(ratios) == 19
    assert {ratios[layer] for layer in stream.producers} == {stream.sparsity}
    assert [ratios[entry.name] for entry in inner] == [entry.sparsity for entry in inner]


def test_policy_validate_says_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path in (OLD, NEW):
        assert cli.main(["policy", "validate", str(path)]) == 0
        assert "is a policy of 10 choices for" in capsys.readouterr().out
    for changes, told in (
        ({"schema_version": 9}, "schema_version: Input should be 3"),
        ({"kept": 17}, "choice 'conv1' keeps 17 of 16; 1 to 16 can stay"),
        ({"sparsity": 0.99}, "is a sparsity of"),
        ({"sparsity": 1.5}, "choices.0.sparsity: a number from 0 to 1 is right"),
        ({"name": "layer1.0.conv1"}, "it has the choice 'layer1.0.conv1' twice"),
    ):
        assert told in refused(capsys, "policy", "validate", edited(tmp_path / "p.json", **changes))


def test_mistakes_about_policies_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "cannot be read" in refused(capsys, "policy", "show", tmp_path / "absent.json")
    assert "--as is for" in refused(capsys, "policy", "validate", NEW, "--as", "torch-pruning")
    assert "does not say where" in refused(capsys, "policy", "show", OLD, "--as", "torch-pruning")
