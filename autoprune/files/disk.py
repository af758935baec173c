"""Files that hold all of what was written or what they held before, and lines that say whether they are whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from autoprune import bounded
from autoprune.errors import AutopruneError, FileError, RunError

Json = Mapping[str, Any]
MOST = 1024 * bounded.MIB  # of a journal, or whatever else a run keeps
_MARK = b', "crc": "'


def opened(path: Path, flags: int) -> int:
    """An open file to write to, as `bounded.opened`; no symbolic link is followed. Raises OSError."""
    return bounded.opened(path, flags | os.O_NOFOLLOW)


def read_bytes(path: Path) -> bytes:
    """What a regular file holds, of at most `MOST` bytes. Raises OSError."""
    return bounded.read(path, MOST)


def reading(path: Path) -> BinaryIO:
    """A regular file of at most `MOST` bytes, open to be read. Raises OSError."""
    return bounded.reading(path, MOST)


def cut(path: Path, size: int) -> None:
    """Cut off what a file holds beyond its first `size` bytes."""
    file = opened(path, os.O_WRONLY)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def write_json(path: Path, value: Json) -> None:
    """As `write_bytes`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before, whoever else writes it meanwhile.

    Raises FileError.
    """
    with refused(path, len(content)):
        part, file = _part(path)
        with os.fdopen(file, "wb") as opened:
            try:
                opened.write(content)
                opened.flush()
                os.fsync(file)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)


def _part(path: Path) -> tuple[Path, int]:
    """An empty file beside `path`, open and locked: of writers of one file one waits for the other.

    One that a killed process left is taken; a link, a pipe, or whatever else somebody put there is removed.
    """
    part = path.with_name(f"{path.name}.part")
    while True:
        try:
            file = opened(part, os.O_WRONLY | os.O_CREAT)
        except OSError:
            if not part.is_symlink() and (part.is_file() or part.is_dir() or not part.exists()):
                raise
            part.unlink(missing_ok=True)
            continue
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, part):
            os.ftruncate(file, 0)
            return part, file
        os.close(file)  # another writer gave it its name meanwhile


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one of that name, and has no other name."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    if os.path.samestat(there, os.fstat(file)):
        if there.st_nlink == 1:
            return True
        path.unlink(missing_ok=True)
    return False


def clear(folder: Path) -> None:
    """Remove what a killed process left in `folder`, which is this process's: files and folders half written.

    Nothing is followed out of it. Raises FileError.
    """
    with refused(folder):
        for left in [*folder.glob("*.part"), *folder.glob(".part-*")]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """As `write_bytes`, in a folder that is made where there is none."""
    with refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def append_to(path: Path, content: bytes) -> None:
    """As `append`, to a file by its name, in a folder that is made where there is none. Raises FileError."""
    with refused(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            append(file, content)
        finally:
            os.close(file)


def set_aside(path: Path) -> None:
    """Give a file another name, since it may be of use to whoever put it there."""
    path.replace(path.with_name(f"{path.name}.other"))


def append(file: int, content: bytes) -> None:
    """Append to an open file and bring it to the disk; where that fails, cut off what was written of it."""
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(content):
            written += os.write(file, content[written:])
        os.fsync(file)
    except BaseException:
        os.ftruncate(file, size)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def scratch(name: str, content: bytes) -> Iterator[Path]:
    """A file of that name in a folder of its own, gone when the block ends. Raises FileError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with refused(path, len(content)):
            path.write_bytes(content)
        yield path


@contextlib.contextmanager
def refused(place: Path, size: int = 0) -> Iterator[None]:
    """Inside, what the system refuses becomes a FileError that names `place`, why, and the room for `size` bytes."""
    try:
        yield
    except AutopruneError:
        raise
    except OSError as wrong:
        why = wrong.strerror or str(wrong)
        raise FileError(f"{place} cannot be written: {why}{_missing(place, size, wrong)}") from wrong


def _missing(place: Path, size: int, wrong: OSError) -> str:
    """How much room a file needs and how much there is, where that is why it cannot be written."""
    if wrong.errno not in (errno.ENOSPC, errno.EDQUOT) or not size:
        return ""
    with contextlib.suppress(OSError):
        free = os.statvfs(place.parent)
        return f" ({size / 2**20:.2g} MiB are needed, {free.f_bavail * free.f_frsize / 2**20:.2g} MiB are free)"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError where it cannot be read, and RunError where it holds something else."""
    text = read_bytes(path)
    try:
        found = bounded.parsed(text)
    except ValueError as wrong:
        raise RunError(f"{path} is damaged ({wrong}); it should hold one JSON object") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged; it should hold one JSON object")
    return found


def sealed(entry: Json) -> bytes:
    """`entry`, which is not empty, as a line of JSON whose last key, "crc", is a checksum of what stands before it."""
    body = json.dumps(entry, allow_nan=False).encode()[:-1]
    return body + _MARK + b'%08x"}\n' % zlib.crc32(body)


def unsealed(line: bytes) -> dict[str, Any]:
    """What a line that was `sealed` holds, without its checksum. Raises ValueError where it is not as written."""
    return parsed(checked(line) + b"}")


def checked(line: bytes) -> bytes:
    """What stands before the checksum of a line that was `sealed`. Raises ValueError where it does not fit."""
    body, mark, rest = line.rstrip(b"\n").rpartition(_MARK)
    if not mark or rest != b'%08x"}' % zlib.crc32(body):
        raise ValueError("its checksum does not fit")
    return body


def parsed(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, every key of it once. Raises ValueError, or RecursionError where it nests too deep."""
    found = json.loads(text, object_pairs_hook=bounded.once)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found
