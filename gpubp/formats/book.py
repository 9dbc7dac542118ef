"""The JSON that the book's network2.py writes with ``net.save``.

    {"sizes": [784, 30, 10], "weights": [w^2, w^3], "biases": [b^2, b^3],
     "cost": "CrossEntropyCost"}

w is (n_l, n_{l-1}) and b a column (n_l, 1), as lists of numbers; all activations are sigmoid.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 3.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.backend import Backend
from gpubp.errors import DataFormatError
from gpubp.network import Network
from gpubp.printable import brief

from .made import made

_COSTS = {"QuadraticCost": "quadratic", "CrossEntropyCost": "cross_entropy"}


def from_network2(
    path: str | os.PathLike[str], *, backend: str | Backend = "cpu", dtype: str = "float64"
) -> Network:
    """The network that the book's ``network2.Network.save`` wrote to ``path``.

    Raises:
        DataFormatError: one sentence on what in the file is not such a network.
        FileNotFoundError: there is no such file.
    """
    whole = "the JSON of network2.py, an object with sizes, weights, biases and cost"
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataFormatError(path, expected=whole, found=brief(str(error))) from None
    if not isinstance(stored, dict) or not {"sizes", "weights", "biases", "cost"} <= set(stored):
        raise DataFormatError(path, expected=whole, found=brief(stored))
    if not isinstance(stored["cost"], str) or stored["cost"] not in _COSTS:
        raise DataFormatError(
            path, expected=f"cost {' or '.join(_COSTS)}", found=brief(stored["cost"])
        )
    weights, biases = _arrays(path, stored, "weights"), _arrays(path, stored, "biases")
    if len(weights) != len(biases) or not weights:
        raise DataFormatError(
            path,
            expected="weights and biases of as many layers",
            found=f"{len(weights)} arrays of weights and {len(biases)} of biases",
        )
    biases = [b[:, 0] if b.ndim == 2 and b.shape[1] == 1 else b for b in biases]
    activations = ["sigmoid"] * len(weights)
    try:
        network = made(
            "network2", weights, biases, activations, _COSTS[stored["cost"]], backend, dtype
        )
    except ValueError as error:
        raise DataFormatError(path, expected="layers that fit", found=str(error)) from None
    if stored["sizes"] != list(network.sizes):
        raise DataFormatError(
            path, expected=f"sizes {list(network.sizes)}, those of the weights",
            found=brief(stored["sizes"]),
        )  # fmt: skip
    return network


def _arrays(path: str | os.PathLike[str], stored: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(stored[key], list):
        raise DataFormatError(
            path, expected=f"{key} as a list of arrays, one a layer", found=brief(stored[key])
        )
    arrays = []
    for l, values in enumerate(stored[key], 2):
        try:
            array = np.asarray(values)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "fiu":
            raise DataFormatError(
                path, expected=f"{key} of layer {l} as an array of numbers", found=brief(values)
            )
        arrays.append(array.astype(float))
    return arrays
