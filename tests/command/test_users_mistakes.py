"""A mistake in a user's own file is one line that names the file and the line; the traceback comes with --verbose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoprune.command import cli

HEAD = """import sys, torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from autoprune import Task

net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
data = TensorDataset(torch.randn(300, 4), torch.arange(300) % 3)


class Rows(Dataset):
    def __len__(self):
        return 300

    def __getitem__(self, at):
        if at == 200:
            raise ValueError("bad row")
        return data[at]


class Lost(Rows):
    def __len__(self):
        raise OSError("no index")


class Leaves(nn.Sequential):
    def forward(self, x):
        sys.exit(1)


class Handle(nn.Sequential):
    def __deepcopy__(self, memo):
        raise TypeError("a handle cannot be copied")


def function(x):
    return x


def leaving(model, split):
    sys.exit("enough")


def task(**given):
    return Task(**{"model": net, "example": torch.zeros(1, 4), "train": data, "holdout": data, "test": data, **given})


def make():
"""
AT = r" at mine.py, line \d+"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import nosuchthing", rf"ModuleNotFoundError: No module named 'nosuchthing'{AT}$"),
        ("raise RuntimeError('no\\nGPU')", rf"RuntimeError: no{AT}$"),
        ("sys.exit()", rf"it ends the program: sys.exit\(\){AT}$"),
        ("return 3", r"returns a int; it should return autoprune.Task"),
        ("return task(metric=None)", r"metric = None; a function of \(model, split\) is right"),
        (
            "return task(metric=leaving)",
            rf"'leaving' fails \(it ends the program: sys.exit\('enough'\){AT}\)",
        ),
        ("return task(model=function)", r"the network is a function; it should be a torch.nn.Module$"),
        ("return task(model=Leaves(*net))", rf"the network of Leaves fails .*it ends the program: sys.exit\(1\){AT}"),
        ("return task(model=Handle(*net))", rf"TypeError: a handle cannot be copied{AT}"),
        (
            "return task(example=[0.0, 1.0])",
            r"the example is list of 2 and holds no tensor; a tensor \(n, ...\)",
        ),
        ("return task(train=[1, 2, 3])", r"its split 'train' gives inputs int64 \(2,\), but the example is float32"),
        ("return task(holdout=7)", r"its split 'holdout' is a int, which has no length; a data set"),
        ("return task(train=Rows())", rf"its split 'train': reading samples fails \(ValueError: bad row{AT}\)"),
        ("return task(holdout=Lost())", rf"OSError: no index{AT}"),
    ],
)
def test_is_one_line(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + f"    {body}\n")
    assert cli.main(["search", "mine.py:make", "--trials", "1", "--budget", "macs=60%"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("autoprune: error: ")
    assert re.search(said, error), error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_comes_with_its_traceback_under_verbose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + "    return task(model=Handle(*net))\n")
    assert cli.main(["search", "mine.py:make", "--verbose"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert 'raise TypeError("a handle cannot be copied")' in error


def test_a_mistake_of_ours_shows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {}
    exec(compile("def broken(asked):\n    return {}['x']", cli.__file__, "exec"), names)  # noqa: S102 - a text of ours
    monkeypatch.setattr(cli, "_search", names["broken"])
    with pytest.raises(KeyError):
        cli.main(["search", "x"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["search", "x.toml", "--trails", "5"], "unrecognized arguments: --trails 5; did you mean --trials?"),
        (["serch", "x.toml"], "did you mean search?"),
        (["search", "x.toml", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_misspelt_word_is_named_with_the_one_that_was_meant(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(meant)
