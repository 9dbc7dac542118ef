"""Files that lie: each is refused in one line, quickly and in little memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubp.data import load, read_csv, read_idx, read_npz
from gpubp.errors import DataFormatError

MIB = 1 << 20
ZEROS = bytes(MIB)
READERS: dict[str, Callable[[Path], Any]] = {"idx": read_idx, "npz": read_npz, "csv": read_csv}


def idx(code: int, *shape: int, values: bytes = b"") -> bytes:
    return bytes([0, 0, code, len(shape)]) + np.array(shape, ">u4").tobytes() + values


def npy(descr: str, shape: str, values: bytes = b"", *, order: str = "False") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + values


def npz(method: int = zipfile.ZIP_DEFLATED, /, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def patched(data: bytes, at: int, new: bytes) -> bytes:
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def zeros_deflated(head: bytes, mebibytes: int) -> bytes:
    """A raw deflate stream of ``head`` and zeros, made without compressing them all."""
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * mebibytes + packer.flush(zlib.Z_FINISH)


def gzip_bomb(head: bytes, mebibytes: int) -> bytes:
    crc = zlib.crc32(head)
    for _ in range(mebibytes if mebibytes < 256 else 0):  # more is refused before its end
        crc = zlib.crc32(ZEROS, crc)
    trailer = crc.to_bytes(4, "little") + ((len(head) + mebibytes * MIB) % 2**32).to_bytes(
        4, "little"
    )
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + zeros_deflated(head, mebibytes) + trailer


def npz_bomb(head: bytes, mebibytes: int, declared: int) -> bytes:
    """An archive whose x.npy unpacks to ``head`` and zeros and is declared ``declared`` long."""
    packed = zeros_deflated(head, mebibytes)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", packed)
        archive.writestr("y.npy", Y)
    data = bytearray(file.getvalue())
    for signature, method, sizes in ((b"PK\3\4", 8, 18), (b"PK\1\2", 10, 20)):
        at = data.index(signature)
        data[at + method : at + method + 2] = b"\x08\0"
        data[at + sizes + 4 : at + sizes + 8] = declared.to_bytes(4, "little")
    return bytes(data)


IMAGES = idx(8, 2, 2, 2, values=bytes(range(8)))
PACKED = gzip.compress(IMAGES, mtime=0)
X, Y = npy("|u1", "(3, 2)", bytes(6)), npy("<i8", "(3,)", bytes(24))
GOOD = npz(x=X, y=Y)
STORED = npz(zipfile.ZIP_STORED, x=X, y=Y)
MAX = 2**32 - 1
GIB_HEADER = npy("|u1", "(1024, 1048576)")
MOST_HEADER = npy("|u1", "(191, 1048576)")

# name: (kind, content, part of the message)
CASES: dict[str, tuple[str, bytes, str]] = {
    # IDX headers
    "idx empty": ("idx", b"", "expected data, found an empty file"),
    "idx one byte": ("idx", b"\0", "4-byte IDX magic number, found 1 bytes"),
    "idx three bytes": ("idx", IMAGES[:3], "found 3 bytes"),
    "idx magic only": ("idx", IMAGES[:4], "3 dimensions of 4 bytes, found 0"),
    "idx cut in dimensions": ("idx", IMAGES[:9], "byte 9: expected 3 dimensions"),
    "idx wrong magic": ("idx", patched(IMAGES, 0, b"\x12\x34"), "first bytes 00 00, found 12 34"),
    "idx text": ("idx", b"<html>not found</html>", "found 3c 68"),
    "idx little-endian magic": ("idx", b"\3\x08\0\0" + IMAGES[4:], "found 03 08"),
    "idx dtype 0": ("idx", patched(IMAGES, 2, b"\0"), "IDX dtype code"),
    "idx dtype 0a": ("idx", patched(IMAGES, 2, b"\x0a"), "found 0a"),
    "idx dtype ff": ("idx", patched(IMAGES, 2, b"\xff"), "found ff"),
    "idx rank 0": ("idx", idx(8) + b"\0", "1 to 32 dimensions, found 0"),
    "idx rank 255": ("idx", idx(8, *[1] * 255) + b"\0", "1 to 32 dimensions, found 255"),
    "idx zero dimension": ("idx", idx(8, 2, 0, 2), "byte 8: expected dimensions of at least 1"),
    "idx zero among huge": ("idx", idx(8, 0, MAX, MAX), "dimensions of at least 1"),
    # IDX lengths
    "idx no values": ("idx", IMAGES[:16], "truncated file of 16"),
    "idx one value short": ("idx", IMAGES[:-1], "truncated file of 23"),
    "idx one byte over": ("idx", IMAGES + b"\0", "trailing bytes: a file of 25"),
    "idx two joined": ("idx", IMAGES * 2, "trailing bytes: a file of 48"),
    "idx more images than bytes": ("idx", idx(8, 60000, 28, 28, values=bytes(784)), "truncated"),
    "idx negative-looking": ("idx", idx(8, MAX - 1, 1, values=b"\0"), "a file of 4294967306 bytes"),
    "idx product beyond 64 bits": ("idx", idx(8, MAX, MAX, MAX, values=b"\0"), "truncated"),
    "idx product 2^64": ("idx", idx(8, 2**16, 2**16, 2**16, 2**16), "truncated"),
    "idx itemsize matters": ("idx", idx(0x0E, 2, values=bytes(15)), "expected a file of 24"),
    # gzip
    "gz magic only": ("idx", PACKED[:2], "found a truncated file"),
    "gz header only": ("idx", PACKED[:10], "found a truncated file"),
    "gz cut in the data": ("idx", PACKED[:20], "found a truncated file"),
    "gz without trailer": ("idx", PACKED[:-8], "found a truncated file"),
    "gz cut in the trailer": ("idx", PACKED[:-1], "found a truncated file"),
    "gz wrong crc": ("idx", patched(PACKED, -8, b"\0\0\0\0"), "incorrect data check"),
    "gz wrong length": ("idx", patched(PACKED, -4, b"\0\0\0\0"), "incorrect length check"),
    "gz wrong method": ("idx", patched(PACKED, 2, b"\7"), "unknown compression method"),
    "gz bad block": ("idx", patched(PACKED, 10, b"\xff\xff"), "intact compressed stream"),
    "gz trailing garbage": ("idx", PACKED + b"garbage", "bytes after the stream"),
    "gz trailing zeros": ("idx", PACKED + bytes(512), "bytes after the stream"),
    "gz two members": ("idx", PACKED * 2, "bytes after the stream"),
    "gz of nothing": ("idx", gzip.compress(b""), "found 0 bytes"),
    "gz of gz": ("idx", gzip.compress(PACKED), "found 1f 8b"),
    "gz of a short file": ("idx", gzip.compress(IMAGES[:-1]), "8 bytes of values, found only 7"),
    "gz of a long file": ("idx", gzip.compress(IMAGES + b"\0"), "byte 24: expected the end"),
    "gz overflow": ("idx", gzip.compress(idx(8, *[MAX] * 32)), "over 2^63 bytes"),
    "gz header claims 48 MiB": ("idx", gzip.compress(idx(8, 48, MIB)), "found only 0"),
    "gz bomb after the values": ("idx", gzip_bomb(IMAGES, 1024), "trailing bytes"),
    "gz bomb, honest": ("idx", gzip_bomb(idx(8, 1024, MIB), 1024), "at most 201326592 bytes"),
    "gz bomb, short": ("idx", gzip_bomb(idx(8, 180, MIB), 179), "found only 187695104"),
    # npz: the archive
    "npz empty": ("npz", b"", "an empty file"),
    "npz text": ("npz", b"this is no archive, it only says so" * 2, "zip archive"),
    "npz is npy": ("npz", X, "zip archive"),
    "npz truncated": ("npz", GOOD[:-10], "zip archive"),
    "npz cut in half": ("npz", GOOD[: len(GOOD) // 2], "zip archive"),
    "npz trailing bytes": ("npz", GOOD + b"more", "zip archive"),
    "npz leading bytes": ("npz", b"more" + GOOD, "zip archive"),
    "npz without arrays": ("npz", npz(), "found no arrays"),
    "npz directory too long": ("npz", patched(GOOD, -10, b"\xff\xff\xff\x7f"), "zip directory of"),
    "npz directory misplaced": ("npz", patched(GOOD, -6, b"\xff\xff\xff\x0f"), "intact"),
    "npz directory destroyed": ("npz", GOOD.replace(b"PK\1\2", b"PK\0\0"), "intact"),
    "npz 64-bit directory": (
        "npz",
        GOOD[:-22] + b"PK\6\7" + bytes(16) + GOOD[-22:],
        "found a 64-bit one",
    ),
    "npz member missing": ("npz", npz(x=X), "arrays x, y or x_train"),
    "npz half a split": ("npz", npz(x_train=X, y_train=Y), "found x_train, y_train"),
    "npz bzip2": ("npz", npz(zipfile.ZIP_BZIP2, x=X, y=Y), "found method 12"),
    "npz encrypted": (
        "npz",
        patched(GOOD, GOOD.index(b"PK\1\2") + 8, b"\1"),
        "found encryption",
    ),
    "npz corrupted crc": (
        "npz",
        patched(STORED, STORED.index(b"(3, 2)") + 12, b"\xff"),
        "Bad CRC-32",
    ),
    "npz local header destroyed": ("npz", GOOD[:4] + b"\xff" * 26 + GOOD[30:], "intact"),
    # npz: the arrays in it
    "npz member empty": ("npz", npz(x=b"", y=Y), "[x.npy], byte 0: expected an .npy array"),
    "npz member text": ("npz", npz(x=b"hello world", y=Y), "an .npy array of version"),
    "npz version 9": ("npz", npz(x=patched(X, 6, b"\x09"), y=Y), "version 1.0 or 2.0"),
    "npz header cut": ("npz", npz(x=X[:40], y=Y), "expected an .npy header"),
    "npz header no dict": ("npz", npz(x=b"\x93NUMPY\1\0\x02\x00[]", y=Y), "found '[]'"),
    "npz header 4 GiB": ("npz", npz(x=b"\x93NUMPY\2\0" + b"\xff" * 4, y=Y), "found 4294967295"),
    "npz header nested": (
        "npz",
        npz(x=b"\x93NUMPY\1\0\x00\x04" + b"-" * 1024, y=Y),
        "expected an .npy header",
    ),
    "npz pickled": (
        "npz",
        npz(x=npy("|O", "(1,)", pickle.dumps([1])), y=Y),
        "found pickled objects",
    ),
    "npz structured": ("npz", npz(x=npy("<f4,<f4", "(3,)", bytes(24)), y=Y), "real numbers"),
    "npz complex": ("npz", npz(x=npy("<c8", "(3, 1)", bytes(24)), y=Y), "found dtype <c8"),
    "npz text array": ("npz", npz(x=npy("<U2", "(3, 1)", bytes(24)), y=Y), "found dtype <U2"),
    "npz shape too large": ("npz", npz(x=npy("|u1", "(4, 2)", bytes(6)), y=Y), "as its header"),
    "npz shape too small": ("npz", npz(x=npy("|u1", "(2, 2)", bytes(6)), y=Y), "as its header"),
    "npz shape negative": ("npz", npz(x=npy("|u1", "(-3, -2)", bytes(6)), y=Y), "plausible"),
    "npz shape overflow": ("npz", npz(x=npy("|u1", f"({MAX}, {MAX})"), y=Y), "at most 201326592"),
    "npz shape huge": ("npz", npz(x=npy("|u1", f"(0, {2**80})"), y=Y), "plausible dimensions"),
    "npz shape of text": ("npz", npz(x=npy("|u1", "'ab'"), y=Y), "plausible dimensions"),
    "npz order of text": ("npz", npz(x=npy("|u1", "(3, 2)", bytes(6), order="'C'"), y=Y), "order"),
    "npz bomb, honest": ("npz", npz_bomb(GIB_HEADER, 1024, 1024 * MIB), "save larger arrays"),
    "npz bomb, declared small": ("npz", npz_bomb(X, 1024, len(X)), "Bad CRC-32"),
    "npz bomb, short": (
        "npz",
        npz_bomb(MOST_HEADER, 180, len(MOST_HEADER) + 191 * MIB),
        "intact compressed stream",
    ),
    # npz: what the arrays mean
    "npz counts differ": ("npz", npz(x=X, y=npy("<i8", "(2,)", bytes(16))), "3 examples and 2"),
    "npz labels 2-D": ("npz", npz(x=X, y=npy("<i8", "(3, 1)", bytes(24))), "one axis of integers"),
    "npz labels float": ("npz", npz(x=X, y=npy("<f8", "(3,)", bytes(24))), "found float64"),
    "npz labels negative": ("npz", npz(x=X, y=npy("|i1", "(3,)", b"\0\xff\0")), "found -1"),
    "npz labels beyond int64": (
        "npz",
        npz(x=X, y=npy("<u8", "(3,)", b"\xff" * 24)),
        "found 18446744073709551615",
    ),
    "npz x 1-D": ("npz", npz(x=npy("|u1", "(3,)", bytes(3)), y=Y), "examples as rows of numbers"),
    "npz x boolean": ("npz", npz(x=npy("|b1", "(3, 2)", bytes(6)), y=Y), "found bool"),
    "npz no rows": ("npz", npz(x=npy("|u1", "(0, 2)"), y=npy("<i8", "(0,)")), "at least one"),
    "npz no columns": ("npz", npz(x=npy("|u1", "(3, 0)"), y=Y), "at least one example"),
    "npz NaN": (
        "npz",
        npz(x=npy("<f4", "(3, 1)", np.array([0, np.nan, 1], "<f4").tobytes()), y=Y),
        "finite examples",
    ),
    "npz infinity": (
        "npz",
        npz(x=npy("<f8", "(3, 1)", np.array([0, 1, -np.inf], "<f8").tobytes()), y=Y),
        "finite examples",
    ),
    "npz widths differ": (
        "npz",
        npz(x_train=X, y_train=Y, x_test=npy("|u1", "(3, 1)", bytes(3)), y_test=Y),
        "test examples of 2 inputs",
    ),
    # csv
    "csv empty": ("csv", b"", "an empty file"),
    "csv header only": ("csv", b"label,p0,p1\n", "found only a header"),
    "csv one column": ("csv", b"1\n2\n", "a label and at least one value in line 1"),
    "csv blank first line": ("csv", b"\n1,2\n", "in line 1"),
    "csv ragged, short": ("csv", b"1,2,3\n4,5\n", "byte 6: expected 3 columns in line 2, found 2"),
    "csv ragged, long": ("csv", b"label,p\n1,2\n4,5,6\n", "byte 12: expected 2 columns in line 3"),
    "csv ragged, evened out": ("csv", b"1,2,3\n4,5\n6,7,8,9\n", "3 columns in line 2"),
    "csv blank line": ("csv", b"1,2\n\n3,4\n", "line 2, found an empty line"),
    "csv blank line at the end": ("csv", b"1,2\n3,4\n\n", "line 3, found an empty line"),
    "csv empty cell": ("csv", b"1,2,3\n4,,5\n", "a number in column 2 in line 2, found ''"),
    "csv trailing comma": ("csv", b"label,p\n1,2,\n", "2 columns in line 2, found 3"),
    "csv word": ("csv", b"1,2\n3,four\n", "column 2 in line 2, found 'four'"),
    "csv word after floats": ("csv", b"1,2.5\r\n3,x\r\n", "byte 7: expected a number in column 2"),
    "csv NaN": ("csv", b"1,2\n3,nan\n", "found 'nan'"),
    "csv infinity": ("csv", b"1,-inf\n", "found '-inf'"),
    "csv NaN label": ("csv", b"nan,1\n", "a number in column 1 in line 1, found 'nan'"),
    "csv beyond float32": ("csv", b"1,2\n3,1e39\n", "finite float32 values in line 2"),
    "csv beyond float64": ("csv", b"1,2\n3,1e999\n", "finite float32 values in line 2"),
    "csv hexadecimal": ("csv", b"1,0x10\n", "found '0x10'"),
    "csv underscore": ("csv", b"1,1_0\n", "found '1_0'"),
    "csv two signs": ("csv", b"1,--1\n", "found '--1'"),
    # Where most of the first column are labels: else the last column would be the target.
    "csv float label": (
        "csv",
        b"1,2\n" * 9 + b"1.5,2\n",
        "integer label from 0 in line 10, found 1.5 in column 1",
    ),
    "csv negative label": ("csv", b"1,2\n" * 9 + b"-1,2\n", "found -1 in column 1"),
    "csv huge label": ("csv", b"1,2\n" * 9 + b"1e300,2\n", "found 1e+300 in column 1"),
    "csv float label far below": ("csv", b"1,2.5\n" * 5000 + b"1.5,2\n", "line 5001, found 1.5"),
    "csv quote not closed": ("csv", b'1,2\n3,"4\n5,6\n', "closed on the same line in line 2"),
    "csv quoted line end": ("csv", b'n,"a\nb"\n1,2\n', "closed on the same line in line 1"),
    "csv words after a quote": ("csv", b'1,2\n3,"4"5\n', "closed on the same line in line 2"),
    "csv NA": ("csv", b"1,2\n3,NA\n", "found 'NA', a missing value: fill it in or remove the line"),
    "csv missing, named": ("csv", b"n;p;q\n1;2;3\n4;;5\n", "column 2 ('p') in line 3, found ''"),
    "csv missing label": (
        "csv",
        b"1,2,a\n3,4,\n" + b"1,2,b\n" * 9,
        "a label in column 3 in line 2",
    ),
    "csv label of escapes": ("csv", b"1,a\n2,\x1b[2Jb\n", "characters that are not printed"),
    "csv label of 300": ("csv", b"1,a\n2," + b"b" * 300 + b"\n", "300 characters"),
    "csv label in Latin-1": ("csv", b"1,caf\xe9\n2,th\xe9\n", "found bytes that are not UTF-8"),
    "csv two columns of words": (
        "csv",
        b"1,a,b\n2,c,d\n",
        "column 2 in line 1, found 'a' (inputs are numbers; is this column the target?)",
    ),
    "csv words in a column of numbers": ("csv", b"0,1,four\n1,2,3\n", "found 'four' (inputs are"),
    "csv decimal commas and points": ("csv", b"1;2,5\n2;3.5\n", "column 2 in line 1, found '2,5'"),
    "csv pandas header, short line": ("csv", b"0,1,2,n\n5,6\n", "4 columns in line 2, found 2"),
    "csv thousands": ("csv", b'1,"1,234"\n2,"2,345"\n', "column 2 in line 1, found '1,234'"),
    "csv thousands, European": (
        "csv",
        b"1;1.234,5\n2;3,5\n",
        "column 2 in line 1, found '1.234,5'",
    ),
    "csv tab too many": ("csv", b"1\t2\n3\t4\t\n", "2 columns in line 2, found 3"),
    "csv UTF-16 unmarked": ("csv", "1,2\n3,4\n".encode("utf-16-le"), "save it as UTF-8"),
    "csv NUL": ("csv", b"1,2\n3,\x00\n", "column 2 in line 2"),
    "csv binary": ("csv", bytes(range(1, 256)) * 4, "in line 1"),
    "csv UTF-16": ("csv", "1,2\n3,4\n".encode("utf-16"), "UTF-8 in line 1, found UTF-16"),
    "csv old line ends": ("csv", b"1,2\r3,4\r", "found line ends of carriage returns alone"),
    "csv endless line": ("csv", b"1," + b"2," * MIB * 2, "at most 1048576 bytes in line 1"),
    "csv fault after many quotes": (
        "csv",
        (b'"1"' + b',"234"' * 999 + b"\n") * 150 + b"3\n",
        "expected 1000 columns in line 151, found 1",
    ),
    "csv line of commas": ("csv", b"," * (MIB - 2) + b"\n1\n", "in line 1"),
    "csv line of numbers": ("csv", b"1" + b",2" * (MIB // 2 - 2) + b"\n1\n", "in line 2, found 1"),
    "csv line of quotes": ("csv", b'"' * (MIB - 2) + b"\n1\n", "in line 1"),
    "csv fault in a later block": (
        "csv",
        (b"1" + b",234" * 999 + b"\n") * 1000 + b"3\n",
        "byte 3998000: expected 1000 columns in line 1001, found 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_refused_in_one_line_at_once_in_little_memory(case: str, tmp_path: Path) -> None:
    kind, content, message = CASES[case]
    path = tmp_path / f"file.{kind}"
    path.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(DataFormatError) as caught:
        READERS[kind](path)
    seconds = time.process_time() - begin
    tracemalloc.start()
    try:
        with contextlib.suppress(DataFormatError):
            READERS[kind](path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    error = caught.value
    assert message in str(error)
    assert str(error).startswith(str(path))
    assert "\n" not in str(error)
    assert len(str(error)) <= len(str(path)) + 200
    assert error.expected
    assert error.found
    assert seconds <= 1.0
    assert peak <= 64 * MIB


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("kind", READERS)
def test_a_directory_is_no_file(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="expected a file, found a directory"):
        READERS[kind](tmp_path)


@pytest.mark.parametrize("kind", READERS)
def test_a_device_is_no_file(kind: str) -> None:
    with pytest.raises(DataFormatError, match="expected a file, found a device"):
        READERS[kind](Path("/dev/zero"))


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent: check the name"):
        READERS[kind](tmp_path / "absent")


FOLDER = {
    "train-images-idx3-ubyte": idx(8, 3, 2, 2, values=bytes(12)),
    "train-labels-idx1-ubyte": idx(8, 3, values=bytes(3)),
    "t10k-images-idx3-ubyte": idx(8, 2, 2, 2, values=bytes(8)),
    "t10k-labels-idx1-ubyte": idx(8, 2, values=bytes(2)),
}
FOLDER_CASES = {
    "images of rank 2": ("train-images-idx3-ubyte", idx(8, 3, 4, values=bytes(12)), "with 3 axes"),
    "labels of rank 3": ("t10k-labels-idx1-ubyte", idx(8, 2, 1, 1, values=bytes(2)), "with 1 axis"),
    "images are floats": ("t10k-images-idx3-ubyte", idx(13, 2, 2, 2, values=bytes(32)), "float32"),
    "labels are signed": ("train-labels-idx1-ubyte", idx(9, 3, values=bytes(3)), "found int8"),
    "too few labels": ("train-labels-idx1-ubyte", idx(8, 2, values=bytes(2)), "3 examples and 2"),
    "too many labels": ("t10k-labels-idx1-ubyte", idx(8, 3, values=bytes(3)), "2 examples and 3"),
    "widths differ": ("t10k-images-idx3-ubyte", idx(8, 2, 2, 3, values=bytes(12)), "of 4 inputs"),
    "images cut": ("train-images-idx3-ubyte", FOLDER["train-images-idx3-ubyte"][:-1], "truncated"),
    "labels empty": ("t10k-labels-idx1-ubyte", b"", "an empty file"),
}


@pytest.mark.parametrize("case", FOLDER_CASES)
def test_a_folder_with_one_wrong_file_is_refused(case: str, tmp_path: Path) -> None:
    name, content, message = FOLDER_CASES[case]
    for file, good in {**FOLDER, name: content}.items():
        (tmp_path / file).write_bytes(good)
    with pytest.raises(DataFormatError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("idx", IMAGES),
        ("idx", PACKED),
        ("npz", GOOD),
        ("npz", STORED),
        ("csv", b"1,2.5\n3,-4\n"),
        ("csv", b'"n";l\n"1,5";"a;"";b"\n-2;b\n'),
    ],
    ids=["idx", "idx.gz", "npz", "npz stored", "csv", "csv quoted"],
)
def test_damage_anywhere_is_refused_or_harmless(
    kind: str, good: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    """Bytes overwritten, cut or inserted anywhere: the file is read, or ``DataFormatError``."""
    at = data.draw(st.integers(0, len(good) - 1))
    new = data.draw(st.binary(max_size=4))
    removed = data.draw(st.sampled_from([0, 1, len(new), len(good)]))
    path = tmp_path / "file"
    path.write_bytes(good[:at] + new + good[at + removed :])
    with contextlib.suppress(DataFormatError):
        READERS[kind](path)
