"""Files that are nearly right: a valid one with something else in it, for tests that read thousands of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Place = tuple[Any, ...]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.sampled_from([10**30, -(10**30), 2**31, 2**63, 10**400]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, 1e300, 5e-324, -0.0, 0.5]),
    st.text(max_size=6),
    st.sampled_from(["", "\n", "\x1b[2J", "50%", "3", "nan", "../../x", "a:b", "<b>", "\ud800", "x" * 5000]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["use", "a", "class", ""]), st.integers(-1, 3), max_size=2),
    st.sampled_from([60, 200]).map(lambda deep: _nested(deep)),  # deeper ones: `_DEEP`
)


def _nested(deep: int) -> Any:
    made: Any = 1
    for _ in range(deep):
        made = [made]
    return made


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The ways to all that a JSON value holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


@st.composite
def changed(draw: st.DrawFn, valid: Any, most: int = 3) -> Any:
    """A JSON value in which up to `most` things were replaced, left out, doubled or put in."""
    made = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, most))):
        found = list(places(made))
        if not found:
            return draw(ODD)
        *way, last = draw(st.sampled_from(found))
        holder = made
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "leave out", "double", "put in"])):
            case "replace":
                holder[last] = draw(ODD)
            case "leave out":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=4))] = draw(ODD)
            case _:
                holder.insert(0, draw(ODD))
    return made


def as_json(value: Any) -> bytes:
    """As a file holds it, NaN and all."""
    return json.dumps(value).encode()


@st.composite
def spoilt(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes of which some were flipped, cut off, doubled, left out or put in."""
    made = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        match draw(st.sampled_from(["flip", "cut", "double", "leave out", "put in"])):
            case "flip" if at < len(made):
                made[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del made[at:]
            case "double":
                made[at:at] = made[at : at + draw(st.integers(1, 40))]
            case "leave out":
                del made[at : at + draw(st.integers(1, 9))]
            case _:
                made[at:at] = draw(st.binary(min_size=1, max_size=9))
    return bytes(made)


_DEEP = st.sampled_from([900, 5_000, 100_000]).flatmap(
    lambda deep: st.sampled_from([b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep])
)


def files(valid: bytes, *structured: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly structured changes; else changed bytes, any, or what is nested too deeply."""
    return st.one_of(*structured, *structured, spoilt(valid), st.binary(max_size=80), _DEEP)


def as_toml(value: Any) -> str:
    """A value as TOML writes it in one line; what TOML has not is left out."""
    if isinstance(value, dict):
        held = (f"{json.dumps(key)} = {as_toml(one)}" for key, one in value.items() if one is not None)
        return "{" + ", ".join(held) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(one) for one in value if one is not None) + "]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    return json.dumps(value)
