"""Are the four equations right? Each array against the slope of the cost itself.

The complex step is the judge: dC/dp = Im C(p + ih) / h with h = 1e-30 subtracts nothing, so it is
exact to rounding (W. Squire, G. Trapp, Using complex variables to estimate derivatives of real
functions, SIAM Review 40, 1998). Central differences, (C(p + h) - C(p - h)) / 2h with h = 1e-6,
are the second opinion: they need no complex numbers, and lose half of the digits.

Where an array differs, each equation is then given the very numbers that it was computed from, so
that the one that is wrong is told from those that only pass its error on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.backprop import Gradients

from .double import QUIET, Double
from .matrices import relative
from .text import plain, table

if TYPE_CHECKING:
    from gpubp.network import Network

Array = np.ndarray[Any, Any]

BOUND = 1e-9  # on ||found - truth|| / ||truth|| of an array in float64
OWN_BOUND = {"float32": 2e-4, "float64": BOUND}  # on the network's own dtype against float64
ENTRIES = 1000  # of an array are all checked one by one; of a larger one, directions
DIRECTIONS = 20
_H, _CENTRAL = 1e-30, 1e-6


@dataclass(frozen=True)
class ArrayCheck:
    """One array: ``error`` against the complex step, ``central`` against central differences and
    ``own`` of the network's own dtype against float64, each ||found - truth|| / ||truth||.

    ``residual`` is what the ``equation`` misses when it is given the numbers it was computed from.
    ``checked`` says how: every entry, or along random directions, which see every entry and
    estimate the norm, there as a share of ||found||. The complex step judges; central differences
    are shown beside it, as they lose digits, and all of them where a kink lies within their step.
    """

    array: str
    equation: str
    layer: int
    checked: str
    error: float
    central: float
    own: float
    residual: float
    bound: float
    own_bound: float

    @property
    def passed(self) -> bool:
        """Whether the array is the gradient; NaN is not."""
        return self.error <= self.bound and self.own <= self.own_bound

    @property
    def to_blame(self) -> bool:
        """Whether its own equation is wrong, not only what it was computed from."""
        return not self.residual <= self.bound


@dataclass(frozen=True)
class GradCheck:
    """The verdict, array by array, the output layer first."""

    network: str
    examples: int
    dtype: str
    arrays: tuple[ArrayCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every array is the gradient."""
        return all(check.passed for check in self.arrays)

    @property
    def wrong(self) -> tuple[str, ...]:
        """What is wrong, in words: one sentence for each equation and layer."""
        found = []
        for check in self.arrays:
            if check.to_blame:
                why = f"given its own inputs, {check.equation} differs by {check.residual:.1e}"
            elif not check.error <= check.bound:
                continue  # it passes on the error of another equation
            elif not check.own <= check.own_bound:
                why = f"right in float64, but its {self.dtype} differs by {check.own:.1e}"
            else:
                continue
            found.append(f"{check.equation} is wrong at layer {check.layer}: {check.array}: {why}")
        if not (found or self.passed):
            found.append(
                "every equation follows from its inputs, but the cost has other slopes: the cost, "
                "or a derivative that it is computed with, is wrong"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**plain(self), "passed": self.passed, "wrong": list(self.wrong)}

    def __repr__(self) -> str:
        rows = [("array", "equation", "checked", "complex step", "central", self.dtype, "")]
        rows += [
            (check.array, check.equation, check.checked, f"{check.error:.1e}",
             f"{check.central:.1e}", f"{check.own:.1e}", "ok" if check.passed else "WRONG")
            for check in self.arrays
        ]  # fmt: skip
        verdict = list(self.wrong) or [f"all agree with the slopes of the cost within {BOUND:g}"]
        head = f"GradCheck of {self.network} on {self.examples} examples: relative differences"
        return "\n".join([head, table(rows), *verdict])


