"""``gpubp evaluate | data | bench``, and what they share with the other commands.

Each command takes the parsed arguments, prints, and returns the exit code; what goes wrong is
raised, and told by :mod:`gpubp.cli`.
"""

from __future__ import annotations

import os
import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from .arrays import check_count
from .classes import class_name, match_labels
from .data._form import shown
from .data.csv import form_of
from .errors import DataFormatError, unknown
from .folders import user_cache
from .network import Network, load
from .output import say
from .regression import Targets
from .tensorfile import check_target

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]

_IDX_NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
              "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
_LONGEST_HEAD = 10  # characters of a class's name over its column
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
    """A training and a test part: x (n, inputs), y (n,) labels from 0, or real targets.

    ``names`` are those of the classes, if they have any, ``columns`` and ``targets`` those of the
    columns of x and y; ``reading`` says how a text file was read.
    """

    name: str
    train: Pair
    test: Pair
    names: tuple[str, ...] | None = None
    reading: str = ""
    columns: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        examples = len(self.train[1])
        if self.real:
            return
        if self.classes > max(1000, examples):  # ids or values: a network of them would not fit
            raise ValueError(
                f"{self.name} has labels up to {self.classes - 1} but only {examples} training "
                "examples: labels must number the classes 0, 1, 2, ... (of a .csv, "
                "--task regression takes them for real targets)"
            )

    @property
    def inputs(self) -> int:
        return int(self.train[0].shape[1])

    @property
    def real(self) -> bool:
        """Whether the targets are real numbers, those of a regression."""
        return bool(self.train[1].dtype.kind == "f")

    @property
    def classes(self) -> int:
        if self.names is not None:
            return len(self.names)
        return 1 + int(max(self.train[1].max(), self.test[1].max()))

    @property
    def outputs(self) -> int:
        """The neurons of an output layer for them."""
        y = self.train[1]
        return (y.shape[1] if y.ndim == 2 else 1) if self.real else self.classes

    def __str__(self) -> str:
        reading = f" ({self.reading})" if self.reading else ""
        return (
            f"data: {self.name}{reading}, {len(self.train[1])} training and {len(self.test[1])} "
            f"test examples, {self.inputs} inputs{scale(self.train[0])}, {self.what}"
        )

    @property
    def what(self) -> str:
        """What is to be learnt, in words."""
        return _count(self.outputs, "real target") if self.real else f"{self.classes} classes"

    def label(self, y: Any) -> str:
        """One example's target in words."""
        if self.real:
            return "target " + " ".join(f"{value:g}" for value in np.ravel(y))
        return f"class {class_name(self.names, int(y))}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def predicted(net: Network, x: Array) -> Array:
    """The class of each row, also where the one output is not bound to lie between two classes."""
    found = net.predict(x)
    return found if found.dtype.kind == "i" else (found.ravel() > 0.5).astype(np.int64)


def form_options(args: Namespace, net: Network | None = None) -> dict[str, Any]:
    """The keywords of ``data.load`` that the arguments give, and for a file the network's task."""
    form = {
        name: getattr(args, name)
        for name in ("delimiter", "decimal", "header", "target", "task")
        if getattr(args, name) is not None
    }
    if "," in form.get("target", ""):
        form["target"] = form["target"].split(",")
    file = Path(args.data or "")
    told = file.suffix.lower() in (".npz", *datasets.CSV_SUFFIXES) and not file.is_dir()
    if net is not None and told and "task" not in form and "," not in (args.target or ""):
        if net.classes is not None:
            form["task"] = "classification"
        elif not net.is_classifier:
            form["task"] = "regression"
    if net is not None and net.inputs is not None and file.suffix.lower() in datasets.CSV_SUFFIXES:
        form["inputs"] = net.inputs
    return form


def load_data(source: str | None, form: dict[str, Any]) -> DataSet:
    """The data asked for; by default MNIST where it is at hand without a download."""
    if source is not None:
        train, test = datasets.load(source, **form)
        if isinstance(train, datasets.Table):
            return DataSet(
                source, train, test, train.classes, train.reading, train.inputs, train.targets
            )
        return DataSet(source, train, test)
    if form:
        raise ValueError(f"--{next(iter(form))} says how to read a file: name it with --data")
    if folder := os.environ.get("GPUBP_DATA"):
        return DataSet(f"{folder} ($GPUBP_DATA)", *datasets.mnist())
    from .data.mnist import read_folder

    try:
        return DataSet("mnist", *read_folder(user_cache()))
    except (OSError, DataFormatError):
        name = "digits28 (no MNIST in the cache; --data mnist downloads it)"
        return DataSet(name, *datasets.load("digits28"))


