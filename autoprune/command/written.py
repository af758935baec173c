"""What an argument of the command line may say: numbers, settings and ceilings, as they are written."""

from __future__ import annotations

import argparse
import contextlib
import math
import tomllib
from typing import Any


def count(text: str) -> int:
    """A number of trials. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of trials; write a whole number from 1 on")
    return int(text)


def passes(text: str) -> float:
    """A number of epochs. Raises ArgumentTypeError for what is none."""
    with contextlib.suppress(ValueError):
        if 0 <= (epochs := float(text)) < math.inf:  # how many there may be is said by the config
            return epochs
    raise argparse.ArgumentTypeError(f"{text!r} is no number of epochs; write a number from 0 on, such as 2")


def points(text: str) -> float:
    """A number of points. Raises ArgumentTypeError for what is none."""
    with contextlib.suppress(ValueError):
        if 0 <= (points := float(text)) <= 100:
            return points
    raise argparse.ArgumentTypeError(f"{text!r} is no number of points; write a number from 0 to 100, such as 2")


def staff(text: str) -> int:
    """A number of workers. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers; write a whole number from 1 to 1024")
    return int(text)


def rate(text: str) -> float:
    """A learning rate. Raises ArgumentTypeError for what is none."""
    with contextlib.suppress(ValueError):
        if (rate := float(text)) > 0:  # how large it may be is said by the config
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is no learning rate; write a number above 0, such as 0.01")


def setting(text: str) -> tuple[str, Any]:
    """A dotted key and its value, written as in TOML; a text may do without quotes."""
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (table and dot and name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; write TABLE.KEY=VALUE, such as finetune.epochs=1")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def ceiling(text: str) -> tuple[str, str]:
    """A cost and its ceiling. Raises ArgumentTypeError for what is none."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no budget; write COST=CEILING, such as macs=50%")
    return name, value
