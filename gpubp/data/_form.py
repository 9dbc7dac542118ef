"""The form of a csv file, found in its first lines: delimiter, decimal mark, header, target.

What is given is taken; the rest is guessed, so that a file of numbers with its label in front, and
the csv form of MNIST, are never read otherwise. :func:`gpubp.data.read_csv` states the rules.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gpubp.classes import name_fault
from gpubp.data._files import FilePath
from gpubp.errors import DataFormatError, unknown

Task = Literal["classification", "regression"]
Target = str | int

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_SPELT: Final = {
    "comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "bar": "|", "space": " ",
}  # fmt: skip
NUMBER: Final = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")
_THOUSANDS: Final = re.compile(r"[ \t]*[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+[ \t]*")
MISSING: Final = ("", "na", "n/a", "nan", "null", "none", "?")
SWAP: Final = str.maketrans(",.", ".,")
_TARGETS: Final = ("label", "labels", "class", "target", "y")
_IN_FRONT: Final = "the first"
_BY_ELIMINATION: Final = "the last, as the first holds no labels"
_DELIMITER_LINES: Final = 20
_FIRST_CELLS: Final = 1000  # of a line, by which its delimiter, marks and names are known
_MANY: Final = 10  # numbers that count are no row of data
_AMOUNTS: Final = 20  # cells at least, to tell amounts from labels by how many differ
EXACT: Final = 2**53  # from here on floats leave out whole numbers
_SHARE: Final = 0.9  # of a column's first cells decide what it holds: the rest may be faults


@dataclass(frozen=True)
class Form:
    """How the lines of a csv file are read.

    ``names`` are the header's cells, ``None`` without a header. ``row_names``: the first column
    numbers or names the rows and is left out. ``targets`` are columns from 0; ``kind`` says what
    they hold: "numbers" (labels as they are), "words" (names of classes), "reals", or "" where
    there is no target or it is not looked at. ``why`` says how that was found. ``inputs`` are the
    columns of x where these were asked for by name; else x is made of all the others.
    """

    delimiter: str
    decimal: str
    columns: int
    names: tuple[str, ...] | None
    row_names: bool = False
    targets: tuple[int, ...] = ()
    kind: str = ""
    why: str = ""
    inputs: tuple[int, ...] = ()

    @property
    def values(self) -> NDArray[np.intp]:
        """The columns that become x."""
        if self.inputs:
            return np.array(self.inputs, np.intp)
        return np.delete(np.arange(self.columns), [*self.targets, *([0] * self.row_names)])

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """The names of the columns of x, where a header tells each from all others."""
        return self._names_of(self.values.tolist())

    @property
    def target_names(self) -> tuple[str, ...] | None:
        """The names of the columns of y, where a header tells each from all others."""
        return self._names_of(self.targets)

    def _names_of(self, columns: Sequence[int]) -> tuple[str, ...] | None:
        if self.names is None:
            return None
        names = tuple(self.names[j] for j in columns)
        return names if _tell_apart(names) else None

    @property
    def is_certain(self) -> bool:
        """Whether more than its place tells the target: asked for, a name, words among numbers, or
        labels in front where nothing has a name, as MNIST's csv form has them."""
        return self.why != _BY_ELIMINATION and (self.why != _IN_FRONT or not self.names)

    def column(self, j: int) -> str:
        """Column j in words, counted from 1 as spreadsheets do, with its name in the header."""
        if self.names is None or not self.names[j].strip():
            return f"column {j + 1}"
        return f"column {j + 1} ({shown(self.names[j])})"

    def __str__(self) -> str:
        text = DELIMITERS.get(self.delimiter, f"delimiter {self.delimiter!r}")
        text += ", decimal commas" if self.decimal == "," else ""
        text += ", no header" if self.names is None else ", a header"
        if self.names is not None and self.input_names is None:
            text += " that does not tell the inputs apart"
        return text + (", row names left out" if self.row_names else "")


def shown(text: str) -> str:
    """A cell as a sentence can show it: in quotes, short, on one line."""
    return ascii(text if len(text) <= 40 else f"{text[:40]}...")


def text_of(line: bytes) -> str:
    """A line of the file; what is not UTF-8 is taken for Latin-1, as a header may be."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def cells_of(line: str, delimiter: str) -> list[str]:
    """The cells of one line, quotes taken off. ``csv.Error`` where a quote is not closed."""
    found = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    return found or [""]


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of a line that may be faulty."""
    try:
        return cells_of(line, delimiter)
    except csv.Error:
        return line.split(delimiter)