def labelled_data(args: Namespace, net: Network, file: str) -> DataSet:
    """The data asked for, which must have a target beside the inputs of the network in ``file``: in
    a file with a header that of the name it was trained on, unless --target names another."""
    form = form_options(args, net)
    if Path(args.data or "").suffix.lower() in datasets.CSV_SUFFIXES and args.target is None:
        asked = {key: form[key] for key in ("delimiter", "decimal", "header") if key in form}
        found = form_of(args.data, labels=False, **asked)
        if len(found.values) == net.sizes[0]:
            raise ValueError(
                f"{args.data} has {net.sizes[0]} columns, as many as {file} has inputs, and so "
                "none for the target: gpubp predict tells what the network makes of such rows"
            )
        if net.targets is not None and found.names is not None:
            missing = [name for name in net.targets if name not in found.names]
            if missing:
                more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                raise ValueError(
                    f"{args.data} has no target column {', '.join(map(shown, missing[:3]))}{more}, "
                    f"which {file} was trained on: name another with --target, or let gpubp "
                    "predict tell what the network makes of such rows"
                )
            form["target"] = list(net.targets)
    return load_data(args.data, form)


def check_writable(path: str, *others: str | None) -> None:
    """``OSError`` now, where writing ``path`` after an hour of training would fail.

    ``others`` are the files that the command also reads or writes: none of them may be ``path``.
    """
    target = Path(os.path.realpath(path))
    if str(target) in [os.path.realpath(other) for other in others if other is not None]:
        raise OSError(f"cannot write {path}: it is another file of this command: give another name")
    try:
        check_target(path)
    except FileNotFoundError:
        what = "no file can be made in" if target.parent.is_dir() else "there is no folder"
        raise OSError(f"cannot write {path}: {what} {target.parent}") from None


def fitted(data: DataSet, net: Network, file: str) -> DataSet:
    """The data with their classes numbered as those of the network in ``file``, which they fit."""
    if data.real and net.classes is not None:
        raise ValueError(
            f"{data.name} has real targets, but {file} tells the classes "
            f"{', '.join(net.classes[:10])}{', ...' * (len(net.classes) > 10)} apart: name their "
            "column with --target"
        )
    check_sizes(file, net.sizes, data)
    if data.names is None or net.classes is None:
        return data
    train, test = (
        (x, match_labels(y, data.names, net.classes, data.name, file))
        for x, y in (data.train, data.test)
    )
    return replace(data, train=train, test=test, names=net.classes)


def check_sizes(what: str, sizes: Sequence[int], data: DataSet) -> None:
    """The first size is the data's inputs; the last is at least its classes (1 for two classes), or
    as many as its real targets."""
    if data.real and (len(sizes) < 2 or sizes[0] != data.inputs or sizes[-1] != data.outputs):
        raise ValueError(
            f"{what} with sizes {','.join(map(str, sizes))} does not fit the data of {data.inputs} "
            f"inputs and {data.what}: the first size must be {data.inputs}, the last {data.outputs}"
        )
    if data.real:
        return
    if len(sizes) < 2 or sizes[0] != data.inputs or max(2, sizes[-1]) < data.classes:
        raise ValueError(
            f"{what} with sizes {','.join(map(str, sizes))} does not fit the data of {data.inputs} "
            f"inputs and {data.classes} classes: the first size must be {data.inputs}, the last at "
            f"least {data.classes}"
        )


def evaluate(args: Namespace) -> int:
    """Print cost, accuracy and the confusions; of a regression cost, R2 and RMSE."""
    if args.part not in ("test", "train", "all"):
        raise unknown("part", args.part, ("test", "train", "all"))
    net = load(args.file, args.backend)
    data = fitted(labelled_data(args, net, args.file), net, args.file)
    x, y = data.test if args.part == "test" else data.train
    if args.part == "all":
        x, y = np.concatenate([x, data.test[0]]), np.concatenate([y, data.test[1]])
    evaluation = net.evaluate(x, y)
    say(f"{data}\n{net}")
    told = f"{args.part} part, {len(y)} examples: {evaluation}"
    if data.real or not net.is_classifier:
        say(f"{told}, {Targets(x, y).judge(net, evaluation.cost)}")
        return 0
    say(f"{told}\n")
    classes = max(2, net.sizes[-1])
    counts = np.bincount(y * classes + predicted(net, x), minlength=classes**2)
    say(_confusion_table(counts.reshape(classes, classes), net.classes))
    return 0


