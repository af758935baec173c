"""What can go wrong, as a tree. Whatever autoprune raises on purpose is one of these.

* AutopruneError
  x ConfigError        a file or an argument a person wrote is wrong (also a ValueError)
  x UnknownPlugin      no plugin of that kind bears that name (also a LookupError)
  x DataError          a data set is missing, short or damaged (also an OSError)
  x ModelError         a network cannot be traced, loaded or run (also a RuntimeError)
  x TargetError        a runtime cannot run or time a network (also a RuntimeError)
  x CacheError         timings on disk cannot be read or written (also an OSError)
  x PolicyError        a policy does not fit its search space (also a ValueError)
  x BudgetError        no policy of the space meets the budget (also a ValueError)
  x RunError           a run directory may not be begun or continued as asked
    x FileError        a file cannot be written: the disk is full, the folder read-only (also an OSError)
  x Untrusted          a file names code that the user has not allowed
  x TrialFailed        one policy could not be evaluated; the search goes on
  x TrainingFailed     weights that policies share cannot be trained as asked
  x ClusterLost        the workers' scheduler is gone; the run can be gone on with
  x SearchFailed       too many trials failed in a row; the search stops with their cause
  x Exhausted          a controller has no further policy to propose; the search ends

Each message is one line: what is wrong, the value, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SPACES = "\n\t\u00a0\u202f"


class AutopruneError(Exception):
    """Base of everything that autoprune raises on purpose."""

    def __str__(self) -> str:
        return harmless(" ".join(super().__str__().split()))


class ConfigError(AutopruneError, ValueError):
    """A file or an argument that a person wrote is wrong."""


class UnknownPlugin(AutopruneError, LookupError):
    """No plugin of that kind bears that name."""


class DataError(AutopruneError, OSError):
    """A data set is missing, short or damaged."""


class ModelError(AutopruneError, RuntimeError):
    """A network cannot be traced, loaded or run."""


class TargetError(AutopruneError, RuntimeError):
    """A runtime cannot run or time a network."""


class CacheError(AutopruneError, OSError):
    """Timings on disk cannot be read or written."""


class PolicyError(AutopruneError, ValueError):
    """A policy does not fit its search space."""


class BudgetError(AutopruneError, ValueError):
    """No policy of the search space meets the budget."""


class RunError(AutopruneError):
    """A run directory may not be begun or continued as asked."""


class FileError(RunError, OSError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


class Untrusted(AutopruneError):
    """A file that came from elsewhere names code that the user has not allowed."""


class TrialFailed(AutopruneError):
    """One policy could not be evaluated. The search records it and goes on."""


class TrainingFailed(AutopruneError):
    """Weights that many policies share could not be trained."""


class ClusterLost(AutopruneError):
    """The scheduler through which workers are reached is gone."""


class SearchFailed(AutopruneError):
    """Too many trials failed in a row."""


class Exhausted(AutopruneError):
    """The controller has proposed everything it ever will."""


def first_line(wrong: BaseException) -> str:
    """What `wrong` says, in one line: its type and the first line of its message."""
    text = str(wrong).strip().splitlines()
    return f"{type(wrong).__name__}: {text[0] if text else ''}".rstrip(": ")


def harmless(text: str) -> str:
    """`text`, in which everything but letters, signs, spaces and line breaks is written as Python writes it."""
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(sign if sign.isprintable() or sign in _SPACES else ascii(sign)[1:-1] for sign in text)


def dotted(place: Iterable[int | str]) -> str:
    """Where something stands in a file, such as "choices.3.kept"; a key of other signs as Python writes it."""
    return ".".join(part if part and part.isprintable() else repr(part) for part in map(str, place))


def first_fault(faults: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Where the first of pydantic's `errors()` stands, and what it says."""
    return dotted(faults[0]["loc"]), str(faults[0]["msg"]).removeprefix("Value error, ")


def begun_small(text: str) -> str:
    """A sentence as it stands within another."""
    return text[:1].lower() + text[1:]


def reason(wrong: BaseException) -> str:
    """What the system or a library says of a file, without the file's name and number of the error; in one line."""
    return str(getattr(wrong, "strerror", None) or one_line(wrong))


def one_line(wrong: BaseException) -> str:
    """An exception's message without its line breaks; its type where it has no message."""
    return " ".join(str(wrong).split()) or type(wrong).__name__
