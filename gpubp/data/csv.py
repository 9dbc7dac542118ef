"""Examples from ``.csv`` and ``.tsv`` files, as spreadsheets, pandas and R write them.

Three ways to read a block of lines, the first that can: :func:`_small_integers` for images,
``numpy.loadtxt`` for what has no quotes, and Python's ``csv`` module, cell by cell, which defines
what is read and names what cannot be.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, BinaryIO, Final, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gpubp.classes import name_fault
from gpubp.data._files import FilePath, Table, open_regular
from gpubp.data._form import (
    EXACT,
    MISSING,
    SWAP,
    Form,
    Target,
    Task,
    cells_of,
    find_form,
    is_comment,
    is_number,
    is_word,
    shown,
    text_of,
)
from gpubp.errors import DataFormatError

_MNIST_VALUES: Final = 784  # a row of the well-known csv form of MNIST, beside the label
_BLOCK: Final = 1 << 20  # bytes of csv parsed at a time; no line may be longer
_HEAD_LINES: Final = 100  # by which delimiter, header and target are guessed
_HEAD_BYTES: Final = 1 << 18
_COUNTED: Final = 10  # classes with their counts in what is told of a file
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NUMERIC: Final = b"0123456789.+-eE \t"  # what a number is written with
_QUOTED: Final = re.compile(rb'"[^"]*"')
_SWAPPED: Final = bytes.maketrans(b",.", b".,")


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
def read_csv(
    path: FilePath, *, labels: Literal[True] = True, delimiter: str | None = None,
    decimal: str | None = None, header: bool | None = None,
    target: Target | Sequence[Target] | None = None, task: Task | None = None,
    inputs: Sequence[str] | None = None,
) -> Table: ...  # fmt: skip
@overload
def read_csv(
    path: FilePath, *, labels: Literal[False], delimiter: str | None = None,
    decimal: str | None = None, header: bool | None = None,
    target: Target | Sequence[Target] | None = None, inputs: Sequence[str] | None = None,
) -> NDArray[Any]: ...  # fmt: skip
def read_csv(
    path: FilePath, *, labels: bool = True, delimiter: str | None = None,
    decimal: str | None = None, header: bool | None = None,
    target: Target | Sequence[Target] | None = None, task: Task | None = None,
    inputs: Sequence[str] | None = None,
) -> Table | NDArray[Any]:  # fmt: skip
    """The pair ``(x, y)`` from the rows of a text file: x (n, n_in) float32, the values as they
    stand; y (n,) int64 labels, or for a regression float32 targets (n,), of several columns (n, k).

    The one exception to "as they stand" is the csv form of MNIST, recognised by exactly 784 values
    a row, all of them integers from 0 to 255: x is then uint8, intensities read as x/255.

    What the keywords leave open is found in the first 100 lines; ``reading`` of the pair says what
    was found. Labels in front and no header, as ever, are what these rules end with.

    * ``delimiter``: "," ";" tab or "|", the one that leaves the largest share of numbers. Cells may
      stand in double quotes; a quoted cell ends on its line.
    * ``decimal``: "," where numbers have commas and none has a point (``1,5;2,5``).
    * ``header``: the first line is one if its first cell is a word over a number, or if it has
      words and no numbers over numbers, or if it counts 0, 1, 2, ... as pandas does
      (10 columns or more, also from 1; 3 or more if no line below is all of whole numbers).
      Under an empty first name stand row names, which are left out. It may begin with #, which
      is left out, as ``numpy.savetxt`` writes it; comments are refused.
    * ``target``: the column of y, by its name or its index from 0 (-1 is the last), several for a
      regression. By default a column called label, class, target or y; else the only column of
      words; else the first; or the last where less than nine tenths of the first are labels.
    * ``task``: "classification" where the target holds words, whole numbers from 0, or -1 and 1;
      "regression" where it holds other numbers, and where it does not stand in front and more
      than half of its whole numbers differ, some of them with a decimal mark or four digits.
      Whole numbers from 0 are labels as they stand.
      Other labels, and those from 2^53 on, are numbered in their order (words sorted, numbers by
      size); ``classes`` of the
      pair has their names.

    * ``inputs``: the columns of x by their names, in that order, of a file with a header; all
      others but the target are passed over. By default all columns but the target.

    With ``labels=False`` x alone is returned: all columns, but for ``target`` where it is given.

    Nothing is filled in or left out: ``DataFormatError``, with file, line, column and byte offset,
    for missing values, rows of different length, empty lines, cells that are not finite float32
    numbers, and lines longer than 1 MiB. ``ValueError`` for keywords that do not fit the file.
    """
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[Any]] = []
    codes: dict[str, int] = {}  # names of classes, numbered as they come
    with open_regular(path) as file:
        head, first, second = _head(file, path)
        form = find_form(head, path, labels=labels, delimiter=delimiter, decimal=decimal,
                         header=header, target=target, task=task, inputs=inputs)  # fmt: skip
        line, offset = (1, first) if form.names is None else (2, second)
        if form.names is not None:
            _cells(_Block(1, first, head[:1]), head, path, form, 0)
        columns = form.values
        for block in _blocks(file, path, offset, line):
            if not columns.size:
                what = "a label and at least one value" if labels else "at least one value"
                raise block.error(path, 0, what, "one column")
            rows = [row.removesuffix(b"\r") for row in block.rows]
            table: NDArray[Any] | None = None
            if form.kind != "words":
                table = _small_integers(rows, form)
            if table is None:
                table = _unquoted(rows, form, codes)
            if table is None:
                table = _cell_by_cell(block, rows, path, form, codes)
            if form.kind:
                ys.append(_targets(block, path, form, table))
            values = _columns(table, columns)
            x = _float32(block, path, values)
            if x.shape[1] == _MNIST_VALUES and x.min() >= 0 and x.max() <= 255:
                grey = x.astype(np.uint8)
                xs.append(grey if np.array_equal(grey, values) else x)
            else:
                xs.append(x)
    if not xs:
        raise DataFormatError(path, expected="at least one row of numbers", found="only a header")
    # Blocks of both kinds join as float32: the whole file is images, or none of it is.
    x = np.concatenate(xs)
    return _described(x, np.concatenate(ys), form, codes) if form.kind else x


def form_of(path: FilePath, **form: Any) -> Form:
    """The form of the file, as ``read_csv`` finds it with these keywords."""
    with open_regular(path) as file:
        return find_form(_head(file, path)[0], path, **form)


def _head(file: BinaryIO, path: FilePath) -> tuple[list[bytes], int, int]:
    """The first lines without their ends, the offset of the first, and that of the second."""
    text = file.read(_BLOCK + 1)
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:2]:
        found = "UTF-16 or no text: save it as UTF-8"
        raise _Block(1, 0, []).error(path, 0, "text in UTF-8", found)
    start = len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0
    first, newline, _ = text[start:].partition(b"\n")
    if b"\r" in _QUOTED.sub(b"", first.removesuffix(b"\r")):
        found = "line ends of carriage returns alone: save it with those of Unix or Windows"
        raise _Block(1, start, []).error(path, 0, "lines", found)
    if not newline and len(text) > _BLOCK:
        raise _Block(1, start, []).error(path, 0, f"at most {_BLOCK} bytes", "a longer one")
    shown = text[start : start + max(len(first) + 1, _HEAD_BYTES)]
    lines = shown.split(b"\n")
    if len(lines) > 1 and (not lines[-1] or start + len(shown) < len(text) or len(text) > _BLOCK):
        lines.pop()  # empty, or cut off
    lines = [line.removesuffix(b"\r") for line in lines[:_HEAD_LINES]]
    return lines, start, start + len(first) + 1


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


def _small_integers(rows: list[bytes], form: Form) -> NDArray[np.int16] | None:
    """The cells as (len(rows), columns), where all are plain integers of 1 to 3 digits: images.

    Five times as fast as the general case.
    """
    delimiter = form.delimiter.encode()
    text = delimiter.join(rows) + delimiter
    if text.translate(None, b"0123456789" + delimiter):
        return None
    chars = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(chars == ord(delimiter))
    digits = ends.copy()  # np.diff(ends, prepend=-1) - 1, which is slow
    digits[1:] -= ends[:-1]
    digits[1:] -= 1
    row_ends = np.cumsum([len(row) + 1 for row in rows]) - 1
    if (
        digits.min() < 1
        or digits.max() > 3
        or not np.array_equal(ends[form.columns - 1 :: form.columns], row_ends)
    ):
        return None
    figure = (chars - ord("0")).astype(np.int16)
    value = figure[ends - 1]
    value += (digits >= 2) * (10 * figure[ends - 2])
    value += (digits >= 3) * (100 * figure[ends - 3])
    return value.reshape(len(rows), form.columns)


def _unquoted(rows: list[bytes], form: Form, codes: dict[str, int]) -> NDArray[np.float64] | None:
    """The cells as (len(rows), columns), words as their codes and what is not looked at as 0; or
    None where a row has quotes or is not such cells."""
    text = b"\n".join(rows)
    if b'"' in text or b"\r" in text or not all(row.strip() for row in rows):
        return None
    delimiter = form.delimiter
    if form.decimal == ",":  # "1.5" and "1,5" trade places, and so does a delimiter ","
        text, delimiter = text.translate(_SWAPPED), delimiter.translate(SWAP)

    def code(cell: str) -> int:
        name = (cell.translate(SWAP) if form.decimal == "," else cell).strip()
        if _label_fault(name):
            raise ValueError
        return codes.setdefault(name, len(codes))

    converters: dict[int | str, Any] = {0: lambda cell: 0.0} if form.row_names else {}
    for j in form.targets:
        if form.kind in ("words", ""):
            converters[j] = code if form.kind else lambda cell: 0.0
    try:
        table = np.loadtxt(
            text.decode().split("\n"), delimiter=delimiter, comments=None, ndmin=2,
            converters=converters or None,
        )  # fmt: skip
    except ValueError:  # a UnicodeDecodeError is one
        return None
    # What it takes for numbers and we do not, NaN and infinity, is found again by its value.
    finite = table.shape == (len(rows), form.columns) and np.isfinite(table).all()
    return table if finite else None


def _cell_by_cell(
    block: _Block, rows: list[bytes], path: FilePath, form: Form, codes: dict[str, int]
) -> NDArray[np.float64]:
    """The cells as (len(rows), columns); ``DataFormatError`` for the first that cannot be read."""
    table = np.zeros((len(rows), form.columns))
    numeric = np.zeros(form.columns, bool)
    numeric[form.values] = True
    numeric[list(form.targets)] = form.kind in ("numbers", "reals")
    chosen = numeric.tolist()
    for i, row in enumerate(rows):
        cells = _cells(block, rows, path, form, i)
        if form.kind == "words":
            name = cells[form.targets[0]].strip()
            fault = _label_fault(name) or (not _is_utf8(row) and "bytes that are not UTF-8")
            if fault:
                raise block.error(path, i, f"a label in {form.column(form.targets[0])}", fault)
            table[i, form.targets[0]] = codes.setdefault(name, len(codes))
        values = _floats(list(compress(cells, chosen)), form.decimal)
        if values is None:
            j = next(
                j for j, cell in enumerate(cells)
                if chosen[j] and not is_number(cell, form.decimal)
            )  # fmt: skip
            missing = cells[j].strip().lower() in MISSING
            cure = ", a missing value: fill it in or remove the line" if missing else ""
            if is_word(cells[j]) and j not in form.targets:
                cure = " (inputs are numbers; is this column the target?)"
            expected = f"a number in {form.column(j)}"
            raise block.error(path, i, expected, shown(cells[j]) + cure)
        table[i, numeric] = values
    return table


def _floats(cells: list[str], decimal: str) -> list[float] | None:
    """The cells as floats, or None where ``is_number`` denies one; all at once, as it is slow."""
    text = "".join(cells) if decimal == "." else "".join(cells).translate(SWAP)
    if not text.isascii() or text.encode().translate(None, _NUMERIC):
        return None  # what float takes besides: nan, inf, 1_0, other scripts' digits
    try:
        return list(map(float, cells if decimal == "." else [c.translate(SWAP) for c in cells]))
    except ValueError:
        return None


def _cells(block: _Block, rows: list[bytes], path: FilePath, form: Form, i: int) -> list[str]:
    """The cells of row i, as many as there are columns."""
    line = text_of(rows[i])
    try:
        cells = cells_of(line, form.delimiter)
    except csv.Error:
        if '"' in line:
            expected = "cells whose quotes are closed on the same line"
            raise block.error(path, i, expected, shown(line)) from None
        cells = line.split(form.delimiter)  # with a carriage return in it
    if len(cells) != form.columns:
        found = f"{len(cells)}" if line.strip() else "an empty line"
        if is_comment(line):
            found = "a comment: remove it"
        raise block.error(path, i, f"{form.columns} columns", found)
    return cells


def _is_utf8(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


def _label_fault(name: str) -> str | None:
    """What keeps a cell from naming a class."""
    if name.lower() in MISSING and name.lower() != "none":
        return f"{shown(name)}, a missing value: fill it in or remove the line"
    return name_fault(name)


def _columns(table: NDArray[Any], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Those columns of the table, as a view where they lie side by side."""
    if (np.diff(columns) == 1).all():
        return table[:, columns[0] : columns[-1] + 1]
    return table[:, columns]


