"""Backpropagation as a product of matrices, and why the Hadamard form is preferred.

With Sigma'(z) the square matrix that has sigma'(z_j) on its diagonal and zeros elsewhere,

    delta^l = Sigma'(z^l) (w^{l+1})^T .. Sigma'(z^{L-1}) (w^L)^T Sigma'(z^L) grad_a C

is BP1 and BP2 together. To multiply by Sigma' as a matrix takes n^2 products, all but n of them by
zero; the Hadamard product with sigma'(z) takes n.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2, problem "Alternate presentation
of the equations of backpropagation".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .double import Double
from .text import plain, table

if TYPE_CHECKING:
    from gpubp.network import Network

Array = np.ndarray[Any, Any]

MAX_NUMBERS = 1 << 26  # in the matrices of all examples: half a GiB


@dataclass(frozen=True)
class MatrixForm:
    """The matrix form for m examples, l = 2 .. L in every list; float64.

    ``sigma_primes`` are the diagonal matrices Sigma'(z^l) (m, n_l, n_l); ``products`` are
    Sigma'(z^l) (w^{l+1})^T .. Sigma'(z^L), (m, n_l, n_L), which take ``grad_a`` (m, n_L) to
    ``delta`` (m, n_l). ``errors`` are ||delta - BP2's|| / ||BP2's||. ``matrix_seconds`` and
    ``hadamard_seconds`` are what all deltas took in either form, the best of several; and
    ``matrix_products``, ``hadamard_products`` the multiplications by Sigma' and sigma'.
    """

    sigma_primes: list[Array]
    products: list[Array]
    grad_a: Array
    delta: list[Array]
    errors: list[float]
    matrix_seconds: float
    hadamard_seconds: float
    matrix_products: int
    hadamard_products: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        m, ratio = len(self.grad_a), self.matrix_seconds / self.hadamard_seconds
        rows = [
            (f"delta^{i + 2}", f"{product.shape[1]} x {product.shape[2]}", f"{error:.1e}")
            for i, (product, error) in enumerate(zip(self.products, self.errors, strict=True))
        ]
        return (
            f"MatrixForm of {m} example{'s' * (m > 1)}\n"
            + table([("", "product", "differs from BP1, BP2 by"), *rows])
            + f"\nwith matrices Sigma'  {1e6 * self.matrix_seconds:10.1f} microseconds, "
            f"{self.matrix_products:,} multiplications by sigma' or 0"
            + f"\nHadamard, (x) sigma'  {1e6 * self.hadamard_seconds:10.1f} microseconds, "
            f"{self.hadamard_products:,} multiplications by sigma'"
            + f"\nthe matrix form takes {ratio:.1f} times as long"
        )


def matrix_form(net: Network, x: Any, y: Any, repeats: int = 5) -> MatrixForm:
    """delta^l as a product of diagonal matrices and transposed weights, beside BP2's.

    Args:
        net: any network; computed in float64. Where C is a function of z^L (softmax; sigmoid with
            cross-entropy) the product ends in the identity and dC/dz^L instead of Sigma'(z^L) and
            grad_a C.
        x, y: (m, n_1) and (m,) or (m, n_L).
        repeats: how often each form is timed; the fastest counts.

    Raises:
        ValueError: where the matrices are too large to hold: pass fewer rows.
    """
    whole = Double.of(net, x, y)
    xp, m, sizes = whole.xp, len(whole.x), net.sizes[1:]
    numbers = m * sum(n * n + 2 * n * sizes[-1] for n in sizes)
    if numbers > MAX_NUMBERS:
        raise ValueError(
            f"the matrices of {m} examples hold {numbers:,} numbers, more than {MAX_NUMBERS:,}: "
            "pass fewer rows of x, or a smaller network"
        )
    g = whole.backprop()
    primes, grad_a = whole.sigma_primes(g), whole.rate_of_cost(g)
    matrices = [prime[:, :, None] * xp.eye(prime.shape[1]) for prime in primes]

    def by_matrices() -> list[Array]:
        delta = [(matrices[-1] @ grad_a[:, :, None])[:, :, 0]]
        for w, sigma in zip(whole.weights[:0:-1], matrices[-2::-1], strict=True):
            delta.insert(0, (sigma @ (delta[0] @ w)[:, :, None])[:, :, 0])
        return delta

    def by_hadamard() -> list[Array]:
        delta = [grad_a * primes[-1]]
        for w, prime in zip(whole.weights[:0:-1], primes[-2::-1], strict=True):
            delta.insert(0, (delta[0] @ w) * prime)
        return delta

    products = [matrices[-1]]
    for w, sigma in zip(whole.weights[:0:-1], matrices[-2::-1], strict=True):
        products.insert(0, sigma @ (w.T @ products[0]))
    delta = [(product @ grad_a[:, :, None])[:, :, 0] for product in products]
    host = whole.backend.asnumpy
    return MatrixForm(
        [host(sigma) for sigma in matrices],
        [host(product) for product in products],
        host(grad_a),
        [host(d) for d in delta],
        [relative(host(d), host(bp2)) for d, bp2 in zip(delta, g.delta, strict=True)],
        _seconds(whole, by_matrices, repeats),
        _seconds(whole, by_hadamard, repeats),
        m * sum(n * n for n in sizes),
        m * sum(sizes),
    )


def relative(found: Any, truth: Any) -> float:
    """||found - truth|| / ||truth||; of a zero truth, ||found||."""
    return float(np.linalg.norm(found - truth)) / (float(np.linalg.norm(truth)) or 1.0)


def _seconds(whole: Double, compute: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(max(1, repeats)):
        whole.backend.synchronize()
        started = time.perf_counter()
        compute()
        whole.backend.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
