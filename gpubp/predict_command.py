"""``gpubp predict``: the classes or values that a saved network finds, as CSV."""

from __future__ import annotations

import csv
import io
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from .checkpoint import load
from .classes import class_name
from .commands import check_writable, form_options, is_regression
from .data._files import replacing
from .data._form import check_task
from .data.csv import count_columns

Array = np.ndarray[Any, Any]


def predict(args: Namespace) -> int:
    """Write index, class and, if asked for, probabilities as CSV; of a regression its outputs."""
    if args.output is not None:
        check_writable(args.output, args.data, args.file)
    net = load(args.file, args.backend)
    form = form_options(args)
    task = form.pop("task", None)
    check_task(task)
    real = is_regression(net) if task is None else task == "regression"
    x = _unlabelled(args.data, args.file, net.sizes[0], form)
    table: list[Array]
    if real:
        if args.proba:
            raise ValueError("--proba adds the probabilities of classes: a regression has none")
        table = list(net.backend.asnumpy(net.feedforward(x)).T)
        header = ["value"] if len(table) == 1 else [f"value{j}" for j in range(len(table))]
        written = [[f"{value:.9g}" for value in column.tolist()] for column in table]
    else:
        header = ["class"]
        written = [[class_name(net.classes, label) for label in net.predict(x).tolist()]]
        if args.proba:
            table = list(net.predict_proba(x).T)
            names = net.classes
            header += [f"p{j}" if names is None else f"p {class_name(names, j)}"
                       for j in range(len(table))]  # fmt: skip
            written += [[f"{p:.6g}" for p in column.tolist()] for column in table]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *header])
    writer.writerows([i, *row] for i, row in enumerate(zip(*written, strict=True)))
    if args.output is None:
        sys.stdout.write(text.getvalue())
    else:
        with replacing(os.path.realpath(args.output)) as file:
            file.write(text.getvalue().encode())
    return 0


def _unlabelled(source: str, net: str, inputs: int, form: dict[str, Any]) -> Array:
    """x (n, inputs) for the network in the file ``net``: every row of a csv or npz file in its
    order, or the test part of the data."""
    path = Path(source)
    if path.suffix.lower() in datasets.CSV_SUFFIXES:
        columns, found = count_columns(path, labels=False, **form)
        values = len(found.values)
        if values == inputs:
            return datasets.read_csv(path, labels=False, **form)
        if values != inputs + 1 or "target" in form:
            more = f", and {columns - values} that --target names" if "target" in form else ""
            raise ValueError(
                f"{source} has {values} columns{more}, but {net} takes {inputs} inputs: give rows "
                f"of {inputs} values, or of a label and {inputs} values, or name with --target "
                "what is no input"
            )
        target = count_columns(path, **form)[1].targets[0]
        return datasets.read_csv(path, labels=False, target=target, **form)
    if path.suffix.lower() == ".npz":
        train, test = datasets.read_npz(path)
        x = (test or train)[0]
    else:
        x = datasets.load(source, **form)[1][0]
    if x.shape[1] != inputs:
        raise ValueError(
            f"{net} takes {inputs} inputs, but the data {source} have {x.shape[1]}: "
            "give the data it was trained for"
        )
    return x