@QUIET
def gradcheck(net: Network, x: Any, y: Any, rng: int | np.random.Generator = 0) -> GradCheck:
    """BP1-BP4 by the network's own backend against the slopes of its cost.

    Args:
        net: any network; its kernels are run in float64, and then in its own dtype.
        x, y: (m, n_1) and (m,) or (m, n_L); a few examples are enough.
        rng: draws the directions along which arrays of more than ENTRIES = 1000 are checked.

    Returns:
        one :class:`ArrayCheck` for delta (m, n_l), nabla_b (n_l,) and nabla_w (n_l, n_{l-1}) of
        every layer, and in words which equation is wrong when one is.
    """
    whole, rng = Double.of(net, x, y), np.random.default_rng(rng)
    g, own = whole.backprop(), net.backprop(x, y)
    host, m = whole.backend.asnumpy, len(whole.x)
    checks = []
    for i in reversed(range(len(net.activations))):
        l, given, a_in = i + 2, _given(whole, g, i), host(whole.a_in(i, g))
        first = "BP1" if l == len(net.sizes) else "BP2"
        # delta^l belongs to the sum of C_x over the examples, the gradients to its mean
        for name, equation, moves, share in (
            ("delta", first, lambda d: d, 1.0),
            ("nabla_b", "BP3", lambda d: np.tile(d, (m, 1)), 1 / m),
            ("nabla_w", "BP4", partial(_move_weights, a_in), 1 / m),
        ):
            found = host(getattr(g, name)[i])
            slopes = partial(_slopes, whole, i, host(g.z[i]), moves, share)
            checked, error, central = _compare(found, slopes, rng)
            expected, mine = given[name], host(getattr(own, name)[i]).astype(float)
            checks.append(
                ArrayCheck(
                    f"{name}^{l}", equation, l, checked, error, central, relative(mine, found),
                    error if expected is None else relative(found, expected),
                    BOUND, OWN_BOUND[net.dtype],
                )
            )  # fmt: skip
    return GradCheck(repr(net), m, net.dtype, tuple(checks))


def _move_weights(a_in: Array, d: Array) -> Array:
    """What a direction d in w^l adds to z^l = w^l a^{l-1} + b^l."""
    return np.asarray(a_in @ d.T)


def _slopes(
    whole: Double, i: int, z: Array, moves: Callable[[Array], Array], share: float, d: Array
) -> tuple[float, float]:
    """The slope of the cost along d by the complex step and by central differences; ``moves``
    says how d moves z^l."""

    def costs(step: complex) -> Array:
        return whole.backend.asnumpy(whole.costs(i, whole.backend.asarray(z + step * moves(d))))

    complex_step = costs(1j * _H).imag.sum() / _H
    central = (costs(_CENTRAL) - costs(-_CENTRAL)).sum() / (2 * _CENTRAL)
    return share * float(complex_step), share * float(central)


def _compare(
    found: Array, slopes: Callable[[Array], tuple[float, float]], rng: np.random.Generator
) -> tuple[str, float, float]:
    """(how, error against the complex step, against central differences)."""
    if found.size <= ENTRIES:
        each = [slopes(d) for d in np.eye(found.size).reshape(-1, *found.shape)]
        exact, central = np.array(each).T.reshape(2, *found.shape)
        return f"{found.size} entries", relative(found, exact), relative(found, central)
    # Of directions D with unit variance, the mean of <found - truth, D>^2 is ||found - truth||^2.
    misses: list[list[float]] = []
    for _ in range(DIRECTIONS):
        d = np.asarray(rng.standard_normal(found.shape))
        slope = float(np.vdot(found, d))
        misses.append([slope - truth for truth in slopes(d)])
    scale = DIRECTIONS**0.5 * (float(np.linalg.norm(found)) or 1.0)
    exact, central = np.linalg.norm(np.array(misses), axis=0) / scale
    return f"{DIRECTIONS} directions", float(exact), float(central)


def _given(whole: Double, g: Gradients, i: int) -> dict[str, Array | None]:
    """What each equation makes, in plain NumPy, of the numbers that its own result came from; for
    BP1, whose inputs are the forward pass, the slope of the cost decides: ``None``."""
    host = whole.backend.asnumpy
    delta, a_in = host(g.delta[i]), host(whole.a_in(i, g))
    found: dict[str, Array | None] = {
        "delta": None,
        "nabla_b": delta.mean(axis=0),
        "nabla_w": delta.T @ a_in / len(delta),
    }
    if i + 1 < len(whole.weights):
        stepped = whole.activations[i](np, host(g.z[i]) + 1j * _H)
        found["delta"] = (host(g.delta[i + 1]) @ host(whole.weights[i + 1])) * stepped.imag / _H
    return found
