"""What users hand in, checked and made ready: inputs x, labels or targets y, sizes, counts.

uint8 stands for image intensities and is read as x/255 everywhere; it stays uint8 in memory until
the rows of a mini-batch are gathered. Every other dtype is taken as it is. Each check answers bad
input with one sentence; ``name`` is the argument's name in it.

What comes from the host is checked there and stays there, also for a network on a GPU: it is copied
over where it is used, a part at a time, as it may be more than the GPU holds.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np

from .errors import IntensityWarning
from .frames import (
    NUMERIC,
    column_in,
    columns_of,
    has_times,
    not_labels,
    not_numbers,
    numeric_columns,
    unmasked,
)

_CHUNK_BYTES = 32 << 20  # evaluation and checks look at no more than this at once
_SAMPLE_ROWS, _SAMPLE_VALUES = 64, 4096  # at least, of the values looked at before all are
_DLPACK_CUDA = (2, 13)  # DLPack's numbers for device and managed memory of CUDA


def as_array(xp: ModuleType, value: Any, name: str, *, labels: bool = False) -> Any:
    """``value`` as an array where it is: of NumPy on the host, of ``xp`` on the network's GPU.

    Masked values are refused; a DataFrame's columns are each made an array of numbers, also those
    of nullable types. ``labels``: words are answered with how to number them.
    """
    if _on_gpu(value):
        if xp is np:
            raise TypeError(
                f"{name} lives on a GPU and this network on the CPU: copy it to the host first, "
                "or build the network with backend='cuda'"
            )
        cuda_array = hasattr(value, "__cuda_array_interface__")
        array = xp.asarray(value) if cuda_array else xp.from_dlpack(value)
        if array.device != xp.cuda.Device():
            array = array.copy()  # to the current device, which is the network's
    elif hasattr(value, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix: only x may be; pass {name}.toarray()")
    elif hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
        value = unmasked(value, name)
        try:
            array = np.asarray(value)
        except (ValueError, RuntimeError, TypeError) as error:
            tensor = hasattr(value, "detach")
            remedy = f"pass {name}.detach()" if tensor else "make all its rows of one length"
            raise ValueError(f"{name} does not form an array: {remedy}") from error
    else:
        array = np.from_dlpack(value)
    if array.dtype.kind not in NUMERIC or has_times(value):
        array = numeric_columns(value, name) if columns_of(value) else array
    if array.dtype.kind not in NUMERIC:
        raise not_labels(array, name) if labels else not_numbers(array, name)
    return array


def _on_gpu(value: Any) -> bool:
    """Whether the values lie in a GPU's memory, by either protocol's own word."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in _DLPACK_CUDA


def module_of(xp: ModuleType, array: Any) -> ModuleType:
    """The library that computes where ``array`` is: NumPy on the host, else ``xp``."""
    return np if isinstance(array, np.ndarray) else xp