def check_delimiter(delimiter: str | None) -> str | None:
    """One character, also by its name; ``ValueError`` for anything else."""
    if delimiter is None:
        return None
    found = _SPELT.get(delimiter, delimiter)
    if len(found) != 1 or not found.isascii() or found.isalnum() or found in '"\r\n\0+-.':
        raise ValueError(
            f"delimiter={delimiter!r} must be one character such as ',' or ';', or one of "
            f"{', '.join(name for name in _SPELT if name.isalpha())}"
        )
    return found


def check_task(task: str | None) -> None:
    if task not in (None, "classification", "regression"):
        raise unknown("task", task, ("classification", "regression"))


def is_number(cell: str, decimal: str = ".") -> bool:
    return NUMBER.fullmatch(cell if decimal == "." else cell.translate(SWAP)) is not None


def is_word(cell: str) -> bool:
    """Whether a cell can only be a name: it has a letter and does not begin as numbers do."""
    if not cell or cell[0].isdigit():
        return False  # at once, as most are
    name = cell.strip().strip("'").lower()
    return (
        any(map(str.isalpha, name))
        and not (name[0].isdigit() or name[0] in "+-.")
        and name not in (*MISSING, "inf", "infinity")
    )


def find_form(
    head: Sequence[bytes],
    path: FilePath,
    *,
    labels: bool = True,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    target: Target | Sequence[Target] | None = None,
    task: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Form:
    """The form of the file that begins with the lines ``head``; ``ValueError`` where what was
    asked for cannot be."""
    check_task(task)
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal={decimal!r} must be '.' or ','")
    lines = [text_of(line) for line in head]
    delimiter = check_delimiter(delimiter) or _delimiter(lines[:_DELIMITER_LINES])
    rows = [_cells(line, delimiter) for line in lines]
    if is_comment(rows[0][0]):
        rows[0][0] = _first_name(rows, path)
    begin = [row[:_FIRST_CELLS] for row in rows]
    decimal = decimal or _decimal(begin, delimiter)
    if header is None:
        header = _is_header(begin, decimal)
        if not header and inputs is not None and {*inputs} <= {cell.strip() for cell in rows[0]}:
            raise ValueError(
                f"the first line of {path} holds the names of the network's inputs, and may be a "
                "row of numbers: say which by header=True or header=False (--header, --no-header)"
            )
    form = Form(
        delimiter, decimal, len(rows[0]),
        names=tuple(name.strip() for name in rows[0]) if header else None,
        row_names=header and len(rows[0]) > 1 and not rows[0][0].strip(),
    )  # fmt: skip
    if inputs is not None and form.names is not None:
        form = replace(form, inputs=_input_columns(inputs, form.names, str(path)))
    if target is None and not labels:
        return form
    full = [row for row in rows[int(header) :] if len(row) == form.columns]
    if target is None:
        column, why = _guess_target(full, form)
        if form.inputs and column in form.inputs:
            column, why = _no_input(form, str(path))
        targets: tuple[int, ...] = (column,)
    else:
        wanted = [target] if isinstance(target, str | int) else list(target)
        targets, why = tuple(_column(item, form, str(path)) for item in wanted), "as asked for"
        if both := set(targets) & set(form.inputs):
            raise ValueError(
                f"target={target!r} is {form.column(min(both))} of {path}, an input of the "
                "network: name another column"
            )
        if len(set(targets)) < len(targets) or not targets:
            raise ValueError(f"target={target!r} must name columns of {path}, each once")
    kind = "" if not labels else _kind(targets, full, decimal, task, in_front=why == _IN_FRONT)
    return replace(form, targets=targets, kind=kind, why=why)


def is_comment(text: str) -> bool:
    """Whether a line may be a comment, by its beginning."""
    return text.lstrip().startswith("#")


def _first_name(rows: Sequence[Sequence[str]], path: FilePath) -> str:
    """The first cell, which begins with #: that of a header over numbers, as numpy.savetxt writes
    it, without the #. A comment is refused, as it would be taken for names or for a row."""
    below = next((row for row in rows if not is_comment(row[0])), None)
    if below is not None and (
        len(below) != len(rows[0])
        or not any(is_number(cell) or is_number(cell, ",") for cell in below)
    ):
        raise DataFormatError(
            path, expected="a header or numbers in line 1", found="a comment: remove it"
        )
    return rows[0][0].lstrip("# ")


def _tell_apart(names: Sequence[str]) -> bool:
    """Whether each is a name, and none is twice there."""
    return len(set(names)) == len(names) and not any(map(name_fault, names))


def _input_columns(inputs: Sequence[str], names: Sequence[str], path: str) -> tuple[int, ...]:
    """Where the inputs stand, found by their names in the header."""
    place = {name: j for j, name in reversed(list(enumerate(names)))}
    missing = [name for name in inputs if name not in place]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{path} has no column {', '.join(map(shown, missing[:3]))}{more}, which the network "
            "was trained on: rename columns, or give rows without a header, in the order of "
            "training"
        )
    if twice := [name for name in inputs if names.count(name) > 1]:
        raise ValueError(f"{path} has several columns {shown(twice[0])}: rename all but the input")
    return tuple(place[name] for name in inputs)


