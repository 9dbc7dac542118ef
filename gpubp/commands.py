"""``gpubp evaluate | predict | data | bench``, and what they share with ``gpubp train``.

Each command takes the parsed arguments, prints, and returns the exit code; what goes wrong is
raised, and told by :mod:`gpubp.cli`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from .arrays import check_count
from .checkpoint import load
from .data._files import open_regular, replacing
from .errors import DataFormatError, unknown
from .folders import user_cache
from .network import Network
from .output import say

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

_IDX_NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
              "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
_WIDEST_TABLE = 20  # classes; of more, the most frequent confusions are listed instead
_INK = np.array(list(" .:-=+*#%@"))


def speed(seconds: float, steps: int, examples: int) -> str:
    """An epoch's seconds as examples/s and microseconds a step."""
    return f"{examples / seconds:,.0f} examples/s  {1e6 * seconds / steps:.2f} microseconds a step"


def scale(x: Array) -> str:
    """Where x holds intensities, a remark that they are read as x/255."""
    return " (intensities, read as x/255)" if x.dtype == np.uint8 else ""


@dataclass(frozen=True)
class DataSet:
    """A training and a test part: x (n, inputs), y (n,) labels from 0."""

    name: str
    train: Pair
    test: Pair

    def __post_init__(self) -> None:
        examples = len(self.train[1])
        if self.classes > max(1000, examples):  # ids or values: a network of them would not fit
            raise ValueError(
                f"{self.name} has labels up to {self.classes - 1} but only {examples} training "
                "examples: labels must number the classes 0, 1, 2, ..."
            )

    @property
    def inputs(self) -> int:
        return int(self.train[0].shape[1])

    @property
    def classes(self) -> int:
        return 1 + int(max(self.train[1].max(), self.test[1].max()))

    def __str__(self) -> str:
        return (
            f"data: {self.name}, {len(self.train[1])} training and {len(self.test[1])} test "
            f"examples, {self.inputs} inputs{scale(self.train[0])}, {self.classes} classes"
        )


def load_data(source: str | None) -> DataSet:
    """The data asked for; by default MNIST where it is at hand without a download."""
    if source is not None:
        return DataSet(source, *datasets.load(source))
    if folder := os.environ.get("GPUBP_DATA"):
        return DataSet(f"{folder} ($GPUBP_DATA)", *datasets.mnist())
    from .data.mnist import read_folder

    try:
        return DataSet("mnist", *read_folder(user_cache()))
    except (OSError, DataFormatError):
        name = "digits28 (no MNIST in the cache; --data mnist downloads it)"
        return DataSet(name, *datasets.load("digits28"))


def check_writable(path: str, *others: str | None) -> None:
    """``OSError`` now, where writing ``path`` after an hour of training would fail.

    ``others`` are the files that the command also reads or writes: none of them may be ``path``.
    """
    target = Path(os.path.realpath(path))
    if str(target) in [os.path.realpath(other) for other in others if other is not None]:
        raise OSError(f"cannot write {path}: it is another file of this command: give another name")
    try:
        if target.exists() and not target.is_file():
            raise OSError(f"cannot write {path}: it is not a file: give another name")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except FileNotFoundError:
        what = "no file can be made in" if target.parent.is_dir() else "there is no folder"
        raise OSError(f"cannot write {path}: {what} {target.parent}") from None
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"cannot write {path}: {error.strerror.lower()}") from error


def check_sizes(what: str, sizes: Sequence[int], data: DataSet) -> None:
    """The first size is the data's inputs; the last is at least its classes (1 for two classes)."""
    if len(sizes) < 2 or sizes[0] != data.inputs or max(2, sizes[-1]) < data.classes:
        raise ValueError(
            f"{what} with sizes {','.join(map(str, sizes))} does not fit the data of {data.inputs} "
            f"inputs and {data.classes} classes: the first size must be {data.inputs}, the last at "
            f"least {data.classes}"
        )


