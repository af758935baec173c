"""Reading idx files, the format of MNIST and its successors, plain or compressed with gzip or xz.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8 is uint8), the number of dimensions, each
dimension as four bytes, most significant first, and then the numbers.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoprune import bounded
from autoprune.errors import DataError, reason

_HEAD = 4 + 4 * 255  # bytes before the numbers, at most
EMBEDDED = Path(__file__).parent
_ENDINGS = (".xz", ".gz", "")


def find(directory: Path, name: str) -> Path | None:
    """The file of that name in `directory`, compressed or not; None if there is none."""
    files = (directory / f"{name}{ending}" for ending in _ENDINGS)
    return next((file for file in files if file.is_file()), None)


def read(directory: Path, name: str, most: int) -> NDArray[np.uint8]:
    """The array, of at most `most` numbers, in the idx file `name` of `directory`.

    Raises DataError where it is missing, short, larger or damaged.
    """
    file = find(directory, name)
    if file is None:
        raise DataError(f"{directory / name} is missing (plain, .gz or .xz)")
    try:
        size = most + _HEAD
        return parse(bounded.unpacked(bounded.read(file, size), file.suffix, size))
    except bounded.BROKEN as wrong:
        raise DataError(f"{file} is damaged: {reason(wrong)}") from None


def parse(raw: bytes) -> NDArray[np.uint8]:
    """The array in the bytes of an idx file of unsigned bytes. Raises ValueError where they are not one."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"an idx file of bytes begins with 00 00 08, this one with {raw[:3].hex(' ')}")
    if len(raw) < 4 or not raw[3] or len(raw) < 4 + 4 * raw[3]:
        raise ValueError("its head is cut short, or says that it has no dimensions")
    shape = tuple(int.from_bytes(raw[4 + 4 * n : 8 + 4 * n], "big") for n in range(raw[3]))
    body = raw[4 + 4 * len(shape) :]
    if len(body) != math.prod(shape):
        raise ValueError(f"it should hold {math.prod(shape):,} numbers of shape {shape} and holds {len(body):,}")
    return np.frombuffer(body, np.uint8).reshape(shape)
