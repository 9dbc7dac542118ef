"""A network from arrays that another library trained, and whether it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubp.activation import Activation, Softmax
from gpubp.backend import Backend
from gpubp.cost import Cost
from gpubp.network import Network


def made(
    source: str,
    weights: Sequence[Any],
    biases: Sequence[Any],
    activations: Sequence[str | Activation | Softmax],
    cost: str | Cost,
    backend: str | Backend,
    dtype: str | None,
) -> Network:
    """The network of w^l (n_l, n_{l-1}) and b^l (n_l,), of their dtype unless one is given;
    ``ValueError`` names the layer of ``source`` that does not fit the one before it."""
    sizes = [weights[0].shape[1]] if np.ndim(weights[0]) == 2 else [0]
    for l, (w, b) in enumerate(zip(weights, biases, strict=True), 2):
        if w.ndim != 2 or w.shape[1] != sizes[-1] or b.shape != (w.shape[0],) or not w.size:
            raise ValueError(
                f"{source}: layer {l} has weights {w.shape} and biases {b.shape} after a layer of "
                f"{sizes[-1]} neurons"
            )
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            raise ValueError(f"{source}: layer {l} has weights or biases that are not finite")
        sizes.append(w.shape[0])
    given = "float32" if all(w.dtype == np.float32 for w in weights) else "float64"
    network = Network(
        sizes, activation=list(activations), cost=cost, backend=backend, rng=0, dtype=dtype or given
    )
    for l, (w, b) in enumerate(zip(weights, biases, strict=True)):
        network.weights[l], network.biases[l] = w, b
    return network


def check_same(source: str, network: Network, x: Any, wanted: Callable[[Any], Any]) -> None:
    """``ValueError`` unless the network's outputs for x (n, n_1) are those ``wanted``, but for the
    rounding of the network's dtype."""
    found = network.backend.asnumpy(network.feedforward(x)).astype(float)
    other = np.asarray(wanted(x), float).reshape(len(found), -1)
    apart = np.abs(found - other) if found.shape == other.shape else np.array([np.inf])
    tolerance = np.finfo(network.dtype).eps ** 0.75 * max(1.0, float(np.abs(other).max()))
    if not (apart <= tolerance).all():
        raise ValueError(
            f"{source}: its outputs for check and the network's differ by up to {apart.max():.2g}, "
            f"where {tolerance:.2g} is rounding"
        )
