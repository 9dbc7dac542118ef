"""The demon: nudge one weighted input or one weight, and watch the cost follow delta.

delta^l_j = dC/dz^l_j says that a demon who adds dz to the weighted input z^l_j changes the cost by
about delta^l_j dz. What is left over is the next term of Taylor's series, 1/2 C'' dz^2: halving dz
must quarter it. The measured order of the error shows whether it does.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2, on the error delta.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .double import Double, check_layer, check_neuron
from .text import plain, table

if TYPE_CHECKING:
    from gpubp.network import Network

Array = np.ndarray[Any, Any]
_HALVINGS = 9  # dz, dz/2, ..., dz/512
_FLOOR = 1e3 * np.finfo(float).eps  # errors below this share of the cost are rounding


@dataclass(frozen=True)
class Perturbation:
    """The cost's real change beside its prediction, over several nudges; all arrays are (k,).

    ``what`` names the number that was nudged and ``equation`` the ``rate`` it was predicted with:
    ``prediction`` = rate * step, ``error`` = change - prediction. ``order`` is p in
    |error| ~ step^p as measured: about 2 where C curves, 3 where it happens not to; ``nan`` where
    the error is rounding for every step, because C is linear there and the prediction is exact.
    """

    what: str
    equation: str
    rate: float
    cost: float
    step: Array
    change: Array
    prediction: Array
    order: float

    @property
    def error(self) -> Array:
        """change - prediction, (k,)."""
        return np.asarray(self.change - self.prediction)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**plain(self), "error": plain(self.error)}

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [("step", "real change", "predicted", "error")]
        columns = (self.step, self.change, self.prediction, self.error)
        rows += [tuple(f"{v:+.6e}" for v in row) for row in zip(*columns, strict=True)]
        order = (
            "the error is rounding alone: the cost is linear here"
            if np.isnan(self.order)
            else f"the error shrinks as step^{self.order:.2f}"
        )
        head = f"Perturbation of {self.what}, {self.equation} = {self.rate:+.6e}"
        return f"{head}\n{table(rows)}\n{order}"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A picture: change and prediction, and the error's order; a matplotlib Figure, written to
        ``path`` if given."""
        from .pictures import draw_perturbation

        return draw_perturbation(self, path)


def perturb_input(
    net: Network, x: Any, y: Any, layer: int, neuron: int, dz: Any = 0.1
) -> Perturbation:
    """The change of the cost when dz is added to z^l_j, beside delta^l_j dz.

    Args:
        net: any network; computed in float64.
        x, y: (m, n_1) and (m,) or (m, n_L). For m > 1 the cost is the mean over the examples, each
            is nudged, and the rate is the mean of delta^l_j.
        layer: l, from 2 to L.
        neuron: j, from 0.
        dz: the largest nudge, which is halved again and again; or the nudges themselves.

    Raises:
        ValueError, TypeError: one sentence on a layer, neuron or nudge that does not exist.
    """
    i = check_layer(net, layer)
    j = check_neuron(neuron, "neuron", net.sizes[i + 1], layer)
    whole = Double.of(net, x, y)
    g = whole.backprop()

    def cost(step: float) -> float:
        z = g.z[i].copy()
        z[:, j] += step
        return float(whole.costs(i, z).mean())

    rate = float(g.delta[i][:, j].mean())
    return _perturb(f"z^{layer}_{j}", f"delta^{layer}_{j} (BP1, BP2)", rate, cost, _steps(dz, "dz"))


def perturb_weight(
    net: Network, x: Any, y: Any, layer: int, j: int, k: int, dw: Any = 0.1
) -> Perturbation:
    """The change of the cost when dw is added to w^l_jk, beside a^{l-1}_k delta^l_j dw (BP4).

    ``j`` is the neuron of layer l, ``k`` that of layer l - 1, both from 0; the rest as for
    :func:`perturb_input`.
    """
    i = check_layer(net, layer)
    check_neuron(j, "j", net.sizes[i + 1], layer)
    check_neuron(k, "k", net.sizes[i], layer - 1)
    whole = Double.of(net, x, y)
    g = whole.backprop()
    a_in = whole.a_in(i, g)

    def cost(step: float) -> float:
        z = g.z[i].copy()
        z[:, j] += step * a_in[:, k]
        return float(whole.costs(i, z).mean())

    rate = float(g.nabla_w[i][j, k])
    return _perturb(f"w^{layer}_{j},{k}", f"dC/dw^{layer}_{j},{k} (BP4)", rate, cost,
                    _steps(dw, "dw"))  # fmt: skip


def _steps(step: Any, name: str) -> Array:
    steps = np.asarray(step, float)
    if not (steps.size and steps.ndim <= 1 and np.all(np.isfinite(steps) & (steps != 0))):
        raise ValueError(f"{name}={step!r} must be a finite number other than 0, or a list of them")
    return steps if steps.ndim else steps * 0.5 ** np.arange(_HALVINGS + 1)


def _perturb(what: str, equation: str, rate: float, cost: Any, steps: Array) -> Perturbation:
    here = cost(0.0)
    change = np.array([cost(step) - here for step in steps.tolist()])
    prediction = rate * steps
    order = _order(steps, np.abs(change - prediction), _FLOOR * max(abs(here), np.abs(rate)))
    return Perturbation(what, equation, rate, here, steps, change, prediction, order)


def _order(steps: Array, errors: Array, floor: float) -> float:
    """The slope of log error over log step, on the smaller half of the steps whose error is more
    than rounding: there the series' next term no longer shows."""
    size, rows = np.abs(steps), np.flatnonzero(errors > floor)
    rows = rows[np.argsort(size[rows])][: max(2, -(-len(rows) // 2))]
    if len(np.unique(size[rows])) < 2:
        return float("nan")
    return float(np.polyfit(np.log(size[rows]), np.log(errors[rows]), 1)[0])