def _no_input(form: Form, path: str) -> tuple[int, str]:
    """(the only column that is no input, why that one)."""
    others = [j for j in range(int(form.row_names), form.columns) if j not in form.inputs]
    if not others:
        raise ValueError(
            f"{path} has no target column, all are inputs of the network: gpubp predict tells what "
            "it makes of them"
        )
    if len(others) > 1:
        raise ValueError(
            f"{path} has several columns that are no inputs of the network: name the target with "
            "--target"
        )
    return others[0], "the only one that is no input"


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that leaves the largest share of numbers, cells with another delimiter counting
    least; commas before others where that is equal."""
    candidates = ",;\t|"
    best, most = ",", -1.0
    for delimiter in candidates:
        rows = [_cells(line, delimiter) for line in lines]
        if len(rows[0]) < 2:
            continue
        others = re.compile(f"[{candidates.replace(delimiter, '')}]")
        mark = "," if delimiter != "," else "."

        def worth(cell: str, mark: str = mark, others: re.Pattern[str] = others) -> float:
            if is_number(cell) or is_number(cell, mark):
                return 1.0
            return 0.0 if others.search(cell) else 0.5

        cells = [cell for row in rows for cell in row[:_FIRST_CELLS]]
        share = sum(map(worth, cells)) / len(cells)
        if share > most:
            best, most = delimiter, share
    return best


def _decimal(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    """ "," where numbers have commas and none a point. Between commas "1,234" is no evidence: it
    may be a thousand."""
    commas = False
    for row in rows:
        for cell in row:
            if "." in cell and is_number(cell):
                return "."
            if "," in cell and is_number(cell, ","):
                commas = commas or delimiter != "," or _THOUSANDS.fullmatch(cell) is None
    return "," if commas else "."


def _is_header(rows: Sequence[Sequence[str]], decimal: str) -> bool:
    """Whether the first line names columns: see the rules of ``read_csv``."""
    first, rest = rows[0], rows[1:]
    there = [is_number(cell, decimal) for cell in first]
    if _is_numbered(rows, there, decimal):
        return True
    if not rest:
        return not any(there) and any(map(is_word, first))
    if is_word(first[0]) and is_number(rest[0][0], decimal):
        return True
    below = any(
        j < len(row) and is_number(row[j], decimal) for row in rest[:10] for j in range(len(first))
    )
    return not any(there) and any(map(is_word, first)) and below


def _is_numbered(rows: Sequence[Sequence[str]], there: Sequence[bool], decimal: str) -> bool:
    """Whether the first line counts the columns 0, 1, 2, ..., as pandas does without names, or from
    1, but for an index in front and a column or two with a name. A short row of data may look so
    too."""
    first, rest = rows[0], rows[1:]
    numbers = [cell.strip() for cell, number in zip(first, there, strict=True) if number]
    named = [j for j, number in enumerate(there) if not number]
    count, many = len(numbers), len(numbers) >= _MANY
    # 1, 2, 3 may well be a row of data; from 0 on it is not so likely.
    from_0, from_1 = ([*map(str, range(i, i + count))] for i in (0, 1))
    if count < 2 or len(named) > 2 or not (numbers == from_0 or (many and numbers == from_1)):
        return False
    if not first[0].strip() or many:
        return True
    below = rest[0] if rest else []
    over = [
        j for j in named
        if j < len(below) and is_word(first[j]) and is_number(below[j], decimal)
    ]  # fmt: skip
    whole = any(all(cell.strip().isdigit() for cell in row) for row in rest)
    return count >= 3 and bool(over or (rest and not whole and not named))


def _share(cells: Sequence[str], decimal: str, below: float = EXACT) -> tuple[float, float]:
    """The shares of labels (whole numbers from 0) and of numbers among the cells."""
    values = [
        float(cell if decimal == "." else cell.translate(SWAP))
        for cell in cells
        if is_number(cell, decimal)
    ]
    whole = sum(0 <= value < below and value.is_integer() for value in values)
    return whole / max(1, len(cells)), len(values) / max(1, len(cells))


def _are_amounts(cells: Sequence[str]) -> bool:
    """Whether whole numbers are amounts rather than labels: more than half of 20 or more differ,
    and some have a decimal mark or four digits."""
    values = {cell.strip() for cell in cells}
    if len(cells) < _AMOUNTS or 2 * len(values) <= len(cells):
        return False
    return any(re.fullmatch("[+]?[0-9]{1,3}", value) is None for value in values)


def _has_signs(cells: Sequence[str]) -> bool:
    """Whether the cells are -1 and 1, the labels of two classes."""
    return {cell.strip().removeprefix("+") for cell in cells} == {"-1", "1"}


def _holds_words(rows: Sequence[Sequence[str]], j: int) -> bool:
    # Some of them are looked at before all: most columns of most files are numbers.
    if not any(is_word(row[j]) for row in rows[:3]):
        return False
    return sum(is_word(row[j]) for row in rows) >= _SHARE * len(rows)


def _guess_target(rows: Sequence[Sequence[str]], form: Form) -> tuple[int, str]:
    """(the column of the target, why that one)."""
    names = [name.lower() for name in form.names or ()]
    for name in _TARGETS:
        if names.count(name) == 1:
            return names.index(name), f"by its name {shown(name)}"
    first, last = int(form.row_names), form.columns - 1
    words = (j for j in range(first, form.columns) if _holds_words(rows, j))
    found = list(islice(words, 2))
    if len(found) == 1:
        return found[0], "the only one of words"
    if last > first and rows:
        cells = [row[first] for row in rows]
        labelled, _ = _share(cells, form.decimal)
        if labelled < _SHARE and not _has_signs(cells):
            _, numbers = _share([row[last] for row in rows], form.decimal)
            return last, _BY_ELIMINATION if numbers else "the last, which holds no numbers"
    return first, _IN_FRONT


def _kind(
    targets: Sequence[int],
    rows: Sequence[Sequence[str]],
    decimal: str,
    task: str | None,
    in_front: bool,
) -> str:
    """What the target columns hold; several targets are real numbers."""
    if task == "regression" or (len(targets) > 1 and task is None):
        return "reals"
    if len(targets) > 1:
        raise ValueError("a classification has one target: name one column, or task='regression'")
    cells = [row[targets[0]] for row in rows]
    labels, numbers = _share(cells, decimal)
    if not cells or labels >= _SHARE:
        amounts = task is None and not in_front and _are_amounts(cells)
        return "reals" if amounts else "numbers"
    if _has_signs(cells):
        return "words"
    if numbers < _SHARE:
        words = task is not None or numbers == 0 or any(map(is_word, cells))
        return "words" if words else "numbers"
    whole = all(re.fullmatch(r"[+-]?[0-9]+", cell.strip()) for cell in cells)
    if task is None:  # ids too large for floats are told apart as words
        ids = whole and _share(cells, decimal, math.inf)[0] >= _SHARE and not _are_amounts(cells)
        return "words" if ids else "reals"
    return "words" if whole else "numbers"  # numbers with a fraction are refused when they are read


def _column(target: Target, form: Form, path: str) -> int:
    """The column of a target given by its name in the header or by its index."""
    if isinstance(target, str):
        if form.names is not None and form.names.count(target.strip()) == 1:
            return form.names.index(target.strip())
        if re.fullmatch(r"\s*[+-]?[0-9]+\s*", target) is None:
            if form.names is None:
                raise ValueError(
                    f"target={target!r} names a column, but {path} has no header: give an index, "
                    "0 for the first column or -1 for the last"
                )
            if form.names.count(target.strip()) > 1:
                raise ValueError(
                    f"target={target!r} names several columns of {path}: give an index"
                )
            names = [name for name in form.names if name and name.isprintable()]
            near = difflib.get_close_matches(target, names, n=1, cutoff=0.5)
            raise unknown(f"target (column of {path})", target, near or names[:10])
    index = int(target)
    if not -form.columns <= index < form.columns:
        raise ValueError(
            f"target={target!r} is not a column of {path}: it has {form.columns}, from 0 to "
            f"{form.columns - 1} or from -1 for the last to {-form.columns}"
        )
    return index % form.columns
