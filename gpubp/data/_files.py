"""What every reader and writer of data files needs: exact reads, clear errors, atomic writes."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import DataFormatError
from gpubp.folders import path_text
from gpubp.printable import printable
from gpubp.tensorfile import take_place, temporary

FilePath = str | os.PathLike[str]
Pair = tuple[NDArray[Any], NDArray[Any]]  # x (n, n_in), y (n,), int64 but for real targets


class Table(tuple[NDArray[Any], NDArray[Any]]):
    """The pair ``(x, y)`` read from a text file, to be unpacked as any pair, that also has
    ``classes``, the names of the labels 0, 1, ... (``None`` where they are numbers themselves or y
    holds real targets), ``reading``, how the file was read, in words, and ``inputs`` and
    ``targets``, the names of the columns of x and y (``None`` without a header that tells them
    apart).
    """

    classes: tuple[str, ...] | None
    reading: str
    inputs: tuple[str, ...] | None
    targets: tuple[str, ...] | None

    def __new__(
        cls, x: NDArray[Any], y: NDArray[Any], classes: tuple[str, ...] | None, reading: str,
        inputs: tuple[str, ...] | None = None, targets: tuple[str, ...] | None = None,
    ) -> Table:  # fmt: skip
        made = super().__new__(cls, (x, y))
        made.classes, made.reading, made.inputs, made.targets = classes, reading, inputs, targets
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.classes, self.reading, self.inputs, self.targets)


MAX_UNPACKED: Final = 192 << 20
"""Decompressed bytes a compressed array may have unless the caller allows more: half a second of a
decompression bomb. What lies uncompressed in a file needs no limit: its length is known."""
EAGER_BYTES: Final = 48 << 20
"""Up to here an array is allocated before its length is verified: MNIST's images just fit."""
CHUNK: Final = 1 << 18


class Stream(Protocol):
    """Anything with ``read(n)``: at most n bytes, none at the end."""

    def read(self, n: int, /) -> bytes: ...


@contextmanager
def open_regular(path: FilePath) -> Iterator[BinaryIO]:
    """A non-empty regular file opened for reading; anything else is refused in one sentence."""
    try:
        mode = os.stat(path_text(path)).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {printable(os.fspath(path))}: check the name, or the folder you run "
            "in"
        ) from None
    if not stat.S_ISREG(mode):
        # Looked at before opening: opening a pipe would wait for its writer.
        found = "a directory" if stat.S_ISDIR(mode) else "a device or pipe"
        raise DataFormatError(path, expected="a file", found=found)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise DataFormatError(path, expected="data", found="an empty file", offset=0)
        yield file


@contextmanager
def replacing(path: FilePath) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` at the end, whole, or not at all."""
    target = path_text(path)
    with temporary(target) as (name, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        take_place(name, target)


class Gunzip:
    """The decompressed bytes of one gzip member, and nothing after it."""

    def __init__(self, raw: BinaryIO, path: FilePath) -> None:
        self._raw, self._path = raw, path
        self._inflate = zlib.decompressobj(wbits=31)
        self._at = 0

    def read(self, n: int, /) -> bytes:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._raw.read(1 << 16)
            if not packed:
                raise DataFormatError(
                    self._path,
                    expected="the end of the gzip stream",
                    found="a truncated file",
                    offset=self._at,
                )
            try:
                data = self._inflate.decompress(packed, n)
            except zlib.error as error:
                raise damaged(self._path, error, self._at) from None
            if data:
                self._at += len(data)
                return data
        if self._inflate.unused_data or self._raw.read(1):
            raise DataFormatError(
                self._path,
                expected="one gzip stream and the end of the file",
                found="bytes after the stream",
                offset=self._at,
            )
        return b""


def damaged(path: FilePath, error: Exception, offset: int | None = None) -> DataFormatError:
    """The ``DataFormatError`` for what a decompressor says of a file."""
    found = " ".join(str(error).split()) or type(error).__name__
    return DataFormatError(path, expected="an intact compressed stream", found=found, offset=offset)


def read_upto(stream: Stream, n: int) -> bytes:
    """``n`` bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < n and (more := stream.read(n - len(data))):
        data += more
    return data


def read_exactly(
    stream: Stream, n: int, path: FilePath, offset: int, *, keep: bool = True
) -> NDArray[np.uint8]:
    """The last ``n`` bytes of a stream that is at ``offset``: exactly n are left, else an error.

    With ``keep=False`` they are read and checked only, in constant memory.
    """
    out = np.empty(n if keep else 0, np.uint8)
    at = 0
    try:
        while at < n and (data := stream.read(min(CHUNK, n - at))):
            if keep:
                out[at : at + len(data)] = np.frombuffer(data, np.uint8)
            at += len(data)
        extra = stream.read(1) if at == n else b""
    except (zlib.error, zipfile.BadZipFile, EOFError) as error:
        raise damaged(path, error, offset + at) from None
    if at < n:
        raise DataFormatError(
            path, expected=f"{n} bytes of values", found=f"only {at}", offset=offset + at
        )
    if extra:
        raise DataFormatError(
            path, expected="the end of the data", found="trailing bytes", offset=offset + n
        )
    return out
