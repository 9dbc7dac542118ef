"""Examples from ``.npz`` files, without pickle."""

from __future__ import annotations

import ast
import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from gpubp.data._files import (
    EAGER_BYTES,
    MAX_UNPACKED,
    FilePath,
    Pair,
    Stream,
    damaged,
    open_regular,
    read_exactly,
    read_upto,
)
from gpubp.data._form import check_task
from gpubp.errors import DataFormatError
from gpubp.filekind import kind_of

# What zipfile raises for archives that lie about methods, names, versions and offsets.
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_NPY_MAGIC: Final = b"\x93NUMPY"
_NPY_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_MAX_NPY_HEADER: Final = 1024  # NumPy's own is 128 bytes for a plain array
_MAX_DIRECTORY: Final = 1 << 20  # bytes of a zip directory: some ten thousand members


def check_pair(
    path: FilePath, x: NDArray[Any], y: NDArray[Any], what: str = "", task: str | None = None
) -> Pair:
    """x as (n, n_in), y as (n,) int64, or ``DataFormatError`` where they are not examples.

    x has at least 2 axes (those after the first are flattened) and finite values; y has one axis
    of integers from 0, or for a regression one or two of finite numbers, which become floats; both
    have the same length, at least 1.
    """
    real = task == "regression"
    if y.ndim not in (1, 1 + real) or y.dtype.kind not in ("iuf" if real else "iu"):
        found = f"{y.dtype.name} of shape {y.shape}"
        wanted = (
            "targets as one or two axes of numbers" if real else "labels as one axis of integers"
        )
        hint = "" if real or y.dtype.kind != "f" else " (real targets: task 'regression')"
        raise DataFormatError(path, expected=f"{what}{wanted}", found=f"{found}{hint}")
    if x.ndim < 2 or x.dtype.kind not in "iuf":
        found = f"{x.dtype.name} of shape {x.shape}"
        raise DataFormatError(path, expected=f"{what}examples as rows of numbers", found=found)
    if len(x) != len(y):
        found = f"{len(x)} examples and {len(y)} labels"
        raise DataFormatError(path, expected=f"one label for each {what}example", found=found)
    if x.size == 0:
        found = f"shape {x.shape}"
        raise DataFormatError(path, expected=f"at least one {what}example", found=found)
    if x.dtype.kind == "f" and not (np.isfinite(x.min()) and np.isfinite(x.max())):
        raise DataFormatError(path, expected=f"finite {what}examples", found="NaN or infinity")
    if real:
        if not (y.size and np.isfinite(y.min()) and np.isfinite(y.max())):
            raise DataFormatError(path, expected=f"finite {what}targets", found="NaN or infinity")
        y = y if y.dtype in (np.float32, np.float64) else y.astype(np.float64)
        return np.ascontiguousarray(x.reshape(len(x), -1)), np.ascontiguousarray(y)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= 2**63:
        row = int(np.argmax((y < 0) | (y >= 2**63)))
        raise DataFormatError(
            path, expected=f"{what}labels from 0 to 2^63 - 1", found=f"{y[row]} in row {row}"
        )
    return np.ascontiguousarray(x.reshape(len(x), -1)), y.astype(np.int64)


def check_widths(path: FilePath, train: Pair, test: Pair) -> None:
    """Training and test examples must have the same number of inputs."""
    if train[0].shape[1] != test[0].shape[1]:
        raise DataFormatError(
            path,
            expected=f"test examples of {train[0].shape[1]} inputs, like the training examples",
            found=f"{test[0].shape[1]}",
        )


def read_npz(
    path: FilePath, *, max_bytes: int | None = None, task: str | None = None
) -> tuple[Pair, Pair | None]:
    """``(train, test)`` from the arrays of an ``.npz`` file, each (x (n, n_in), y (n,) int64), or
    with ``task="regression"`` y (n,) or (n, k) floats.

    The file holds ``x_train``, ``y_train``, ``x_test``, ``y_test`` (as Keras' mnist.npz does), or
    ``x`` and ``y`` (then ``test`` is None); other arrays are not looked at. Images are flattened;
    x keeps its dtype. No pickle is ever loaded. Raises ``DataFormatError`` for anything else, or
    where an array takes more than ``max_bytes`` (by default 192 MiB of a compressed one).
    """
    check_task(task)
    with open_regular(path) as file:
        archive = _open_archive(file, path)
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        if names >= {"x_train", "y_train", "x_test", "y_test"}:
            parts = ["_train", "_test"]
        elif names >= {"x", "y"}:
            parts = [""]
        else:
            found = ", ".join(sorted(names)) or "no arrays"
            raise DataFormatError(
                path,
                expected="arrays x, y or x_train, y_train, x_test, y_test",
                found=found if len(found) <= 80 else f"{found[:77]}...",
            )
        train, *rest = [
            check_pair(
                path,
                _read_member(archive, f"x{part}.npy", path, max_bytes),
                _read_member(archive, f"y{part}.npy", path, max_bytes),
                f"{part[1:]} " if part else "",
                task,
            )
            for part in parts
        ]
    if not rest:
        return train, None
    check_widths(path, train, rest[0])
    return train, rest[0]