def evaluate(args: Namespace) -> int:
    """Print cost and, of classes, accuracy and the confusions."""
    if args.part not in ("test", "train", "all"):
        raise unknown("part", args.part, ("test", "train", "all"))
    net = load(args.file, args.backend)
    data = load_data(args.data)
    check_sizes(args.file, net.sizes, data)
    x, y = data.test if args.part == "test" else data.train
    if args.part == "all":
        x, y = np.concatenate([x, data.test[0]]), np.concatenate([y, data.test[1]])
    evaluation = net.evaluate(x, y)
    say(f"{data}\n{net}\n{args.part} part, {len(y)} examples: {evaluation}\n")
    if not net.is_classifier:
        return 0
    classes = max(2, net.sizes[-1])
    counts = np.bincount(y * classes + net.predict(x), minlength=classes**2)
    say(_confusion_table(counts.reshape(classes, classes)))
    return 0


def _confusion_table(counts: Array) -> str:
    """counts (classes, classes): rows are the true classes, columns the predicted ones."""
    classes = len(counts)
    if classes > _WIDEST_TABLE:
        wrong = counts * (1 - np.eye(classes, dtype=counts.dtype))
        worst = [divmod(int(i), classes) for i in np.argsort(-wrong, axis=None)[:10]]
        lines = [f"{counts[i, j]:6} of class {i} predicted as {j}" for i, j in worst if wrong[i, j]]
        return "\n".join(["most frequent confusions", *lines])
    width = 2 + max(len(str(counts.max())), len(str(classes - 1)))
    lines = ["true | predicted", "     |" + "".join(f"{j:{width}}" for j in range(classes))]
    lines.append("-----+" + "-" * (width * classes))
    for i, row in enumerate(counts):
        lines.append(f"{i:4} |" + "".join(f"{n or '.':>{width}}" for n in row.tolist()))
    return "\n".join(lines)


def predict(args: Namespace) -> int:
    """Write index, class (or value) and, if asked for, probabilities as CSV."""
    if args.output is not None:
        check_writable(args.output, args.data, args.file)
    net = load(args.file, args.backend)
    x = _unlabelled(args.data, args.file, net.sizes[0])
    columns, header = [net.predict(x)], ["index", "class" if net.is_classifier else "value"]
    if args.proba:
        columns.extend(net.predict_proba(x).T)
        header += [f"p{j}" for j in range(len(columns) - 1)]
    rows = (
        [str(i), str(label), *(f"{p:.6g}" for p in probabilities)]
        for i, (label, *probabilities) in enumerate(zip(*columns, strict=True))
    )
    lines = (",".join(row) + "\n" for row in chain([header], rows))
    if args.output is None:
        sys.stdout.writelines(lines)
    else:
        with replacing(os.path.realpath(args.output)) as file:
            file.writelines(line.encode() for line in lines)
    return 0


def _unlabelled(source: str, net: str, inputs: int) -> Array:
    """x (n, inputs) for the network in the file ``net``: every row of a csv or npz file in its
    order, or the test part of the data."""
    path = Path(source)
    if path.suffix.lower() == ".csv":
        with open_regular(path) as file:
            columns = file.readline(1 << 20).count(b",") + 1
        if columns not in (inputs, inputs + 1):
            raise ValueError(
                f"{source} has {columns} columns, but {net} takes {inputs} inputs: give rows of "
                f"{inputs} values, or of a label and {inputs} values"
            )
        if columns == inputs:
            return datasets.read_csv(path, labels=False)
        return datasets.read_csv(path)[0]
    if path.suffix.lower() == ".npz":
        train, test = datasets.read_npz(path)
        x = (test or train)[0]
    else:
        x = datasets.load(source)[1][0]
    if x.shape[1] != inputs:
        raise ValueError(
            f"{net} takes {inputs} inputs, but the data {source} have {x.shape[1]}: "
            "give the data it was trained for"
        )
    return x


