"""What a network is trained on and validated on: checked examples, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .settings import Shuffle
from .weighting import ClassWeight, check_weights, class_weights

if TYPE_CHECKING:
    from .network import Network


@dataclass(frozen=True)
class Examples:
    """Checked x (n, n_1), y and, unless all count alike, ``weights`` (n,) float64; or of them the
    examples that ``rows`` names, in that order."""

    x: Any
    y: Any
    rows: Any = None
    weights: Any = None

    def by_class(self, network: Network, class_weight: ClassWeight) -> Examples:
        """The same, with the weights of their classes."""
        xp, outputs = network.backend.xp, network.sizes[-1]
        weights = class_weights(xp, class_weight, self.y, outputs, self.rows)
        return replace(self, weights=weights if self.weights is None else weights * self.weights)

    def taken(self, take: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
        """(x, y, weights) of the rows named, as ``take`` finds them in an array."""
        if self.rows is None:
            return self.x, self.y, self.weights
        weights = None if self.weights is None else self.weights[self.rows]
        return take(self.x, self.rows), take(self.y, self.rows), weights

    def __len__(self) -> int:
        return int(self.x.shape[0]) if self.rows is None else len(self.rows)


def check_examples(
    network: Network, x: Any, y: Any, sample_weight: Any, name: str = ""
) -> Examples:
    """x, y and the examples' weights after their checks; ``name`` stands before their names."""
    x, y = network.check_data(x, y, name)
    xp = network.backend.xp
    weights = check_weights(xp, sample_weight, x.shape[0], f"{name}sample_weight")
    return Examples(x, y, weights=weights)


def check_validation(network: Network, validation: Any) -> Examples | None:
    """The pair (x, y) or triple (x, y, sample_weight), if there is one, checked and where it is
    used again and again."""
    if validation is None:
        return None
    try:
        x, y, *weights = validation
        (weight,) = weights or (None,)
    except (TypeError, ValueError):
        raise ValueError("validation must be a pair (x, y), or (x, y, sample_weight)") from None
    found = check_examples(network, x, y, weight, "validation ")
    return replace(found, x=network.backend.near(found.x), y=network.backend.near(found.y))


def importance_of(weights: Any, batch_size: int) -> Any:
    """Each example's weight beside the mean of its mini-batch's, by which its cost and delta^L are
    multiplied, so that a mini-batch's cost is sum_i s_i C_i / sum_i s_i. Where all weights of a
    mini-batch are 0 its cost and gradient are 0, too."""
    starts = np.arange(0, len(weights), batch_size)
    totals = np.add.reduceat(weights, starts) if len(weights) else np.zeros(0)
    counts = np.diff(starts, append=len(weights))
    factors = np.divide(counts, totals, out=np.zeros(len(starts)), where=totals > 0)
    return weights * np.repeat(factors, counts)


def draw_order(shuffle: Shuffle, rng: np.random.Generator, n: int) -> Any:
    """The order of n examples in an epoch, int64 indices, drawn by ``shuffle``."""
    if shuffle is True:
        return rng.permutation(n)
    if shuffle is False:
        return np.arange(n)
    order = np.ascontiguousarray(shuffle(rng, n))
    if order.shape != (n,) or order.dtype.kind not in "iu":
        raise ValueError(
            f"shuffle returned {order.dtype} of shape {order.shape}, but an epoch's order is "
            f"{n} integer indices"
        )
    if order.min() < 0 or order.max() >= n:
        raise ValueError(f"shuffle returned an index outside 0 to {n - 1}")
    return order.astype(np.int64)