def _open_archive(file: BinaryIO, path: FilePath) -> zipfile.ZipFile:
    """The zip file, once its directory is known to be small.

    ``zipfile`` believes the directory's length and the 64-bit records before it, so both are
    checked here: NumPy writes no comment and needs no 64-bit directory.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 42))
    tail = file.read()
    end = tail[-22:]
    file.seek(0)
    head = file.read(2)
    if head != b"PK" or end[:4] != b"PK\5\6" or end[-2:] != b"\0\0":
        kind = None if head == b"PK" else kind_of(path)
        raise DataFormatError(
            path,
            expected="a zip archive, whole and without comment",
            found=kind.what if kind else "something else",
        )
    directory = int.from_bytes(end[12:16], "little")
    if directory > _MAX_DIRECTORY or tail[:4] == b"PK\6\7":
        raise DataFormatError(
            path,
            expected=f"a zip directory of at most {_MAX_DIRECTORY} bytes",
            found="a 64-bit one" if tail[:4] == b"PK\6\7" else str(directory),
            offset=size - 10,
        )
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise damaged(path, error) from None
    if len(set(archive.namelist())) != len(archive.namelist()):
        raise DataFormatError(path, expected="each array once", found="two of the same name")
    return archive


def _read_member(
    archive: zipfile.ZipFile, name: str, path: FilePath, max_bytes: int | None
) -> NDArray[Any]:
    """One array of the archive; every promise of its size is checked before it is believed."""
    where = f"{path}[{name}]"
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise DataFormatError(path, expected=f"a member {name}", found="none") from None
    stored = info.compress_type == zipfile.ZIP_STORED
    if info.flag_bits & 1 or not (stored or info.compress_type == zipfile.ZIP_DEFLATED):
        found = "encryption" if info.flag_bits & 1 else f"method {info.compress_type}"
        raise DataFormatError(where, expected="a stored or deflated member", found=found)
    try:
        with archive.open(info) as stream:
            dtype, fortran, shape, start = _read_npy_header(stream, where)
            size = math.prod(shape) * dtype.itemsize
            limit = MAX_UNPACKED if max_bytes is None and not stored else max_bytes
            if limit is not None and size > limit:
                raise DataFormatError(
                    where,
                    expected=f"at most {limit} bytes of values (save larger arrays uncompressed)",
                    found=f"{dtype.name} of shape {str(shape)[:60]}",
                )
            if start + size != info.file_size:
                raise DataFormatError(
                    where,
                    expected=f"{start + size} bytes, as its header says",
                    found=f"a member of {info.file_size}",
                    offset=start,
                )
            if size <= EAGER_BYTES:
                values = read_exactly(stream, size, where, start)
        if size > EAGER_BYTES:
            for keep in (False, True):
                with archive.open(info) as stream:
                    read_upto(stream, start)
                    values = read_exactly(stream, size, where, start, keep=keep)
    except DataFormatError:
        raise
    except _ZIP_ERRORS as error:
        raise damaged(where, error) from None
    array = values.view(dtype).reshape(shape[::-1] if fortran else shape)
    return (array.T if fortran else array).astype(dtype.newbyteorder("="), order="C", copy=False)


def _read_npy_header(
    stream: Stream, where: str
) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """``(dtype, fortran order, shape, bytes before the values)``."""
    magic = read_upto(stream, 8)
    if magic[:6] != _NPY_MAGIC or magic[6:] not in (b"\1\0", b"\2\0"):
        raise DataFormatError(
            where,
            expected="an .npy array of version 1.0 or 2.0",
            found=magic.hex(" ") or "nothing",
            offset=0,
        )
    length_bytes = 2 if magic[6] == 1 else 4
    length = int.from_bytes(read_upto(stream, length_bytes), "little")
    start = 8 + length_bytes + length
    if length > _MAX_NPY_HEADER:
        raise DataFormatError(
            where,
            expected=f"an .npy header of at most {_MAX_NPY_HEADER} bytes",
            found=str(length),
            offset=8,
        )
    text = read_upto(stream, length).decode("latin1")
    try:
        header = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        header = None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise DataFormatError(
            where, expected="an .npy header", found=repr(text[:40]), offset=8 + length_bytes
        )
    descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(descr, str) or not _NPY_DTYPE.fullmatch(descr):
        pickled = isinstance(descr, str) and descr.lstrip("<>|=") == "O"
        raise DataFormatError(
            where,
            expected="real numbers of at most 8 bytes",
            found="pickled objects" if pickled else f"dtype {str(descr)[:40]}",
            offset=8 + length_bytes,
        )
    if (
        not isinstance(fortran, bool)
        or not isinstance(shape, tuple)
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
    ):
        raise DataFormatError(
            where,
            expected="a shape of at most 32 plausible dimensions and an order",
            found=f"shape {str(shape)[:40]}, fortran_order {str(fortran)[:10]}",
            offset=8 + length_bytes,
        )
    return np.dtype(descr), fortran, shape, start