def data(args: Namespace) -> int:
    """Describe a data set, draw a few of its examples, and write it as IDX if asked to."""
    held = load_data(args.data)
    say(f"data: {held.name}")
    for name, (x, y) in (("training", held.train), ("test", held.test)):
        say(
            f"{name:8}  x {x.shape} {x.dtype}, values {x.min():g} to {x.max():g}{scale(x)}, "
            f"{100 * np.count_nonzero(x) / x.size:.1f}% not zero"
        )
        counts = np.bincount(y, minlength=held.classes)
        shown = ", ".join(f"{i}: {n}" for i, n in enumerate(counts[:_WIDEST_TABLE]))
        more = f", and {held.classes - _WIDEST_TABLE} more" if held.classes > _WIDEST_TABLE else ""
        say(f"          y {y.shape}, {held.classes} classes ({shown}{more})")
    say(_pictures(held.train[0][:3], held.train[1][:3]))
    if args.out is not None:
        _write_idx(held, Path(args.out))
        say(f"written to {args.out}: use it with --data {args.out}")
    return 0


def _side(inputs: int) -> int | None:
    """The side of square images of so many pixels, 8 x 8 or larger."""
    side = isqrt(inputs)
    return side if side * side == inputs and side >= 8 else None


def _pictures(x: Array, y: Array) -> str:
    """A few rows of x side by side as images in ASCII, or as numbers where they are no images."""
    side = _side(x.shape[1])
    low, span = float(x.min()), float(x.max()) - float(x.min())
    if side is None or not span:
        rows = [" ".join(f"{v:g}" for v in row[:10]) + " ..." * (row.size > 10) for row in x]
        return "\n".join(f"class {label}: {row}" for label, row in zip(y, rows, strict=True))
    width = min(side, 25)  # three fit in 80 columns; a character is about twice as high as wide
    across = np.linspace(0, side - 1, width).round().astype(int)
    down = np.linspace(0, side - 1, (width + 1) // 2).round().astype(int)
    grey = (x.reshape(-1, side, side)[:, down][:, :, across].astype(float) - low) / span
    ink = _INK[(grey * (len(_INK) - 1)).round().astype(int)]
    lines = [" ".join("".join(line) for line in row) for row in ink.transpose(1, 0, 2)]
    titles = " ".join(f"class {label}".ljust(width) for label in y)
    return titles.rstrip() + "\n" + "\n".join(line.rstrip() for line in lines).strip("\n")


def _write_idx(held: DataSet, folder: Path) -> None:
    """The four files of MNIST's layout, uint8."""
    if held.train[0].dtype != np.uint8 or held.test[0].dtype != np.uint8:
        raise ValueError(
            f"--out writes images of uint8 values, but {held.name} holds {held.train[0].dtype}: "
            "only data of integers from 0 to 255 can be written so"
        )
    if held.classes > 256:
        raise ValueError(f"--out writes at most 256 classes, but {held.name} has {held.classes}")
    side = _side(held.inputs)
    shape = (-1, side, side) if side else (-1, 1, held.inputs)
    folder.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test) = held.train, held.test
    arrays = (x.reshape(shape), y.astype(np.uint8), x_test.reshape(shape), y_test.astype(np.uint8))
    for name, array in zip(_IDX_NAMES, arrays, strict=True):
        datasets.write_idx(folder / name, array)


def bench(args: Namespace) -> int:
    """Time an epoch of a small and a medium network on digits28, the median after a warm-up."""
    epochs = check_count(args.epochs, "epochs")
    nets = [
        Network([784, hidden, 10], backend=args.backend, rng=0, init="scaled")
        for hidden in (30, 128)
    ]
    x, y = datasets.digits28(60_000)
    say(f"backend {args.backend}, float32, {len(y)} examples, median of {epochs} epochs")
    for name, net, batch_size, rate in zip("SM", nets, (10, 128), (3.0, 0.5), strict=True):
        history = net.fit(
            x, y, epochs=1 + epochs, batch_size=batch_size, learning_rate=rate, progress=False
        )
        seconds = statistics.median(history.seconds[1:])
        steps = -(-len(y) // batch_size)
        sizes = str(list(net.sizes))
        say(f"{name}  {sizes:15}  batch {batch_size:3}  {speed(seconds, steps, len(y))}")
    return 0
