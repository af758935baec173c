"""Reading what may come from anybody: never more than a size that is said, and nothing that could be read in two ways.

A megabyte can unpack to many gigabytes, a pipe never ends, and JSON lets a key be there twice. What is read here is a
regular file within its bound, or a ValueError or OSError says why not, in words for people.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import lzma
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MIB = 2**20
BROKEN = (OSError, EOFError, ValueError, KeyError, RuntimeError, struct.error, zlib.error, lzma.LZMAError,
          zipfile.BadZipFile)  # fmt: skip  # what the libraries raise for archives that are damaged
_WINDOW = 256 * MIB  # memory that unpacking may take besides what comes out
_DEEPEST = 100  # levels of JSON; who goes through them may call itself at each
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others, a few bytes can unpack to gigabytes at once


def read(path: Path, most: int) -> bytes:
    """What a regular file of at most `most` bytes holds. Raises OSError; nothing waits for the other end of a pipe."""
    with reading(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def reading(path: Path, most: int) -> BinaryIO:
    """A regular file of at most `most` bytes, open to be read. Raises OSError; nothing waits at a pipe."""
    file = os.fdopen(opened(path, os.O_RDONLY), "rb")
    try:
        _within(os.fstat(file.fileno()).st_size, most, path)
    except OSError:
        file.close()
        raise
    return file


def require_regular(path: Path) -> None:
    """Raise OSError where `path` is no regular file that can be read."""
    os.close(opened(path, os.O_RDONLY))


def opened(path: Path, flags: int) -> int:
    """An open file, as `os.open`, which is a regular one. Raises OSError; nothing waits at a pipe."""
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def member(packed: zipfile.ZipFile, name: str, most: int) -> bytes:
    """What a file in a zip file holds, of at most `most` bytes. Raises one of `BROKEN`."""
    info = packed.getinfo(name)
    if info.compress_type not in _PACKINGS:
        raise ValueError(f"{name!r} in it is packed in a way that is not read; deflate is right")
    _within(info.file_size, most, name)
    return packed.read(info)


def _within(size: int, most: int, what: object) -> None:
    if size > most:
        raise OSError(errno.EFBIG, f"it holds more than {most:,} bytes, the most that is read of it", str(what))


def unpacked(content: bytes, ending: str, most: int) -> bytes:
    """`content`, packed as the file name's `ending` says (.xz, .gz, other: not at all), up to `most` bytes of it.

    Raises one of `BROKEN` where there is more, before it is unpacked.
    """
    if ending == ".xz":
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW)
        content = unpacker.decompress(content, most + 1)
        if len(content) <= most and not unpacker.eof:
            raise EOFError("it is cut short")
        if unpacker.unused_data:
            raise ValueError("something follows behind its end")
    elif ending == ".gz":
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            content = packed.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes, the most that it should hold")
    return content


def arrays(file: Path, names: Sequence[str], most: int) -> dict[str, NDArray[Any]]:
    """The arrays of plain numbers under these names in an npz file, of at most `most` bytes each.

    Raises one of `BROKEN`.
    """
    with zipfile.ZipFile(io.BytesIO(read(file, most))) as packed:
        return {name: _array(name, member(packed, f"{name}.npy", most)) for name in names}


def _array(name: str, content: bytes) -> NDArray[Any]:
    """One array, from the bytes of a npy file: its header must say what follows, before anything is made of it."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name!r} is of version {version} of the format; 1.0 or 2.0 is right")
    try:
        shape, by_column, kind = readers[version](stream)
    except Exception as wrong:  # NumPy reads it as Python would, and raises what Python's parser does
        raise ValueError(f"the header of {name!r} cannot be read ({type(wrong).__name__})") from None
    if kind.hasobject or kind.kind not in "biuf":
        raise ValueError(f"{name!r} holds {kind}; numbers are right")
    body = content[stream.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(body):
        raise ValueError(f"{name!r} is of shape {shape} and holds {len(body):,} bytes")
    return np.frombuffer(body, kind).reshape(shape, order="F" if by_column else "C")


def parsed(text: bytes | str) -> Any:
    """What a text of JSON holds, if every key is there once and every number is finite. Raises ValueError."""
    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(_DEEPEST):
        level = [one for held in level for one in (held.values() if isinstance(held, dict) else held)
                 if isinstance(one, dict | list)]  # fmt: skip
        if not level:
            return found
    raise ValueError("it nests too deep")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As `object_pairs_hook` of JSON: the object, if every key is there once. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)
