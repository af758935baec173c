"""Code that is named by an address: `module:attribute`, or `path/to/file.py:attribute` for a file of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from autoprune.errors import ConfigError, one_line


def is_address(name: str) -> bool:
    """Whether `name` is an address rather than the short name of a plugin."""
    return ":" in name


def file_of(address: str) -> Path | None:
    """The Python file that an address leads to; None where it leads to a module."""
    place = address.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def is_pythons_own(address: str) -> bool:
    """Whether an address leads into Python's standard library."""
    place = address.rpartition(":")[0]
    return file_of(address) is None and place.partition(".")[0] in (*sys.stdlib_module_names, *sys.builtin_module_names)


def raised_at(wrong: BaseException) -> str:
    """Where in the user's own code an exception was raised, such as " at mine.py, line 12"; "" where it was in none."""
    frames = [one for one in traceback.extract_tb(wrong.__traceback__) if "site-packages" not in one.filename]
    theirs = [one for one in frames if Path(__file__).parent not in Path(one.filename).parents]
    return f" at {Path(theirs[-1].filename).name}, line {theirs[-1].lineno}" if theirs else ""


def module(place: str, what: str) -> ModuleType:
    """The module at `place`, a dotted name or the path of a Python file. Raises ConfigError where there is none."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise ConfigError(f"{what}: {place} does not exist; it should be a Python file")
    try:
        return _from_file(Path(place)) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as wrong:  # whatever a user's file raises
        reason = f"{type(wrong).__name__}: {one_line(wrong)}{raised_at(wrong)}"
        hint = "; CHANGELOG.md says what was renamed" if "autoprune." in reason else ""
        raise ConfigError(f"{what}: {place} cannot be imported ({reason}){hint}") from wrong


def _from_file(path: Path) -> ModuleType:
    """A Python file as a module, which may import its neighbours. The same file, unchanged, is one module."""
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"autoprune_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _neighbours(path.parent):
        sys.modules[name] = module  # dataclasses look themselves up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Inside, Python finds the modules in `folder` and leaves no compiled files there."""
    before = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
