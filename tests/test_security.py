"""What a stranger's file may try beside naming code, and does not get.

Code that a file names: tests/test_trust.py. Links and pipes in a run's directory: tests/files/test_disk.py. Archives
and headers that ask for memory: tests/test_bounded.py. Files that are damaged in any way: tests/test_fuzz.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune import config, plugins
from autoprune.command import cli
from autoprune.detection import voc
from autoprune.errors import AutopruneError, ConfigError, DataError, ModelError, harmless
from autoprune.files import export
from autoprune.models import build
from autoprune.models.weights import load_weights
from autoprune.report import facts, page
from autoprune.tasks import spoken_digits
from tests.making import REBUILD
from tests.report.test_report import facts as told

ESCAPES = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202egnp"  # a title, a cleared screen, red, and text that runs backwards
PLAIN = "plain, \u00e4 \u65e5\u672c \u00b1 3\u00a0%\nand\tmore"
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


class Runs:
    """Unpickling one makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A place that is there once hostile code has run."""
    return tmp_path / "it_ran"


class TestPickles:
    def test_weights_that_are_a_pickle_are_not_unpickled(self, mark: Path, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        for write in (lambda: file.write_bytes(pickle.dumps(Runs(mark))), lambda: torch.save(Runs(mark), file)):
            write()
            with pytest.raises(ModelError, match="is no safetensors file"):
                load_weights(build(REBUILD), file)
            with pytest.raises(ModelError, match="is no safetensors file"):
                export.load(file)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "spoken_digits", "sentences", "bccd"])
    def test_data_and_weights_that_are_pickles_are_not_unpickled(self, name: str, mark: Path, tmp_path: Path) -> None:
        content = pickle.dumps(Runs(mark))
        for file in ("train-images-idx3-ubyte", "data_batch_1.bin", spoken_digits.FILE, "sentences.txt", "bccd.zip"):
            (tmp_path / file).write_bytes(content)
        with pytest.raises(AutopruneError) as caught:
            plugins.build("task", {"use": name, "data": str(tmp_path)})
        assert "\n" not in str(caught.value)
        assert not mark.exists()

    def test_an_array_of_objects_is_not_unpickled(self, mark: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / spoken_digits.FILE, samples=np.array([Runs(mark)], dtype=object))
        with pytest.raises(DataError, match="numbers are right"):
            spoken_digits.splits(tmp_path, "takes")
        assert not mark.exists()


class TestPaths:
    @pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..", "a/../../secret.png", "..\\secret.png", ""])
    @pytest.mark.parametrize("packed", [True, False])
    def test_an_image_that_lies_elsewhere_is_not_read(self, name: str, packed: bool, tmp_path: Path) -> None:
        said = json.dumps({name: {"split": "train", "boxes": []}})
        (tmp_path / "secret.png").write_bytes(b"secret")
        (tmp_path / "BCCD").mkdir()
        (tmp_path / "BCCD" / "annotations.json").write_text(said)
        with zipfile.ZipFile(tmp_path / "bccd.zip", "w") as opened:
            opened.writestr("annotations.json", said)
            opened.writestr("../secret.png", b"secret")
        folder = voc.find(tmp_path / ("bccd.zip" if packed else "BCCD"), "BCCD")
        with pytest.raises(DataError, match="is no name of a file in it"):
            voc.read(folder, "train")

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd"])
    def test_an_annotation_that_lies_elsewhere_is_not_read(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(name)
        with pytest.raises(DataError, match="is no name of a file in it"):
            voc.read(voc.find(tmp_path, "BCCD"), "train")

    def test_a_zip_is_read_and_never_unpacked(self, tmp_path: Path) -> None:
        inside = tmp_path / "data"
        inside.mkdir()
        with zipfile.ZipFile(inside / "bccd.zip", "w") as opened:
            opened.writestr("../../it_ran", b"theirs")
            opened.writestr("annotations.json", b"{}")
        with pytest.raises(DataError, match="no image in its split"):
            voc.read(voc.find(inside, "BCCD"), "train")
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["bccd.zip", "data"]

    def test_entities_in_an_annotation_open_no_file_and_no_gigabytes(self, tmp_path: Path) -> None:
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("one")
        laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(10))
        inner = ('<!ENTITY l0 SYSTEM "file:///etc/passwd">', f'<!ENTITY l0 "ha">{laughs}')
        for entities, used in zip(inner, ("&l0;", "&l10;"), strict=True):
            text = f"<!DOCTYPE a [{entities}]><annotation><object><name>{used}</name></object></annotation>"
            (tmp_path / "Annotations" / "one.xml").write_text(text)
            with pytest.raises(DataError, match="cannot be read"):
                voc.read(voc.find(tmp_path, "BCCD"), "train")


class TestTables:
    @pytest.mark.parametrize("use", ["builtins:eval", "os:system", "subprocess:run", "pickle:loads", "shutil:rmtree"])
    @pytest.mark.parametrize("kind", ["task", "criterion", "evaluator", "reward", "target", "controller"])
    def test_an_address_that_is_no_plugin_is_not_called(self, kind: str, use: str, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        task = 'task.use = "fashion_mnist"\n' if kind != "task" else ""
        file.write_text(f'{task}{kind}.use = "{use}"\n')
        asked = config.read(file)
        with pytest.raises(ConfigError, match=f"is Python's own and holds no {kind}"):
            plugins.build(kind, getattr(asked, kind).settings)


class TestWhatIsShown:
    def test_html_in_names_is_text_on_the_page(self) -> None:
        made = dataclasses.replace(
            told(), name=HTML, task=HTML, metric_name=HTML, notes=(HTML,), command=HTML, machine={HTML: HTML}
        )
        shown = page.render(made)
        assert "<script>alert" not in shown
        assert "<img src=x" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown

    def test_escape_sequences_in_names_do_not_reach_the_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page.write(dataclasses.replace(told(), name=ESCAPES, metric_name=ESCAPES, notes=(ESCAPES,)), tmp_path)
        assert facts.read(tmp_path).name == ESCAPES
        assert cli.main(["report", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert harmless(shown) == shown
        assert r"\x1b[2J" in shown

    def test_escape_sequences_in_a_policy_do_not_reach_the_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "policy.json").write_text(json.dumps({f"a{ESCAPES}": 1}))
        assert cli.main(["apply", str(tmp_path), "--out", str(tmp_path / "x"), "--verbose"]) == 2
        shown = capsys.readouterr().err
        assert harmless(shown) == shown
        assert "autoprune: error:" in shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (PLAIN, PLAIN),
            ("\x1b[31m", r"\x1b[31m"),
            ("a\rb\x08", r"a\rb\x08"),
            ("\u202e\u2028\ud800", r"\u202e\u2028\ud800"),
        ],
    )
    def test_what_would_move_the_cursor_is_written_out(self, text: str, shown: str) -> None:
        assert harmless(text) == shown
