"""Make the subset of Fashion-MNIST that travels with the package, from the data set's own idx files.

    python -m autoprune.data.make_fashion_mnist /usr/share/datasets/fashion-mnist

The four files are those of the Debian package `dataset-fashion-mnist`. Kept are 15,800 of the 60,000 training images
(the last 2,000 of the file, which are the holdout, and before them 10,000 to train on) and the first 5,000 test images,
in the data set's own idx format, compressed with xz.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import numpy as np

from autoprune.data import idx

TRAIN, TEST = slice(60_000 - 15_800, 60_000), slice(0, 5_000)


def main(source: Path, target: Path = idx.EMBEDDED) -> None:
    """Write the four subset files into `target`."""
    for part, kept in (("train", TRAIN), ("t10k", TEST)):
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{part}-{kind}-ubyte"
            array = idx.read(source, name, 60_000 * 28 * 28)[kept]
            packed = lzma.compress(_bytes(array), preset=9 | lzma.PRESET_EXTREME)
            (target / f"{name}.xz").write_bytes(packed)
            print(f"{name}.xz: {array.shape}, {len(packed):,} bytes")


def _bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
