"""What was given on the command line, taken together: what one argument alone cannot say is wrong."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError


def recipe(asked: argparse.Namespace) -> dict[str, Any]:
    """How a network is to be finetuned, as `apply_policy` takes it."""
    other = {key: value for key in ("epochs", "lr") if (value := getattr(asked, key)) is not None}
    if asked.no_finetune and other:
        raise ConfigError(f"--no-finetune and --{next(iter(other))}: one of them is right")
    return {"finetune": not asked.no_finetune, "recipe": other}


def ceilings(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Ceilings by name of the cost, each given once."""
    found: dict[str, str] = {}
    for name, value in given:
        if name in found:
            raise ConfigError(f"two ceilings on {name}, {found[name]} and {value}; one is right")
        found[name] = value
    return found


def require_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before any work."""
    if os.path.isdir(path) or not path.name:
        raise ConfigError(f"--out {path}: that is a folder; the name of a file is right")
    if not os.path.isdir(path.parent):
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; make it first")
