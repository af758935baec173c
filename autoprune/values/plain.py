"""Numbers as they come from anybody's code, made plain where they enter: one float of Python's, not too large.

A tensor without dimensions, a number of numpy's, a whole number and a truth value are all one number; what is written
to files and what is reckoned with afterwards are floats alone.
"""

from __future__ import annotations

import math
from numbers import Real

from autoprune.errors import TrialFailed

LARGEST = 1e30  # of the size of a metric or a reward: squares and differences of such are finite, in float32 nearly


def plain(found: object) -> float | None:
    """`found` as a float; None where it is not one real number."""
    if hasattr(found, "item") and hasattr(found, "dtype"):  # a tensor or an array
        try:
            found = found.item()
        except (ValueError, RuntimeError, TypeError):  # of several numbers, or of none
            return None
    try:
        return float(found) if isinstance(found, Real) else None
    except OverflowError:  # 10**400
        return math.inf


def measured(what: str, found: object) -> float:
    """`found` as a float that can be reckoned with. Raises TrialFailed, naming it as `what`, where it is none."""
    number = plain(found)
    if number is None:
        raise TrialFailed(f"{what} gives {_said(found)}; one number, a float, is right")
    if not math.isfinite(number):
        raise TrialFailed(f"{what} is {number}; it should be a finite number")
    if abs(number) > LARGEST:
        raise TrialFailed(f"{what} is {number:g}; it should be between {-LARGEST:g} and {LARGEST:g}")
    return number


def _said(found: object) -> str:
    """What is no number, for people."""
    if found is None or isinstance(found, str):
        return repr(found)[:80]
    shape = getattr(found, "shape", None)
    return f"a {type(found).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
