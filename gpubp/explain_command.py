"""``gpubp explain``: trace, health and paths of a saved network, as text, pictures or one page."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from . import explain as explanations
from .arrays import check_count
from .classes import class_name
from .commands import check_writable, fitted, labelled_data, predicted
from .data._files import replacing
from .errors import unknown
from .explain.pathsum import MAX_PATHS
from .network import Network, load
from .output import say

_PARTS = ("trace", "health", "paths")
_HEALTH_ROWS = 1000


def explain(args: Namespace) -> int:
    """Everything that can be refused is refused before the first line is printed."""
    shown = _shown(args.show)
    weight = None if args.weight is None else _weight(args.weight)
    pictures = _pictures(args, shown)
    if args.html is not None:
        check_writable(args.html, args.file, args.data, *pictures.values())
    examples = check_count(args.examples, "examples")
    net = load(args.file, args.backend)
    data = fitted(labelled_data(args, net, args.file), net, args.file)
    if args.part not in ("test", "train"):
        raise unknown("part", args.part, ("test", "train"))
    x, y = data.test if args.part == "test" else data.train
    i = check_count(args.example, "example", least=0)
    if i >= len(x):
        raise ValueError(
            f"example={i} is not in the {args.part} part: it holds examples 0 to {len(x) - 1}"
        )
    one = x[i : i + 1], y[i : i + 1]
    health = net.health(x[:_HEALTH_ROWS], y[:_HEALTH_ROWS])
    found: dict[str, Any] = {"health": health}
    if "trace" in shown:
        found["trace"] = net.trace(*one)
    if "paths" in shown:
        found["paths"] = _paths(net, *one, weight)
    page = None
    if args.html is not None:
        title = f"{os.path.basename(args.file)} on {data.name}, {args.part} part"
        rows = slice(i, i + examples)
        page = explanations.explain_page(net, x[rows], y[rows], title=title, checked=health)

    if data.real:
        taken = " ".join(f"{value:g}" for value in net.backend.asnumpy(net.feedforward(one[0]))[0])
    else:
        taken = class_name(net.classes, int(predicted(net, one[0])[0]))
    say(f"{data}\n{net}\n{args.part} part, example {i}, {data.label(y[i])}, taken for {taken}")
    for name in shown if page is None else ():  # the page shows them
        say(f"\n{found[name]}")
    for name, path in pictures.items():
        found[name].plot(path)
        say(f"\n{name} drawn to {path}")
    if page is not None:
        with replacing(os.path.realpath(args.html)) as file:
            file.write(page.encode())
        say(f"\npage written to {args.html}: open it in a browser")
    return 0


def _shown(names: str) -> list[str]:
    shown = [name.strip() for name in names.split(",")]
    for name in shown:
        if name not in _PARTS:
            raise unknown("part of an explanation", name, _PARTS)
    return list(dict.fromkeys(shown))


def _weight(text: str) -> tuple[int, int, int]:
    try:
        l, j, k = map(int, text.split(","))
    except ValueError:
        raise ValueError(
            f"--weight {text!r} must be l,j,k such as 2,0,5: the weight from neuron k of layer "
            "l - 1 to neuron j of layer l"
        ) from None
    return l, j, k


def _pictures(args: Namespace, shown: list[str]) -> dict[str, str]:
    """Where to draw each part: the file asked for, or of several parts NAME-part.png."""
    if args.plot is None:
        return {}
    from .plot import check_plot

    check_plot(args.plot)
    path = Path(args.plot)
    paths = {
        name: args.plot if len(shown) == 1 else str(path.with_stem(f"{path.stem}-{name}"))
        for name in shown
    }
    for file in paths.values():
        check_writable(file, args.file, args.data)
    return paths


def _paths(net: Network, x: Any, y: Any, weight: tuple[int, int, int] | None) -> Any:
    """The paths of the weight asked for, or of that with the largest gradient in layer 2."""
    if weight is None:
        nabla = np.abs(net.backend.asnumpy(net.backprop(x, y).nabla_w[0]))
        j, k = np.unravel_index(int(nabla.argmax()), nabla.shape)
        weight = 2, int(j), int(k)
    count = float(np.prod([float(n) for n in net.sizes[max(0, weight[0]) :]]))
    method = "enumerate" if count <= MAX_PATHS else "matrix"
    return explanations.paths(net, x, y, *weight, method=method)
