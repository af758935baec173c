"""Photographs with boxes, read from folders and zip files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from autoprune.detection import voc
from autoprune.errors import DataError

BOXES = {"one": [["cell", 1, 1, 10, 20], ["dot", 5, 5, 5, 5]], "two": [["dot", 21, 11, 40, 20]], "three": []}
SPLITS = {"train": ["one", "two"], "test": ["three"]}


def laid_out(folder: Path) -> Path:
    """A data set as VOC lays it out: three red images of 40 x 20."""
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for split, names in SPLITS.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for name, boxes in BOXES.items():
        Image.new("RGB", (40, 20), (255, 0, 0)).save(folder / "JPEGImages" / f"{name}.jpg")
        told = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>" for kind, a, b, c, d in boxes
        )  # fmt: skip
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{told}</annotation>")
    return folder


def packed(folder: Path) -> Path:
    """The same, with one file of annotations."""
    (folder / "images").mkdir(parents=True)
    of = {name: split for split, names in SPLITS.items() for name in names}
    said = {f"{name}.jpg": {"split": of[name], "boxes": boxes} for name, boxes in BOXES.items()}
    (folder / "annotations.json").write_text(json.dumps(said))
    for name in BOXES:
        Image.new("RGB", (40, 20), (255, 0, 0)).save(folder / "images" / f"{name}.jpg")
    return folder


def zipped(folder: Path) -> Path:
    """The folder as a zip file beside it."""
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, path.relative_to(folder))
    return target


class TestReading:
    @pytest.mark.parametrize("make", [laid_out, packed])
    @pytest.mark.parametrize("pack", [lambda folder: folder, zipped])
    def test_both_layouts_from_folders_and_zip_files(
        self, tmp_path: Path, make: Callable[[Path], Path], pack: Callable[[Path], Path]
    ) -> None:
        folder = voc.find(pack(make(tmp_path / "cells")), "cells")
        found = voc.load(voc.read(folder, "train"), ("cell", "dot"), 16, augment=True)
        assert found.augment
        assert found.images.shape == (2, 3, 16, 16)
        assert found.images[0, :, 8, 8].tolist() == pytest.approx([0, 0, 254], abs=3)  # blue, green, red
        kept = [[0, 0, 0, 10 / 40, 20 / 20], [1, 20 / 40, 10 / 20, 40 / 40, 20 / 20]]  # without the box that is a point
        torch.testing.assert_close(found.objects[:, 0], torch.tensor(kept))
        assert found.objects[:, 1:, 0].unique().tolist() == [-1]

    @pytest.mark.parametrize("place", ["cells", "above/cells", "above"])
    def test_finds_a_data_set_in_folders(self, tmp_path: Path, place: str) -> None:
        laid_out(tmp_path / place)
        assert len(voc.read(voc.find(tmp_path, "cells") if place != "above" else tmp_path / place, "test")) == 1

    def test_finds_a_zip_file_by_its_name(self, tmp_path: Path) -> None:
        zipped(packed(tmp_path / "elsewhere")).rename(tmp_path / "cells.zip")
        assert len(voc.read(voc.find(tmp_path, "Cells"), "train")) == 2

    def test_images_without_any_box(self, tmp_path: Path) -> None:
        found = voc.load(voc.read(laid_out(tmp_path / "cells"), "test"), ("cell", "dot"), 16, augment=False)
        assert found.objects.shape == (1, 0, 5)


class TestWhatIsSaidOf:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere does not exist; it should be a folder or a zip file"):
            voc.find(tmp_path / "nowhere", "cells")
        with pytest.raises(DataError, match=r"does not hold cells: neither annotations\.json nor ImageSets/"):
            voc.find(tmp_path, "cells")

    def test_a_file_that_is_no_zip_file(self, tmp_path: Path) -> None:
        (tmp_path / "cells.zip").write_text("text")
        with pytest.raises(DataError, match=r"cells\.zip is no zip file"):
            voc.find(tmp_path, "cells")

    def test_a_split_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no image in its split 'val'"):
            voc.read(packed(tmp_path / "cells"), "val")
        with pytest.raises(DataError, match=r"cannot be read \(FileNotFoundError.*val\.txt"):
            voc.read(laid_out(tmp_path / "other"), "val")

    @pytest.mark.parametrize("text", ["<annotation>", "<a><object><name>cell</name></object></a>"])
    def test_damaged_annotations(self, tmp_path: Path, text: str) -> None:
        folder = laid_out(tmp_path / "cells")
        (folder / "Annotations" / "one.xml").write_text(text)
        with pytest.raises(DataError, match=r"the boxes of .* cannot be read"):
            voc.read(folder, "train")

    def test_a_class_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"one\.jpg has a box of class 'cell'; there are dot"):
            voc.load(voc.read(laid_out(tmp_path / "cells"), "train"), ("dot",), 16, augment=False)

    def test_images_that_are_missing_or_none(self, tmp_path: Path) -> None:
        folder = laid_out(tmp_path / "cells")
        (folder / "JPEGImages" / "one.jpg").write_text("no image")
        with pytest.raises(DataError, match=r"one\.jpg cannot be read as an image"):
            voc.load(voc.read(folder, "train"), ("cell", "dot"), 16, augment=False)
        (folder / "JPEGImages" / "one.jpg").unlink()
        with pytest.raises(DataError, match=r"one\.jpg cannot be read as an image \(FileNotFoundError"):
            voc.load(voc.read(folder, "train"), ("cell", "dot"), 16, augment=False)
