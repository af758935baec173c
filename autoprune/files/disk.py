"""Files that hold all of what was written or what they held before, and lines that say whether they are whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError, RunError

Json = Mapping[str, Any]
_MARK = b', "crc": "'


def opened(path: Path, flags: int) -> int:
    """An open file, as `os.open`, which is a regular one; what is written to is no symbolic link.

    Nothing waits for the other end of a pipe. Raises OSError.
    """
    links = 0 if flags & os.O_ACCMODE == os.O_RDONLY else os.O_NOFOLLOW
    file = os.open(path, flags | links | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def require_regular(path: Path) -> None:
    """Raise OSError where `path` is no regular file that can be read."""
    os.close(opened(path, os.O_RDONLY))


def read_bytes(path: Path) -> bytes:
    """What a regular file holds. Raises OSError."""
    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        return file.read()


def cut(path: Path, size: int) -> None:
    """Cut off what a file holds beyond its first `size` bytes."""
    file = opened(path, os.O_WRONLY)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def write_json(path: Path, value: Json) -> None:
    """Write `value` so that `path` holds all of it or what it held before."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or what it held before."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody put there
    try:
        with os.fdopen(opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """As `write_bytes`, in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def append_to(path: Path, content: bytes) -> None:
    """As `append`, to a file by its name, in a folder that is made where there is none."""
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
    except OSError:
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
def renamed(path: Path) -> Iterator[Path]:
    """A path to write to; renamed to `path` where the block ends well, and gone where it does not."""
    with refused(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)


@contextlib.contextmanager
def scratch(name: str, content: bytes) -> Iterator[Path]:
    """A file of that name in a folder of its own, gone when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


@contextlib.contextmanager
def refused(place: Path) -> Iterator[None]:
    """Inside, what the operating system refuses becomes a RunError that names `place`."""
    try:
        yield
    except AutopruneError:
        raise
    except OSError as wrong:
        raise RunError(f"{place} cannot be written: {wrong.strerror or wrong}") from wrong


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError where it cannot be read, and RunError where it holds something else."""
    text = read_bytes(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as wrong:
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
    body, mark, rest = line.rstrip(b"\n").rpartition(_MARK)
    if not mark or rest != b'%08x"}' % zlib.crc32(body):
        raise ValueError("its checksum does not fit")
    found: dict[str, Any] = json.loads(body + b"}")
    return found