def row_chunks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices over ``rows`` rows of at most about 32 MiB each (never less than one row)."""
    step = max(1, _CHUNK_BYTES // max(1, bytes_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def check_finite(xp: ModuleType, array: Any, name: str, given: Any = None) -> None:
    """Refuse NaN and infinity, by row, and by column where ``given``, as it came, names them."""
    if array.dtype.kind != "f" or not array.size:
        return
    for rows in row_chunks(len(array), array[:1].nbytes):
        if not xp.isfinite(array[rows]).all():
            finite = xp.isfinite(array[rows]).reshape(len(array[rows]), -1)
            bad = int(xp.argmax(~finite.all(axis=1)))
            column = column_in(given, int(xp.argmax(~finite[bad])))
            what = "NaN, infinity or no value" if column else "NaN or infinity"
            raise ValueError(
                f"{name} holds {what}, first in row {rows.start + bad}{column}: "
                "remove or replace such values"
            )


def _converted(xp: ModuleType, array: Any, dtype: Any, name: str) -> Any:
    with np.errstate(over="ignore"):  # a value beyond float32's range becomes infinite ...
        converted = array.astype(dtype, copy=False)
    if converted is not array:
        check_finite(xp, converted, f"{name} as {np.dtype(dtype).name}")  # ... and is named here
    return converted


def check_x(xp: ModuleType, x: Any, n_in: int, dtype: Any, name: str = "x") -> Any:
    """x as an (n, n_in) C-ordered array of ``dtype``, or of uint8 if it came as uint8.

    On the CPU a SciPy sparse matrix is taken too, as a CSR array. Warns (``IntensityWarning``) of
    what looks like images on the scale of bytes that are not uint8: see ``_on_scale_of_bytes``.
    """
    sparse, given = hasattr(x, "tocsr"), x
    if sparse and xp is not np:
        raise TypeError(f"{name} is a sparse matrix, for the CPU only: pass {name}.toarray()")
    x = as_csr(x, dtype, name) if sparse else as_array(xp, x, name)
    xp = module_of(xp, x)
    if x.ndim != 2:
        hint = ""
        if x.ndim == 1 and x.size == n_in:
            hint = f": pass {name}[None, :] for a single example"
        elif x.ndim > 2 and x.size == len(x) * n_in:
            hint = f": pass {name}.reshape(len({name}), -1)"
        raise ValueError(f"{name} has shape {x.shape}, but must be 2-D, (examples, {n_in}){hint}")
    if x.shape[1] != n_in:
        raise ValueError(
            f"{name} has {x.shape[1]} values an example, but the network's input layer has "
            f"{n_in} neurons"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{name} holds no examples")
    if _on_scale_of_bytes(xp, x.data if sparse else x, with_zeros=sparse):
        _warn_of_intensities(f"{name} holds", given.dtype if sparse else x.dtype)
    if sparse:
        return x
    check_finite(xp, x, name, given)
    if x.dtype != xp.uint8:
        x = _converted(xp, x, dtype, name)
    return xp.ascontiguousarray(x)


def _on_scale_of_bytes(xp: ModuleType, values: Any, with_zeros: bool) -> bool:
    """Whether the values are whole numbers from 0 to 255, some above 127, and not uint8.

    So are images of 8 bits, which read as they are would be 255 times too large; but not zeros and
    ones, counts below 128, images of 4 bits (scikit-learn's digits), nor one number everywhere. Of
    many rows, a few spread evenly that do not look so are enough for no. ``with_zeros``: there are
    zeros beside these values.
    """
    if values.dtype.kind not in "iuf" or values.dtype == np.uint8 or not values.size:
        return False
    width = max(1, values[:1].size)
    step = max(1, len(values) // max(_SAMPLE_ROWS, _SAMPLE_VALUES // width))
    sample = values[::step]
    rest = row_chunks(len(values), values[:1].nbytes) if step > 1 else ()
    if not float(sample.max()) > max(127, 0 if with_zeros else float(sample.min())):
        return False
    for part in chain([sample], (values[rows] for rows in rest)):
        if not (float(part.min()) >= 0 and float(part.max()) <= 255):
            return False
        if part.dtype.kind == "f" and not bool((xp.floor(part) == part).all()):
            return False
    return True


def _warn_of_intensities(what: str, dtype: Any) -> None:
    """At the line outside of this library that handed them in: Python shows it once a line."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gpubp."):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"{what} whole numbers from 0 to 255 as {dtype}, which are not scaled: if they are images' "
        "intensities, pass x.astype(np.uint8), read as x/255, or x / 255; if they are not, silence "
        "this with warnings.simplefilter('ignore', gpubp.IntensityWarning)",
        IntensityWarning,
        stacklevel=level,
    )


