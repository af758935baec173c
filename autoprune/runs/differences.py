"""Where two JSON values differ, and what one has in place of the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autoprune.files.disk import Json


def replaced(config: Json, other: Json, keys: Sequence[str]) -> dict[str, Any]:
    """`config` with what `other` has under the dotted `keys`; without them where it has nothing there."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for table, _, key in (dotted.partition(".") for dotted in keys):
        there = other.get(table, {})
        if isinstance(made.get(table), dict):
            made[table].pop(key, None)
            made[table] |= {key: there[key]} if key in there else {}
    return made


def plain(value: Json) -> dict[str, Any]:
    """`value` as it comes back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found


def differences(before: object, now: object, at: str = "") -> list[str]:
    """Where two JSON values differ, as dotted paths."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{at}.{k}".lstrip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [d for i, (old, new) in pairs for d in differences(old, new, f"{at}.{i}")]
    return [] if before == now else [at]
