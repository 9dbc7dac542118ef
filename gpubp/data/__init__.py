"""Data sets and the files they come in: MNIST, digits28, IDX, npz and csv.

    (x_train, y_train), (x_test, y_test) = data.mnist()

x is (n, n_in), y (n,) int64 labels. uint8 in x means image intensities, read as x/255 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpubp.data._files import FilePath, Pair, Table
from gpubp.data._form import Target, Task
from gpubp.data.csv import read_csv
from gpubp.data.digits28 import digits28
from gpubp.data.idx import read_idx, write_idx
from gpubp.data.mnist import mnist, read_folder
from gpubp.data.npz import read_npz
from gpubp.errors import DataFormatError, unknown
from gpubp.folders import path_text

__all__ = ["Table", "digits28", "load", "mnist", "read_csv", "read_idx", "read_npz", "write_idx"]


CSV_SUFFIXES = (".csv", ".tsv")


def load(
    source: FilePath, *, delimiter: str | None = None, decimal: str | None = None,
    header: bool | None = None, target: Target | Sequence[Target] | None = None,
    task: Task | None = None, inputs: Sequence[str] | None = None,
) -> tuple[Pair, Pair]:  # fmt: skip
    """``((x_train, y_train), (x_test, y_test))`` from a name or a path.

    ``"mnist"``; ``"digits28"`` (60,000 and 10,000 rows); a folder of four IDX files; an ``.npz``;
    a ``.csv`` or ``.tsv``, whose parts are :class:`Table`, with the names of the classes; the
    keywords are for these, see :func:`read_csv`, but ``task`` is for an ``.npz`` too. A file with
    no test part is split by a shuffle that is always the same: the last sixth of it (at least one
    row) is the test part. A folder called ``mnist`` is ``"./mnist"``.
    """
    name = path_text(source, "data")
    suffix = Path(name).suffix.lower()
    form = {"delimiter": delimiter, "decimal": decimal, "header": header, "target": target,
            "task": task, "inputs": inputs}  # fmt: skip
    apt: tuple[str, ...] = ()
    if not Path(name).is_dir():
        apt = tuple(form) if suffix in CSV_SUFFIXES else ("task",) if suffix == ".npz" else ()
    given = [key for key, value in form.items() if value is not None and key not in apt]
    if given:
        raise ValueError(
            f"{given[0]}={form[given[0]]!r} says how to read a .csv or .tsv file, which {name} is "
            "not: leave it out"
        )
    if not name:
        raise ValueError("data='' names nothing: give a name, a folder or a file")
    if name == "mnist":
        return mnist()
    if name == "digits28":
        x, y = digits28(70_000)
        return (x[:60_000], y[:60_000]), (x[60_000:], y[60_000:])
    path = Path(name)
    if path.is_dir():
        return read_folder(path)
    if suffix == ".npz":
        train, test = read_npz(path, task=task)
        return (train, test) if test is not None else _split(train, path)
    if suffix in CSV_SUFFIXES:
        return _split(
            read_csv(path, delimiter=delimiter, decimal=decimal, header=header, target=target,
                     task=task, inputs=inputs), path
        )  # fmt: skip
    if path.exists():
        raise ValueError(
            f"cannot tell what {name} holds: give a folder of IDX files, .npz, .csv or .tsv"
        )
    if path.parent != Path() or suffix:
        raise FileNotFoundError(f"there is no file or folder {name}: check the name")
    raise unknown("data", name, ["digits28", "mnist", "a folder", "an .npz file", "a .csv file"])


def _split(examples: Pair, path: Path) -> tuple[Pair, Pair]:
    """Five sixths and one sixth of the rows, shuffled."""
    x, y = examples
    n = len(y)
    if n < 2:
        raise DataFormatError(path, expected="at least 2 rows to split", found=str(n))
    order = np.random.default_rng(0).permutation(n)
    train, test = np.split(order, [n - max(1, n // 6)])
    parts = (x[train], y[train]), (x[test], y[test])
    if not isinstance(examples, Table):
        return parts
    first, second = (
        Table(*part, examples.classes, examples.reading, examples.inputs, examples.targets)
        for part in parts
    )
    return first, second