def as_csr(x: Any, dtype: Any, name: str) -> Any:
    """A sparse matrix as a CSR array of ``dtype`` or uint8, a copy, with no entry twice."""
    import scipy.sparse

    if x.dtype.kind not in NUMERIC:
        raise not_numbers(x, name)
    if np.ma.is_masked(getattr(x, "data", None)):
        raise ValueError(f"{name} has masked values in its data: put values in their place")
    with np.errstate(over="ignore"):
        kept = np.uint8 if x.dtype == np.uint8 else dtype
        csr = scipy.sparse.csr_array(x, dtype=kept, copy=True)
    try:
        csr.check_format()
    except ValueError as error:
        raise ValueError(f"{name} is not a valid CSR matrix ({error}): build it anew") from error
    csr.sum_duplicates()
    bad = np.flatnonzero(~np.isfinite(csr.data))
    if bad.size:
        row = int(np.searchsorted(csr.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"{name} holds NaN or infinity as {csr.dtype}, first in row {row}: "
            "remove or replace such values"
        )
    return csr


def check_y(xp: ModuleType, y: Any, rows: int, n_out: int, dtype: Any, name: str = "y") -> Any:
    """y as (n,) int64 labels in [0, n_out), or as (n, n_out) targets of ``dtype``.

    With one output neuron, y of shape (n,) is taken as the n targets themselves.
    """
    given = y
    y = as_array(xp, y, name, labels=True)
    xp = module_of(xp, y)
    if y.ndim == 0:
        raise ValueError(f"{name} is a single number: pass an array, [{name}] for one example")
    if len(y) != rows:
        raise ValueError(f"{name} holds {len(y)} examples, but x holds {rows}")
    if y.ndim == 1 and n_out == 1:
        y = y.reshape(-1, 1)
    if y.ndim == 2 and y.shape[1] == n_out:
        check_finite(xp, y, name, given)
        return xp.ascontiguousarray(_converted(xp, y, dtype, name))
    if y.ndim != 1:
        raise ValueError(
            f"{name} has shape {y.shape}, but must be integer labels ({rows},) or targets "
            f"({rows}, {n_out}) for a network with {n_out} outputs"
            + (f": pass {name}.ravel() for labels" if y.shape[1:] == (1,) else "")
        )
    if y.dtype.kind == "f":
        check_finite(xp, y, name)  # a missing label has made them all floats
        raise TypeError(
            f"{name} holds {y.dtype} labels, but labels must be integers: pass {name}.astype(int), "
            f"or targets of shape ({rows}, {n_out})"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= n_out:
        row = int(xp.argmax((y < 0) | (y >= n_out)))
        raise ValueError(
            f"{name} holds the label {int(y[row])}, first in row {row}, but a network with {n_out} "
            f"outputs takes labels 0 to {n_out - 1}"
        )
    return xp.ascontiguousarray(y.astype(xp.int64, copy=False))


def as_input(xp: ModuleType, x: Any, dtype: Any) -> Any:
    """a^1 for rows of x, from either side, dense or sparse: uint8 as x/255, the rest unchanged, in
    ``dtype``."""
    x = xp.asarray(x.toarray() if hasattr(x, "toarray") else x)
    if x.dtype == xp.uint8:
        return xp.divide(x, np.dtype(dtype).type(255), dtype=dtype)
    return x.astype(dtype, copy=False)


def as_targets(xp: ModuleType, y: Any, n_out: int, dtype: Any) -> Any:
    """y (m, n_out) for rows of y, from either side: labels as unit vectors, targets unchanged."""
    y = xp.asarray(y)
    if y.ndim == 2:
        return y
    return (y[:, None] == xp.arange(n_out)).astype(dtype)


def classes_of(xp: Any, a: Any) -> Any:
    """The class that each row of outputs or targets names."""
    if a.shape[1] == 1:
        return (a[:, 0] > 0.5).astype(xp.int64)
    return a.argmax(axis=1)


def names_classes(y: Any) -> bool:
    """Whether y holds labels, unit vectors, or zeros and ones for one output."""
    if y.ndim == 1:
        return True
    if not bool(((y == 0) | (y == 1)).all()):
        return False
    return y.shape[1] == 1 or bool((y.sum(axis=1) == 1).all())


def check_outer(delta: Any, a: Any) -> None:
    """Raise unless these can be outer_sum's (m, j) and (m, k)."""
    if delta.ndim != 2 or a.ndim != 2 or len(delta) != len(a):
        raise ValueError(f"delta {delta.shape} and a {a.shape} must be 2-D with equal rows")
    if delta.dtype != a.dtype or delta.dtype not in (np.float32, np.float64):
        raise TypeError(f"delta {delta.dtype} and a {a.dtype} must both be float32 or float64")


def check_hadamard(v: Any, z: Any, a: Any) -> None:
    """Raise unless these can be hadamard_sigma_prime's (m, n) each."""
    if not v.shape == z.shape == a.shape or z.ndim != 2:
        raise ValueError(f"v {v.shape}, z {z.shape} and a {a.shape} must have one shape (m, n)")
    if not (v.dtype == z.dtype == a.dtype and z.dtype in (np.float32, np.float64)):
        raise TypeError(f"v {v.dtype}, z {z.dtype} and a {a.dtype} must all be float32 or float64")


def check_count(value: Any, name: str, least: int = 1) -> int:
    """An integer of at least ``least``; floats and bools are refused, not rounded."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer") from None
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return count


def check_number(value: Any, name: str) -> float:
    """A float; strings and truth values are refused, not read."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={value!r} must be a number")
    try:
        return float(value.__float__())
    except (AttributeError, TypeError):
        raise TypeError(f"{name}={value!r} must be a number") from None


def as_generator(
    rng: int | np.random.Generator | np.random.SeedSequence | None,
) -> np.random.Generator:
    """The generator itself, or one with that seed."""
    try:
        if isinstance(rng, bool | np.bool_):
            raise TypeError("a truth value is no seed")
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"rng={rng!r} must be a non-negative int, a numpy.random.Generator, a SeedSequence "
            f"or None ({error})"
        ) from None
