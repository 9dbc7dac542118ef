"""What people hold their data in that is no plain array of numbers: DataFrames, masks, words.

Each is taken where its values are numbers, all of them there, and answered with one sentence where
they are not; ``name`` is the argument's name in it.
"""

from __future__ import annotations

import numbers
import reprlib
from contextlib import suppress
from typing import Any

import numpy as np

NUMERIC = "biuf"  # the kinds of NumPy's dtypes that are real numbers
_NUMBERS = numbers.Real | np.bool_  # what an object that is a number is


def columns_of(value: Any) -> list[tuple[Any, Any]]:
    """(name, column) for each column of a DataFrame of pandas or polars; [] of anything else."""
    if hasattr(value, "get_columns"):
        return [(column.name, column) for column in value.get_columns()]
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return [(name, value.iloc[:, i]) for i, name in enumerate(value.columns)]
    return []


def column_in(value: Any, index: int) -> str:
    """ ", column 'age'" for a DataFrame; nothing for what has no named columns."""
    columns = columns_of(value)
    return f", column {reprlib.repr(columns[index][0])}" if columns else ""


def has_times(value: Any) -> bool:
    """Whether a DataFrame has a column of dates or times, of which polars makes numbers."""
    return any(np.asarray(column[:0]).dtype.kind in "mM" for _, column in columns_of(value))


def unmasked(value: Any, name: str) -> Any:
    """``value``, or of a masked array, or a list of such, its values if none is masked."""
    if isinstance(value, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in value):
        with suppress(ValueError):  # rows of several lengths: for np.asarray to refuse
            value = np.ma.array(value)  # np.asarray would forget the masks
    if not isinstance(value, np.ma.MaskedArray):
        return value
    mask = np.ma.getmaskarray(value)
    if mask.any():
        row = f", first in row {_row(mask)}" if mask.ndim else ""
        raise ValueError(
            f"{name} has masked values{row}: remove such rows, or put values in their place with "
            f"{_variable(name)}.filled(...)"
        )
    return value.data


def numeric_columns(value: Any, name: str) -> Any:
    """A DataFrame as an array of the dtype that its columns have in common, each made an array by
    itself: pandas makes objects of numbers as soon as nullable columns or bools are among them."""
    arrays, pandas = [], hasattr(value, "iloc")
    for label, column in columns_of(value):
        array, place = np.asarray(column), f"column {reprlib.repr(label)}"
        if array.dtype.kind not in NUMERIC:
            absent = np.asarray(column.isna() if pandas else column.is_null(), bool)
            if absent.any() and all(isinstance(v, _NUMBERS) for v in array[~absent]):
                raise ValueError(
                    f"{name} has no value in row {absent.argmax()}, {place}: remove or fill such "
                    "rows"
                )
            dummies = "pandas.get_dummies" if pandas else "its to_dummies()"
            raise TypeError(
                f"{name} holds {place} of {column.dtype}, not numbers: convert it to numbers or "
                f"leave it out; of words, {dummies} makes columns of 0 and 1"
            )
        arrays.append(array)
    return np.stack(arrays, axis=1)


def not_numbers(array: Any, name: str) -> Exception:
    """The answer to an array that holds something else than numbers."""
    return TypeError(f"{name} holds {array.dtype}, not numbers: convert it to float or uint8")


def not_labels(array: Any, name: str) -> Exception:
    """The answer to labels that are no numbers: how to number them, where they are words."""
    values = array.ravel()
    if array.dtype.kind not in "OUST" or not array.ndim or values.size != len(array):
        return not_numbers(array, name)
    if array.dtype.kind == "O":
        for i, value in enumerate(values):
            if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
                return ValueError(f"{name} has no label in row {i}: remove such rows from x and y")
        if all(isinstance(value, _NUMBERS) for value in values):
            return TypeError(
                f"{name} holds numbers as objects: convert it with astype(int) for labels or "
                "astype(float) for targets"
            )
    variable = _variable(name)
    flat = variable if array.ndim == 1 else f"np.ravel({variable})"
    word = reprlib.repr(values.tolist()[0])
    return TypeError(
        f"{name} holds labels such as {word} ({array.dtype}), not numbers: "
        f"number them with classes, {variable} = np.unique({flat}, return_inverse=True), and those "
        f"of other examples with np.searchsorted(classes, {flat}); classes[net.predict(x)] are "
        "the predicted ones"
    )


def _row(flags: Any) -> int:
    """The first row in which one of these is true."""
    return int(np.argmax(flags.reshape(len(flags), -1).any(axis=1)))


def _variable(name: str) -> str:
    """The argument as code: "y" of "validation y"."""
    return name.split()[-1]
