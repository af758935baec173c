"""Where the data of a task lie: in a directory that is given, or in $AUTOPRUNE_DATA."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.errors import DataError


def directory(data: str, needing: str, hint: str = "") -> Path:
    """`data`, or $AUTOPRUNE_DATA; that it exists is not checked.

    Raises DataError where neither is given, saying what is `needing` one, such as "CIFAR-10 needs a data directory".
    """
    given = data or os.environ.get("AUTOPRUNE_DATA", "")
    if not given:
        raise DataError(f"{needing}: give --data DIR or set AUTOPRUNE_DATA{hint and f'; {hint}'}")
    return Path(given)
