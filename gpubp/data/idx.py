"""IDX, the file format of MNIST, read and written strictly.

    0 0 <dtype code> <rank> | rank dimensions, uint32 big-endian | the values, big-endian, C order

The whole file may be gzipped.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gpubp.data._files import (
    EAGER_BYTES,
    MAX_UNPACKED,
    FilePath,
    Gunzip,
    Stream,
    open_regular,
    read_exactly,
    read_upto,
    replacing,
)
from gpubp.errors import DataFormatError
from gpubp.frames import unmasked

DTYPES: Final[dict[int, np.dtype[Any]]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_MAX_RANK: Final = 32


def read_idx(path: FilePath, *, max_bytes: int | None = None) -> NDArray[Any]:
    """The array in an IDX file, gzipped (told by its first bytes) or plain, in native byte order.

    The file must be exactly what its header says: no byte missing, none left over, every dimension
    at least 1. Raises ``DataFormatError`` where it is not, or where the array would take more than
    ``max_bytes`` (by default 192 MiB of a gzipped file, anything of a plain one); no more than
    64 MiB of memory is used before the length is verified.
    """
    with open_regular(path) as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        stream = _rewound(raw, path, gzipped)
        dtype, shape = _read_header(stream, path)
        start = 4 + 4 * len(shape)
        size = math.prod(shape) * dtype.itemsize
        limit = MAX_UNPACKED if max_bytes is None and gzipped else max_bytes
        if limit is not None and size > limit:
            hint = " in a gzipped file (decompress it first)" if gzipped else ""
            raise DataFormatError(
                path,
                expected=f"at most {limit} bytes of values{hint}",
                found=f"dimensions {_times(shape)} of {_count(size)} bytes",
                offset=4,
            )
        if not gzipped:
            _check_length(os.fstat(raw.fileno()).st_size, start, size, path)
        elif size > EAGER_BYTES:
            read_exactly(stream, size, path, start, keep=False)
            stream = _rewound(raw, path, gzipped)
            read_upto(stream, start)
        values = read_exactly(stream, size, path, start)
    return values.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def write_idx(path: FilePath, array: NDArray[Any]) -> None:
    """Write ``array`` as IDX, gzipped where the name ends in ``.gz``; whole or not at all.

    The same array gives the same bytes. dtypes: uint8, int8, int16, int32, float32, float64.
    """
    array = np.asarray(unmasked(array, "array"))
    data = idx_header(array) + np.ascontiguousarray(array, _big_endian(array.dtype)).tobytes()
    with replacing(path) as file:
        if Path(path).name.endswith(".gz"):
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.write(data)
        else:
            file.write(data)


def idx_header(array: NDArray[Any]) -> bytes:
    """The bytes of an IDX file before the values of ``array``."""
    if not 1 <= array.ndim <= _MAX_RANK or not all(1 <= n < 2**32 for n in array.shape):
        raise ValueError(
            f"cannot write shape {array.shape} as IDX: it holds 1 to {_MAX_RANK} dimensions, "
            "each from 1 to 4294967295"
        )
    dtype = _big_endian(array.dtype)
    code = next(code for code, known in DTYPES.items() if known == dtype)
    return bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()


def _big_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """``dtype`` as IDX stores it."""
    stored = dtype.newbyteorder(">")
    if stored not in DTYPES.values():
        names = ", ".join(known.name for known in DTYPES.values())
        raise ValueError(f"cannot write {dtype.name} as IDX: convert it to one of {names}")
    return stored


def _rewound(raw: BinaryIO, path: FilePath, gzipped: bool) -> Stream:
    raw.seek(0)
    return Gunzip(raw, path) if gzipped else raw


def _read_header(stream: Stream, path: FilePath) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = read_upto(stream, 4)
    if len(magic) < 4:
        raise DataFormatError(
            path,
            expected="a 4-byte IDX magic number",
            found=f"{len(magic)} bytes",
            offset=len(magic),
        )
    if magic[:2] != b"\0\0":
        raise DataFormatError(
            path,
            expected="an IDX magic number, first bytes 00 00",
            found=magic[:2].hex(" "),
            offset=0,
        )
    if magic[2] not in DTYPES:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        raise DataFormatError(
            path, expected=f"an IDX dtype code ({codes})", found=f"{magic[2]:02x}", offset=2
        )
    rank = magic[3]
    if not 1 <= rank <= _MAX_RANK:
        raise DataFormatError(
            path, expected=f"1 to {_MAX_RANK} dimensions", found=str(rank), offset=3
        )
    sizes = read_upto(stream, 4 * rank)
    if len(sizes) < 4 * rank:
        raise DataFormatError(
            path,
            expected=f"{rank} dimensions of 4 bytes",
            found=f"{len(sizes)} bytes",
            offset=4 + len(sizes),
        )
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise DataFormatError(
            path,
            expected="dimensions of at least 1",
            found=_times(shape),
            offset=4 + 4 * shape.index(0),
        )
    return DTYPES[magic[2]], shape


def _check_length(length: int, start: int, size: int, path: FilePath) -> None:
    """The length of a plain file against its header."""
    if length != start + size:
        found = "a truncated file of" if length < start + size else "trailing bytes: a file of"
        raise DataFormatError(
            path,
            expected=f"a file of {_count(start + size)} bytes, as its header says",
            found=f"{found} {length}",
            offset=min(length, start + size),
        )


def _times(shape: tuple[int, ...]) -> str:
    more = " x ..." if len(shape) > 4 else ""
    return " x ".join(str(n) for n in shape[:4]) + more


def _count(n: int) -> str:
    return str(n) if n < 2**63 else "over 2^63"
