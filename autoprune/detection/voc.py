"""Reading photographs with boxes as the VOC challenges lay them out, from a folder or a zip file.

    Annotations/NAME.xml   JPEGImages/NAME.jpg   ImageSets/Main/SPLIT.txt, a NAME a line

or, packed, images/NAME.jpg and one annotations.json:

    {"NAME.jpg": {"split": SPLIT, "boxes": [[class, left, top, right, bottom]]}}

Pixels are counted from 1, the last of a box is in it. Everingham et al. 2010, http://host.robots.ox.ac.uk/pascal/VOC.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from autoprune import bounded
from autoprune.detection.images import BoxedImages
from autoprune.errors import ConfigError, DataError, one_line, reason

Folder: TypeAlias = Path | zipfile.Path
_PACKED, _SPLITS = "annotations.json", "ImageSets"
_TEXT, _IMAGE = 64 * bounded.MIB, 64 * bounded.MIB  # bytes of a file, at most
_PIXELS = 100_000_000  # of an image
_EDGE = 100_000  # the largest place of a pixel


@dataclass(frozen=True, slots=True)
class Photograph:
    """One image and its boxes.

    Attributes:
        file: of the image.
        boxes: the class and left, top, right and bottom of each, in pixels.
    """

    file: Folder
    boxes: tuple[tuple[str, int, int, int, int], ...]


def find(data: Path, name: str) -> Folder:
    """Where a data set lies: in `data`, in the folder NAME or the file name.zip in it, or in one that is in that.

    Raises DataError where it is not found.
    """
    packed = [file for file in (data, data / f"{name.lower()}.zip") if file.is_file()]
    try:
        places: list[Folder] = [zipfile.Path(packed[0])] if packed else [data]
    except bounded.BROKEN as wrong:
        raise DataError(f"{packed[0]} is no zip file ({reason(wrong)}); it should hold {name}") from None
    if not places[0].is_dir():
        raise DataError(f"{data} does not exist; it should be a folder or a zip file that holds {name}")
    places += [place / name for place in (*places, *(inner for inner in places[0].iterdir() if inner.is_dir()))]
    found = [place for place in places if (place / _PACKED).is_file() or (place / _SPLITS).is_dir()]
    if not found:
        raise DataError(f"{data} does not hold {name}: neither {_PACKED} nor {_SPLITS}/ is there")
    return found[0]


def read(folder: Folder, split: str) -> list[Photograph]:
    """The photographs of a split, in the data set's order. Raises DataError where a file is missing or damaged."""
    try:
        found = list(_packed(folder, split) if (folder / _PACKED).is_file() else _laid_out(folder, split))
    except (*bounded.BROKEN, AttributeError, TypeError, OverflowError, ElementTree.ParseError) as wrong:
        raise DataError(f"the boxes of {folder} cannot be read ({type(wrong).__name__}: {one_line(wrong)})") from None
    if not found:
        raise DataError(f"{folder} has no image in its split {split!r}")
    return found


def load(photographs: Sequence[Photograph], classes: Sequence[str], side: int, *, augment: bool) -> BoxedImages:
    """Photographs in memory: of `side` x `side` pixels, blue, green and red.

    Boxes without a width or a height are left out. Raises DataError for a class that is none of `classes`, and for an
    image that is missing or damaged; ConfigError where Pillow is missing.
    """
    objects = torch.full((len(photographs), max(len(one.boxes) for one in photographs), 5), -1.0)
    images = []
    for number, one in enumerate(photographs):
        pixels, wide, high = _pixels(one.file, side)
        images.append(pixels)
        rows = [_row(one, box, classes, wide, high) for box in one.boxes if box[1] < box[3] and box[2] < box[4]]
        objects[number, : len(rows)] = torch.tensor(rows).reshape(-1, 5)
    return BoxedImages(torch.stack(images), objects, augment=augment)


def _packed(folder: Folder, split: str) -> Iterator[Photograph]:
    for name, said in bounded.parsed(_content(folder / _PACKED, _TEXT)).items():
        if said["split"] == split:
            boxes = tuple(
                (str(kind), *map(_edge, (one, two, three, four))) for kind, one, two, three, four in said["boxes"]
            )
            yield Photograph(folder / "images" / _plain(name), boxes)  # type: ignore[arg-type]


def _laid_out(folder: Folder, split: str) -> Iterator[Photograph]:
    for name in map(_plain, _content(folder / _SPLITS / "Main" / f"{split}.txt", _TEXT).decode().split()):
        text = _content(folder / "Annotations" / f"{name}.xml", _TEXT)
        boxes = tuple(_box(told) for told in ElementTree.fromstring(text).iter("object"))
        yield Photograph(folder / "JPEGImages" / f"{name}.jpg", boxes)


def _box(told: ElementTree.Element) -> tuple[str, int, int, int, int]:
    edges = [_edge(int(told.findtext(f"bndbox/{edge}", ""))) for edge in ("xmin", "ymin", "xmax", "ymax")]
    return told.findtext("name", ""), edges[0], edges[1], edges[2], edges[3]


def _edge(written: object) -> int:
    """An edge of a box. Raises ValueError for what is no place in an image."""
    if isinstance(written, bool) or not isinstance(written, int) or abs(written) > _EDGE:
        raise ValueError(f"a box has its edge at {written!r}")
    return written


def _plain(name: str) -> str:
    """The name of a file in its folder. Raises ValueError for one that leads elsewhere."""
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise ValueError(f"{name!r} is no name of a file in it")
    return name


def _content(file: Folder, most: int) -> bytes:
    """What a file holds, of at most `most` bytes. Raises one of `bounded.BROKEN`."""
    if isinstance(file, zipfile.Path):
        return bounded.member(file.root, file.at, most)
    return bounded.read(file, most)


def _row(
    one: Photograph, box: tuple[str, int, int, int, int], classes: Sequence[str], wide: int, high: int
) -> tuple[float, ...]:
    """A box as a row of objects."""
    kind, left, top, right, bottom = box
    if kind not in classes:
        raise DataError(f"{one.file} has a box of class {kind!r}; there are {', '.join(classes)}")
    return classes.index(kind), (left - 1) / wide, (top - 1) / high, right / wide, bottom / high


def _pixels(file: Folder, side: int) -> tuple[Tensor, int, int]:
    """An image, uint8 (3, side, side), and the width and the height that it had."""
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("photographs need the package Pillow: pip install 'autoprune[detection]'") from None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(_content(file, _IMAGE))) as image:
            if image.width * image.height > _PIXELS:
                raise ValueError(f"it is {image.width} x {image.height} pixels")
            shown = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(shown)[:, :, ::-1].transpose(2, 0, 1).copy()), image.width, image.height
    except (*bounded.BROKEN, SyntaxError, Image.DecompressionBombError) as wrong:  # Pillow says so of broken PNGs
        raise DataError(f"{file} cannot be read as an image ({type(wrong).__name__}: {reason(wrong)})") from None
