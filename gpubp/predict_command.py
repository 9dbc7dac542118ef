"""``gpubp predict``: the classes or values that a saved network finds, as CSV."""

from __future__ import annotations

import csv
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from .classes import class_name
from .commands import check_writable, form_options, predicted
from .data._files import replacing
from .data._form import check_task
from .data.csv import form_of
from .network import load

Array = np.ndarray[Any, Any]


def predict(args: Namespace) -> int:
    """Write index, class and, if asked for, probabilities as CSV; of a regression its outputs."""
    if args.output is not None:
        check_writable(args.output, args.data, args.file)
    net = load(args.file, args.backend)
    form = form_options(args, net)
    task = form.pop("task", None)
    check_task(task)
    real = not net.is_classifier if task is None else task == "regression"
    x = _unlabelled(args.data, args.file, net.sizes[0], form)
    rows: Iterator[list[str]]
    if real:
        if args.proba:
            raise ValueError("--proba adds the probabilities of classes: a regression has none")
        a = net.backend.asnumpy(net.feedforward(x))
        header = ["value"] if a.shape[1] == 1 else [f"value{j}" for j in range(a.shape[1])]
        rows = ([f"{value:.9g}" for value in row.tolist()] for row in a)
    else:
        names, labels = net.classes, predicted(net, x)
        proba = net.predict_proba(x) if args.proba else np.empty((len(labels), 0))
        title = "p" if names is None else "p "
        header = ["class", *(f"{title}{class_name(names, j)}" for j in range(proba.shape[1]))]
        rows = (
            [class_name(names, int(label)), *(f"{p:.6g}" for p in row.tolist())]
            for label, row in zip(labels, proba, strict=True)
        )
    written = csv.writer(_Echo(), lineterminator="\n")
    numbered = ([str(i), *row] for i, row in enumerate(rows))
    lines = map(written.writerow, chain([["index", *header]], numbered))
    if args.output is None:
        sys.stdout.writelines(lines)
    else:
        with replacing(os.path.realpath(args.output)) as file:
            file.writelines(line.encode() for line in lines)
    return 0


class _Echo:
    """A file that hands back what is written, so that ``writerow`` returns the line."""

    def write(self, line: str) -> str:
        return line


def _unlabelled(source: str, net: str, inputs: int, form: dict[str, Any]) -> Array:
    """x (n, inputs) for the network in the file ``net``: every row of a csv or npz file in its
    order, or the test part of the data."""
    path = Path(source)
    if path.suffix.lower() in datasets.CSV_SUFFIXES:
        form.pop("task", None)
        found = form_of(path, labels=False, **form)
        values = len(found.values)
        if values == inputs:
            return datasets.read_csv(path, labels=False, **form)
        if values != inputs + 1 or "target" in form:
            more = f", and {len(found.targets)} that --target names" if "target" in form else ""
            raise ValueError(
                f"{source} has {values} columns{more}, but {net} takes {inputs} inputs: give rows "
                f"of {inputs} values, or of a label and {inputs} values, or name with --target "
                "what is no input"
            )
        labelled = form_of(path, **form)
        if not labelled.is_certain:
            raise ValueError(
                f"{source} has {values} columns, but {net} takes {inputs} inputs: name with "
                "--target the column that is no input, as nothing in the file tells it"
            )
        return datasets.read_csv(path, labels=False, target=labelled.targets[0], **form)
    if path.suffix.lower() == ".npz":
        if form:
            raise ValueError(
                f"--{next(iter(form))} says how to read a .csv or .tsv file, which {source} is not"
            )
        train, test = datasets.read_npz(path, task="regression")  # which takes any targets
        x = (test or train)[0]
    else:
        x = datasets.load(source, **form)[1][0]
    if x.shape[1] != inputs:
        raise ValueError(
            f"{net} takes {inputs} inputs, but the data {source} have {x.shape[1]}: "
            "give the data it was trained for"
        )
    return x