def _float32(block: _Block, path: FilePath, table: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        x = table.astype(np.float32)
    wrong = ~np.isfinite(x).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise block.error(path, row, "finite float32 values", "a larger number")
    return x


def _targets(block: _Block, path: FilePath, form: Form, table: NDArray[Any]) -> NDArray[Any]:
    """y for the rows of one block."""
    if form.kind == "reals":
        return _float32(block, path, table[:, list(form.targets)])
    label = table[:, form.targets[0]]
    wrong = (label < 0) | (label >= EXACT) | (label != np.floor(label))
    if wrong.any():
        row = int(wrong.argmax())
        if label[row] >= EXACT:  # of two that differ, both may have been read as the same float
            wanted = f"an integer label from 0 to {EXACT - 1}"
            raise block.error(
                path, row, wanted,
                f"{label[row]:g} in {form.column(form.targets[0])} (give labels as words, or real "
                "targets with task 'regression')",
            )  # fmt: skip
        found = f"{label[row]:g} in {form.column(form.targets[0])} (is it the target, and this a "
        raise block.error(path, row, "an integer label from 0", f"{found}classification?)")
    return label.astype(np.int64)


def _described(x: NDArray[Any], y: NDArray[Any], form: Form, codes: dict[str, int]) -> Table:
    """The pair, with its classes in their order and the words that say how it was read."""
    classes: tuple[str, ...] | None = None
    where = ", ".join(map(form.column, form.targets))
    told = f"{form}; target {where}, {form.why}: "
    if form.kind == "reals":
        y = y[:, 0] if y.shape[1] == 1 else y
        words = f"{told}regression, numbers from {y.min():g} to {y.max():g}"
        return Table(x, y, None, words, form.input_names, form.target_names)
    values, counts = np.unique(y, return_counts=True)
    shown_names = [str(value) for value in values[:_COUNTED]]
    if form.kind == "words":
        try:
            classes = tuple(sorted(codes, key=int))
        except ValueError:
            classes = tuple(sorted(codes))
        place = {name: label for label, name in enumerate(classes)}
        rank = np.array([place[name] for name in codes])
        y = rank[y]
        counts, shown_names = np.bincount(y), [shown(name)[1:-1] for name in classes[:_COUNTED]]
    each = ", ".join(f"{n} {name}" for name, n in zip(shown_names, counts, strict=False))
    more = f" and {len(counts) - _COUNTED} more" if len(counts) > _COUNTED else ""
    words = f"{told}classification, examples of {each}{more}"
    return Table(x, y, classes, words, form.input_names, form.target_names)
