"""Memory that was freed, given back to the system.

oneDNN's programs come and go between larger blocks, so that what is freed lies in holes, which the C library keeps:
docs/decisions/0007-panel.md.
"""

from __future__ import annotations

import contextlib
import ctypes


def trim() -> None:
    """Give freed memory back, where the C library can be told to (glibc's malloc_trim); nothing elsewhere."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
