"""Whose code may run: what files that autoprune wrote say of code is followed only where the user has allowed it.

A command line, a search space in TOML and a call from Python are the user's own words: the addresses in them are
followed, and remembered for this user when a search begins. A run's directory and a policy.json may come from anybody:
they name plugins of ours, and of installed packages, freely, but an address (`module:name`, `file.py:name`) or a
program to be run only if it is on the list of what was allowed, and the file is as it was.

The list is a text file of the user's own, one line for each: a sha256 of the Python file, or "-" for whatever it is,
and the address. The last line of an address counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import config, plugins
from autoprune.addresses import file_of, is_address
from autoprune.config import Config, Use
from autoprune.errors import ConfigError, Untrusted
from autoprune.files import disk

_RUNS = plugins.OURS["target"]["command"]
ANY = "-"  # in place of a hash


@dataclass(frozen=True, slots=True)
class Code:
    """Something that a config would run.

    Attributes:
        kind: of plugin.
        address: of it, or the command of a target.
    """

    kind: str
    address: str

    def digest(self) -> str:
        """The sha256 of its Python file, "" where that cannot be read; `ANY` of what is no file."""
        file = file_of(self.address)
        try:
            return ANY if file is None else hashlib.sha256(disk.read_bytes(file)).hexdigest()
        except OSError:
            return ""


def named(asked: Config) -> Iterator[Code]:
    """All code that `asked` names, besides plugins of ours and of installed packages."""
    for kind, settings in _plugins(asked):
        use = str(settings["use"])
        address = plugins.names(kind).get(use, use)
        if is_address(use) and use not in {*plugins.OURS[kind].values(), *plugins.MOVED}:
            yield Code(kind, use)
        if "command" in settings and address == _RUNS:
            yield Code(kind, str(settings["command"]))
    yield from (Code(kind, use) for kind, use in asked.finetune.named.items() if is_address(use))
    for cost in (*asked.budget, str(asked.reward.settings.get("cost", ""))):
        if is_address(cost):
            yield Code("cost", cost)


def _plugins(asked: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table of `asked` that names a plugin, by its key, which is the kind: whatever tables there will be."""
    for kind in Config.model_fields:
        value = getattr(asked, kind)
        yield from (
            (kind, one.settings) for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Use)
        )


def restored(
    tables: Mapping[str, Any], source: str, over: Mapping[str, Any] | None = None, *, trust: Iterable[str] = ()
) -> Config:
    """As `config.parse`, of tables that lay in a file that autoprune wrote; `trust` are addresses allowed from now on.

    Raises Untrusted for what was not allowed, or was changed since, and ConfigError for an address that is not there.
    """
    asked = config.parse(tables, source, over)
    wanted = tuple(dict.fromkeys(named(asked)))
    allowed, names = tuple(trust), [code.address for code in wanted]
    if strange := [address for address in allowed if address not in names]:
        known = ", ".join(names) or "only what autoprune has"
        raise ConfigError(f"--trust {shlex.quote(strange[0])}: {source} does not name that; it names {known}")
    remember(code for code in wanted if code.address in allowed)
    _require(wanted, source)
    return asked


def remember(codes: Iterable[Code]) -> None:
    """Put these on the user's list, as they are now. Where the list cannot be written, they will be asked for again.

    A file that cannot be read is not put there.
    """
    allowed = _allowed()
    found = [(code.digest(), code.address) for code in dict.fromkeys(codes) if "\n" not in code.address]
    new = "".join(f"{digest} {address}\n" for digest, address in found if digest not in ("", allowed.get(address)))
    if new:
        with contextlib.suppress(OSError):
            disk.append_to(place(), new.encode())


def place() -> Path:
    """The user's list: $AUTOPRUNE_ALLOWED, else below the user's state folder (XDG base directory specification)."""
    given = os.environ.get("AUTOPRUNE_ALLOWED", "")
    base = Path(os.environ.get("XDG_STATE_HOME", "") or Path.home() / ".local" / "state")
    return Path(given) if given else base / "autoprune" / "allowed.txt"


def _allowed() -> dict[str, str]:
    """The hash of each address on the list."""
    try:
        lines = place().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {address: digest for digest, _, address in pairs}


def _require(wanted: Iterable[Code], source: str) -> None:
    allowed = _allowed()
    refused = {code: why for code in wanted if (why := _unlike(code, allowed.get(code.address)))}
    if gone := [code for code in refused if not code.digest()]:
        said = f"the {gone[0].kind} {gone[0].address!r}, and {file_of(gone[0].address)} is not there"
        raise Untrusted(f"{source} names {said}; go to its folder, or hand over another (apply has --task)")
    if refused:
        what = ", ".join(f"the {code.kind} {code.address!r}{why}" for code, why in refused.items())
        add = " ".join(f"--trust {shlex.quote(code.address)}" for code in refused)
        advice = f"read it, and if you want that, add {add} (in Python: trust=[...])"
        raise Untrusted(f"{source} would run {what}, without your leave; {advice}")


def _unlike(code: Code, known: str | None) -> str:
    """How `code` differs from what the list knows of it, for people; "" where it is allowed."""
    if known is None:
        return " (not on your list)"
    now = code.digest()
    return "" if known in (ANY, now) else f" (changed since you allowed it: {known[:12]}, now {now[:12]})"