def _confusion_table(counts: Array, names: Sequence[str] | None) -> str:
    """counts (classes, classes): rows are the true classes, columns the predicted ones."""
    classes = len(counts)
    if classes > _WIDEST_TABLE:
        wrong = counts * (1 - np.eye(classes, dtype=counts.dtype))
        worst = [divmod(int(i), classes) for i in np.argsort(-wrong, axis=None)[:10]]
        lines = [
            f"{counts[i, j]:6} of class {class_name(names, i)} predicted as {class_name(names, j)}"
            for i, j in worst
            if wrong[i, j]
        ]
        return "\n".join(["most frequent confusions", *lines])
    rows = [class_name(names, i) for i in range(classes)]
    heads = [
        name if len(name) <= _LONGEST_HEAD else f"{name[: _LONGEST_HEAD - 1]}~" for name in rows
    ]
    side = max(4, *map(len, rows))
    width = 2 + max(len(str(counts.max())), *map(len, heads))
    lines = [
        f"{'true':{side}} | predicted",
        f"{'':{side}} |" + "".join(f"{h:>{width}}" for h in heads),
    ]
    lines.append("-" * side + "-+" + "-" * (width * classes))
    for name, row in zip(rows, counts.tolist(), strict=True):
        lines.append(f"{name:>{side}} |" + "".join(f"{n or '.':>{width}}" for n in row))
    return "\n".join(lines)


def data(args: Namespace) -> int:
    """Describe a data set, draw a few of its examples, and write it as IDX if asked to."""
    held = load_data(args.data, form_options(args))
    say(f"data: {held.name}" + (f" ({held.reading})" if held.reading else ""))
    for name, (x, y) in (("training", held.train), ("test", held.test)):
        say(
            f"{name:8}  x {x.shape} {x.dtype}, values {x.min():g} to {x.max():g}{scale(x)}, "
            f"{100 * np.count_nonzero(x) / x.size:.1f}% not zero"
        )
        if held.real:
            say(f"          y {y.shape}, {held.what}, values {y.min():g} to {y.max():g}")
            continue
        counts = np.bincount(y, minlength=held.classes)
        shown = ", ".join(
            f"{class_name(held.names, i)}: {n}" for i, n in enumerate(counts[:_WIDEST_TABLE])
        )
        more = f", and {held.classes - _WIDEST_TABLE} more" if held.classes > _WIDEST_TABLE else ""
        say(f"          y {y.shape}, {held.classes} classes ({shown}{more})")
    say(_pictures(held.train[0][:3], [held.label(y) for y in held.train[1][:3]]))
    if args.out is not None:
        _write_idx(held, Path(args.out))
        say(f"written to {args.out}: use it with --data {args.out}")
    return 0


def _side(inputs: int) -> int | None:
    """The side of square images of so many pixels, 8 x 8 or larger."""
    side = isqrt(inputs)
    return side if side * side == inputs and side >= 8 else None


def _pictures(x: Array, labels: Sequence[str]) -> str:
    """A few rows of x side by side as images in ASCII, or as numbers where they are no images."""
    side = _side(x.shape[1])
    low, span = float(x.min()), float(x.max()) - float(x.min())
    if side is None or not span:
        rows = [" ".join(f"{v:g}" for v in row[:10]) + " ..." * (row.size > 10) for row in x]
        return "\n".join(f"{label}: {row}" for label, row in zip(labels, rows, strict=True))
    width = min(side, 25)  # three fit in 80 columns; a character is about twice as high as wide
    across = np.linspace(0, side - 1, width).round().astype(int)
    down = np.linspace(0, side - 1, (width + 1) // 2).round().astype(int)
    grey = (x.reshape(-1, side, side)[:, down][:, :, across].astype(float) - low) / span
    ink = _INK[(grey * (len(_INK) - 1)).round().astype(int)]
    lines = [" ".join("".join(line) for line in row) for row in ink.transpose(1, 0, 2)]
    titles = " ".join(label[:width].ljust(width) for label in labels)
    return titles.rstrip() + "\n" + "\n".join(line.rstrip() for line in lines).strip("\n")


def _write_idx(held: DataSet, folder: Path) -> None:
    """The four files of MNIST's layout, uint8."""
    if held.real:
        raise ValueError(f"--out writes labels, but {held.name} has real targets")
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
