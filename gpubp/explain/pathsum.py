"""The gradient of one weight as the sum over all paths from it to the cost.

A change of w^l_jk changes a^l_j, that changes every neuron of layer l + 1, and so on to the cost:

    dC/dw^l_jk = sum over j, q, .., t, u of
        dC/da^L_u  da^L_u/da^{L-1}_t  ..  da^{l+1}_q/da^l_j  da^l_j/dw^l_jk

Each edge has a rate factor, da^l_j/da^{l-1}_k = sigma'(z^l_j) w^l_jk; the first of a path is
da^l_j/dw^l_jk = sigma'(z^l_j) a^{l-1}_k. Backpropagation is the way to add up all paths at once.

Where C is a function of z^L (softmax; sigmoid with cross-entropy), z^L stands for a^L: the factor
sigma'(z^L) and its reciprocal in dC/da^L, which overflows, are never computed.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2, the big picture.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.activation import Softmax
from gpubp.arrays import as_input, check_count, check_x
from gpubp.backprop import feedforward
from gpubp.errors import unknown

from .double import Double, check_layer, check_neuron
from .text import plain, table

if TYPE_CHECKING:
    from gpubp.network import Network

Array = np.ndarray[Any, Any]

MAX_PATHS = 1_000_000  # that are enumerated
MAX_FACTORS = 1 << 26  # numbers that rate_factors returns: half a GiB


@dataclass(frozen=True)
class Path:
    """One path: the ``neurons`` j, q, .., u it visits in the layers l .. L, and its ``rate``, the
    product of its ``factors`` (da^l_j/dw^l_jk, each edge's, dC/da^L_u), as a mean over examples.

    ``factors`` is (m, L - l + 2).
    """

    neurons: tuple[int, ...]
    rate: float
    factors: Array


@dataclass(frozen=True)
class Paths:
    """The sum over the paths of weight w^l_jk (``layer``, ``j``, ``k``).

    ``count`` paths add up to ``total``; ``nabla_w`` is what BP4 finds, ``error`` their relative
    difference. ``strongest`` has the paths of largest |rate|, the strongest first; ``sizes``
    are the network's.
    """

    layer: int
    j: int
    k: int
    method: str
    count: int
    total: float
    nabla_w: float
    error: float
    strongest: tuple[Path, ...]
    sizes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        name = f"w^{self.layer}_{self.j},{self.k}"
        lines = [
            f"Paths of {name}: {self.count:,} paths, {self.method}; their sum {self.total:+.9e}, "
            f"nabla_w (BP4) {self.nabla_w:+.9e}, relative difference {self.error:.1e}"
        ]
        if self.strongest:
            rows = [
                (f"{path.rate:+.4e}", self.route(path), self.product(path))
                for path in self.strongest
            ]
            lines += [f"the {len(rows)} strongest, by |rate|", table(rows)]
        return "\n".join(lines)

    def route(self, path: Path) -> str:
        """``w^2_4,7 > 4 > 1 > C``: the neurons from layer l to L."""
        stops = " > ".join(map(str, path.neurons))
        return f"w^{self.layer}_{self.j},{self.k} > {stops} > C"

    def product(self, path: Path) -> str:
        """The factors of a single example's path; of several examples, nothing."""
        if len(path.factors) != 1:
            return ""
        return "= " + " * ".join(f"{factor:+.3g}" for factor in path.factors[0])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A picture of the strongest paths through the network: a matplotlib Figure, written to
        ``path`` if given."""
        from .pictures import draw_paths

        return draw_paths(self, path)


def rate_factors(net: Network, x: Any) -> list[Array]:
    """Each edge's rate factor da^l_j/da^{l-1}_k = sigma'(z^l_j) w^l_jk, float64.

    Args:
        net: any network.
        x: (m, n_1).

    Returns:
        for l = 2 .. L an array (m, n_l, n_{l-1}) of NumPy. In a softmax layer every z^L_i moves
        a^L_j: the factor is sum_i a_j (1[i = j] - a_i) w_ik.

    Raises:
        ValueError: where they are too many to hold: pass fewer rows.
    """
    xp = net.backend.xp
    x = as_input(xp, check_x(xp, x, net.sizes[0], net.dtype), "float64")
    count = len(x) * sum(w.size for w in net.weights)
    if count > MAX_FACTORS:
        raise ValueError(
            f"{len(x)} examples have {count:,} rate factors, more than {MAX_FACTORS:,}: pass fewer "
            "rows of x"
        )
    weights = [w.astype(float) for w in net.weights]
    z, a = feedforward(xp, weights, [b.astype(float) for b in net.biases], net.activations, x)
    found = []
    for w, zl, al, sigma in zip(weights, z, a, net.activations, strict=True):
        if isinstance(sigma, Softmax):
            factors = al[:, :, None] * (w - (al @ w)[:, None, :])
        else:
            factors = sigma.prime(xp, zl, al)[:, :, None] * w
        found.append(net.backend.asnumpy(factors))
    return found


def paths(
    net: Network, x: Any, y: Any, layer: int, j: int, k: int, *, strongest: int = 10,
    method: str = "enumerate",
) -> Paths:  # fmt: skip
    """dC/dw^l_jk as the sum over all paths from the weight to the cost.

    Args:
        net: any network; computed in float64.
        x, y: (m, n_1) and (m,) or (m, n_L); with m > 1 each path's rate is a mean over the rows.
        layer, j, k: w^l_jk, from neuron k of layer l - 1 to neuron j of layer l; l from 2 to L,
            neurons from 0.
        strongest: how many of the strongest paths to list.
        method: "enumerate" walks every path, up to MAX_PATHS = 1,000,000 of them; "matrix" adds
            them up as a product of matrices, and for one example still finds the strongest paths
            exactly, by keeping the best of each neuron from the cost downwards.

    Raises:
        ValueError: one sentence: no such weight, or too many paths to enumerate.
    """
    i = check_layer(net, layer)
    check_neuron(j, "j", net.sizes[i + 1], layer)
    check_neuron(k, "k", net.sizes[i], layer - 1)
    strongest = check_count(strongest, "strongest", least=0)
    if method not in ("enumerate", "matrix"):
        raise unknown("method", method, ("enumerate", "matrix"))
    count = math.prod(net.sizes[i + 2 :])
    if method == "enumerate" and count > MAX_PATHS:
        raise ValueError(
            f"w^{layer}_{j},{k} has {count:,} paths to the cost, more than the {MAX_PATHS:,} that "
            "are enumerated: pass method='matrix', which adds them up without walking each"
        )
    whole, host = Double.of(net, x, y), net.backend.asnumpy
    g = whole.backprop()
    primes = [host(prime) for prime in whole.sigma_primes(g)]
    a_in = whole.a_in(i, g)
    edges = _Edges(
        first=primes[i][:, j] * host(a_in[:, k]),
        weights=[host(w) for w in whole.weights[i + 1 :]],
        primes=primes[i + 1 :],
        last=host(whole.rate_of_cost(g)),
        start=j,
    )
    if method == "enumerate":
        total, best = edges.enumerate(strongest)
    else:
        total, best = edges.add_up(), edges.best_of_one(strongest) if len(a_in) == 1 else []
    nabla_w = float(g.nabla_w[i][j, k])
    return Paths(
        layer, j, k, "enumerated" if method == "enumerate" else "added up by matrix products",
        count, total, nabla_w, abs(total - nabla_w) / (abs(nabla_w) or 1.0),
        tuple(map(edges.path, best)), net.sizes,
    )  # fmt: skip


@dataclass(frozen=True)
class _Edges:
    """The factors of all paths from neuron ``start`` of layer l: ``first`` (m,), ``weights`` and
    ``primes`` of the layers above l, ``last`` = dC/da^L (m, n_L)."""

    first: Array
    weights: list[Array]
    primes: list[Array]
    last: Array
    start: int

    def factors(self, t: int, row: Any) -> Array:
        """sigma'(z_q) w_qp of the t-th layer above l, for one example: (n, n below)."""
        return np.asarray(self.primes[t][row][:, None] * self.weights[t])

    def enumerate(self, most: int) -> tuple[float, list[tuple[int, ...]]]:
        """Walk every path; (the sum of their rates, the neurons of the strongest)."""
        shape = tuple(len(w) for w in self.weights)
        rates = np.zeros(math.prod(shape))
        for row, first in enumerate(self.first):
            # rate[.., q] of all paths that have come as far as neuron q
            rate = np.asarray(first)[None]
            for t in range(len(shape)):
                factors = self.factors(t, row).T
                rate = rate[..., None] * (factors[self.start] if t == 0 else factors)
            end = self.last[row] if shape else self.last[row, self.start]
            rates += (rate * end).ravel()
        rates /= len(self.first)
        best = np.argsort(-np.abs(rates), kind="stable")[:most]
        return math.fsum(rates), [
            (self.start, *map(int, np.unravel_index(index, shape))) if shape else (self.start,)
            for index in best
        ]

    def add_up(self) -> float:
        """The same sum as dC/da^L times the matrices of rate factors, from the cost downwards."""
        v = self.last
        for t in reversed(range(len(self.weights))):
            v = (v * self.primes[t]) @ self.weights[t]
        return float((v[:, self.start] * self.first).mean())

    def best_of_one(self, most: int) -> list[tuple[int, ...]]:
        """The strongest paths of a single example, without walking each: the ``most`` best from a
        neuron upwards go through the ``most`` best of the neurons above it."""
        rate = np.abs(self.last[0])[:, None]  # (n, paths kept), strongest first
        route = np.arange(len(rate))[:, None, None]  # (n, paths kept, layers)
        for t in reversed(range(len(self.weights))):
            factors = np.abs(self.factors(t, 0)).T  # (n below, n)
            if t == 0:
                factors = factors[self.start : self.start + 1]
            kept = []
            for p, edge in enumerate(factors):
                rates = (edge[:, None] * rate).ravel()
                order = np.argsort(-rates, kind="stable")[:most]
                below = np.full((len(order), 1), self.start if t == 0 else p)
                steps = np.hstack([below, route.reshape(-1, route.shape[2])[order]])
                kept.append((rates[order], steps))
            rate = np.array([rates for rates, _ in kept])
            route = np.array([steps for _, steps in kept])
        if not self.weights:
            return [(self.start,)] if most else []
        return [tuple(map(int, steps)) for steps in route[0]]

    def path(self, neurons: tuple[int, ...]) -> Path:
        hops = [
            self.primes[t][:, q] * self.weights[t][q, p]
            for t, (p, q) in enumerate(itertools.pairwise(neurons))
        ]
        factors = np.stack([self.first, *hops, self.last[:, neurons[-1]]], axis=1)
        return Path(neurons, float(factors.prod(axis=1).mean()), factors)
