"""Examples from ``.csv`` files of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gpubp.data._files import FilePath, Pair, open_regular
from gpubp.errors import DataFormatError

_MNIST_VALUES: Final = 784  # a row of the well-known csv form of MNIST, beside the label
_BLOCK: Final = 1 << 20  # bytes of csv parsed at a time; no line may be longer
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NUMBER: Final = re.compile(rb"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")


class _Block(NamedTuple):
    """Consecutive rows of a csv file, with the line number and byte offset of the first."""

    line: int
    offset: int
    rows: list[bytes]

    def error(self, path: FilePath, row: int, expected: str, found: str) -> DataFormatError:
        offset = self.offset + sum(len(text) + 1 for text in self.rows[:row])
        place = f" in line {self.line + row}"
        return DataFormatError(path, expected=expected + place, found=found, offset=offset)


@overload
def read_csv(path: FilePath, *, labels: Literal[True] = True) -> Pair: ...
@overload
def read_csv(path: FilePath, *, labels: Literal[False]) -> NDArray[Any]: ...
def read_csv(path: FilePath, *, labels: bool = True) -> Pair | NDArray[Any]:
    """``(x (n, n_in), y (n,) int64)`` from rows ``label, v1, v2, ...`` of comma-separated numbers.

    With ``labels=False`` the rows are ``v1, v2, ...`` and x alone is returned. x is float32, the
    values as they stand. The one exception is the csv form of MNIST, recognised by exactly 784
    values a row, all of them integers from 0 to 255: x is then uint8, intensities read as x/255.
    Labels are integers from 0. A first line whose first cell is a word is a header and is skipped.
    Raises ``DataFormatError`` with line and byte offset for rows of different length, empty lines,
    cells that are not finite float32 numbers, and lines longer than 1 MiB.
    """
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[np.int64]] = []
    with open_regular(path) as file:
        first = file.readline(_BLOCK)
        mark = len(_BYTE_ORDER_MARK) if first.startswith(_BYTE_ORDER_MARK) else 0
        columns = first.count(b",") + 1
        header = _is_word(first[mark:].split(b",")[0])
        for block in _blocks(file, path, len(first) if header else mark, 2 if header else 1):
            if labels and columns < 2:
                raise block.error(path, 0, "a label and at least one value", "one column")
            rows = [row.removesuffix(b"\r") for row in block.rows]
            table: NDArray[Any] | None = _small_integers(rows, columns)
            if table is None:
                table = _numbers(rows, columns)
            if table is None:
                raise block.error(path, *_fault(rows, columns))
            if labels:
                label, table = table[:, 0], table[:, 1:]
                wrong = (label < 0) | (label > 2**53) | (label != np.floor(label))
                if wrong.any():
                    row = int(wrong.argmax())
                    raise block.error(path, row, "an integer label from 0", f"{label[row]:g}")
                ys.append(label.astype(np.int64))
            with np.errstate(over="ignore"):
                x = table.astype(np.float32)
            wrong = ~np.isfinite(x).all(axis=1)
            if wrong.any():
                row = int(wrong.argmax())
                raise block.error(path, row, "finite float32 values", "a larger number")
            if x.shape[1] == _MNIST_VALUES and x.min() >= 0 and x.max() <= 255:
                grey = x.astype(np.uint8)
                xs.append(grey if np.array_equal(grey, table) else x)
            else:
                xs.append(x)
    if not xs:
        raise DataFormatError(path, expected="at least one row of numbers", found="only a header")
    # Blocks of both kinds join as float32: the whole file is images, or none of it is.
    return (np.concatenate(xs), np.concatenate(ys)) if labels else np.concatenate(xs)


def _blocks(file: BinaryIO, path: FilePath, offset: int, line: int) -> Iterator[_Block]:
    """The rest of the file from ``offset`` on, in blocks of whole lines of about a mebibyte."""
    file.seek(offset)
    rest = b""
    while text := file.read(_BLOCK):
        whole, newline, tail = (rest + text).rpartition(b"\n")
        if newline:
            block = _Block(line, offset, whole.split(b"\n"))
            yield block
            line += len(block.rows)
            offset += len(whole) + 1
        rest = tail
        if len(rest) > _BLOCK:
            found = "a longer one"
            raise _Block(line, offset, []).error(path, 0, f"at most {_BLOCK} bytes", found)
    if rest:
        yield _Block(line, offset, [rest])


def _is_word(cell: bytes) -> bool:
    name = cell.strip(b" \t\r\n\"'").lower()
    return name[:1].isalpha() and name not in (b"nan", b"inf", b"infinity")


def _small_integers(rows: list[bytes], columns: int) -> NDArray[np.int16] | None:
    """The cells as (len(rows), columns), where all are plain integers of 1 to 3 digits: images.

    Five times as fast as the general case.
    """
    text = b",".join(rows) + b","
    if text.translate(None, b"0123456789,"):
        return None
    chars = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(chars == ord(","))
    digits = np.diff(ends, prepend=-1) - 1
    row_ends = np.cumsum([len(row) + 1 for row in rows]) - 1
    if (
        digits.min() < 1
        or digits.max() > 3
        or not np.array_equal(ends[columns - 1 :: columns], row_ends)
    ):
        return None
    figure = (chars - ord("0")).astype(np.int16)
    value = figure[ends - 1]
    value += np.where(digits >= 2, 10 * figure[ends - 2], 0)
    value += np.where(digits >= 3, 100 * figure[ends - 3], 0)
    return value.reshape(len(rows), columns)


def _numbers(rows: list[bytes], columns: int) -> NDArray[np.float64] | None:
    """The cells as (len(rows), columns), or None where a row is not ``columns`` numbers."""
    if not all(row.strip() for row in rows):
        return None
    if b"".join(rows).translate(None, b"0123456789,.+-eE \t"):
        return None
    try:
        table = np.loadtxt(
            [row.decode("ascii") for row in rows], delimiter=",", comments=None, ndmin=2
        )
    except ValueError:
        return None
    return table if table.shape == (len(rows), columns) else None


def _fault(rows: list[bytes], columns: int) -> tuple[int, str, str]:
    """The first row that is not ``columns`` numbers: its index, what was expected and found."""
    for i, row in enumerate(rows):
        cells = row.split(b",")
        if len(cells) != columns:
            return i, f"{columns} columns", f"{len(cells)}" if row.strip() else "an empty line"
        for j, cell in enumerate(cells):
            if not _NUMBER.fullmatch(cell):
                text = cell if len(cell) <= 40 else cell[:40] + b"..."
                return i, f"a number in column {j + 1}", ascii(text.decode("latin1"))
    raise AssertionError("every row is numbers")
