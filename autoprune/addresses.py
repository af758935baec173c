"""Code that is not ours: where it lies, and what is told of an exception that it raised.

It is named by an address: `module:attribute`, or `path/to/file.py:attribute` for a file of one's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import AutopruneError, ConfigError, TrialFailed, first_line, one_line

_OURS = Path(__file__).parent
_LIBRARY = Path(sysconfig.get_path("stdlib"))
_INSTALLED = ("site-packages", "dist-packages")
_LAYER = "torch/nn/modules/module.py"  # through which every module of a network is called
_IN_WORKER = re.compile(r"Caught \w+ in .* process \d+")  # how torch's loaders begin what a worker raised
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


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
    places: list[tuple[str, Any]] = [(one.filename, one.lineno) for one in traceback.extract_tb(wrong.__traceback__)]
    if _IN_WORKER.match(str(wrong)):
        places += re.findall(r'File "(.+)", line (\d+)', str(wrong))
    theirs = [place for place in places if _is_users(place[0])]
    return f" at {Path(theirs[-1][0]).name}, line {theirs[-1][1]}" if theirs else ""


def told(wrong: BaseException) -> str:
    """An exception in one line: its type, what it says, and where in the user's code it was raised."""
    if isinstance(wrong, TrialFailed) and wrong.__cause__ is not None:  # told by `blamed` already
        wrong = wrong.__cause__
    said = first_line(wrong)
    if _IN_WORKER.match(str(wrong)):
        said = str(wrong).strip().splitlines()[-1]
    if isinstance(wrong, SystemExit):
        said = f"it ends the program: sys.exit({'' if wrong.code is None else repr(wrong.code)})"
    return said + raised_at(wrong)


def is_theirs(wrong: BaseException) -> bool:
    """Whether code that is not ours raised: a user's own, the layers of a network, or whoever found no memory left."""
    files = [one.filename for one in traceback.extract_tb(wrong.__traceback__)]
    ours = max((at for at, file in enumerate(files) if _OURS in Path(file).parents), default=-1)
    in_layer = any(file.endswith(_LAYER) for file in files[ours + 1 :])
    no_memory = isinstance(wrong, MemoryError) or any(words in str(wrong).lower() for words in _NO_MEMORY)
    return no_memory or in_layer or any(map(_is_users, files))


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Inside, where code runs that is not ours, whatever it raises is a TrialFailed that begins with `what`.

    So is `sys.exit`; Ctrl-C is not.
    """
    try:
        yield
    except AutopruneError:
        raise
    except (Exception, SystemExit) as wrong:
        raise TrialFailed(f"{what} fails ({told(wrong)})") from wrong


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Inside, where code runs that is ours and calls other, what the other raises is a TrialFailed.

    A mistake of ours stays what it is, and so does Ctrl-C, whatever it was turned into on its way.
    """
    try:
        yield
    except (Exception, SystemExit) as wrong:
        if stop := _stop(wrong):
            raise stop from None
        if isinstance(wrong, AutopruneError) or not is_theirs(wrong):
            raise
        raise TrialFailed(told(wrong)) from wrong


def _stop(wrong: BaseException) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt that `wrong` was raised from, or while it was handled; None where there is none."""
    seen: BaseException | None = wrong
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _is_users(file: str) -> bool:
    """Whether a frame's file is the user's own: not ours, nor a library's, nor made as a program runs."""
    made = file.startswith("<") and not file.startswith(("<stdin", "<ipython"))
    library = any(folder in file for folder in _INSTALLED) or _LIBRARY in Path(file).parents
    return not (made or library or _OURS in Path(file).parents)


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
