"""Every quantity of the four equations for every example, beside the equation that made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.activation import Softmax
from gpubp.arrays import as_input, as_targets
from gpubp.cost import example_cost
from gpubp.printable import printable

from .text import brief, plain, table

if TYPE_CHECKING:
    from gpubp.network import Network

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerTrace:
    """Layer l of a :class:`Trace`: NumPy arrays, a row an example.

    ``a_in`` is a^{l-1} (m, n_{l-1}); ``z``, ``a``, ``delta`` and ``sigma_prime`` = sigma'(z) are
    (m, n_l); ``sigma_prime`` is ``None`` for softmax, which is not elementwise. ``equations`` maps
    each name, also those of the properties, to the equation that made it.
    """

    l: int
    activation: str
    a_in: Array
    z: Array
    a: Array
    sigma_prime: Array | None
    delta: Array
    equations: dict[str, str]

    @property
    def nabla_b(self) -> Array:
        """BP3: dC_x/db^l = delta^l of each example, (m, n_l)."""
        return self.delta

    @cached_property
    def nabla_w(self) -> Array:
        """BP4: dC_x/dw^l = delta^l (a^{l-1})^T of each example, (m, n_l, n_{l-1})."""
        return np.asarray(self.delta[:, :, None] * self.a_in[:, None, :])

    def to_dict(self) -> dict[str, Any]:
        """Everything, nabla_b and nabla_w too, as JSON can hold it."""
        return {**plain(self), "nabla_b": plain(self.nabla_b), "nabla_w": plain(self.nabla_w)}

    def __repr__(self) -> str:
        return f"layer {self.l}, {printable(self.activation)}, {self.z.shape[1]} neurons\n" + table(
            [
                (name, str(values.shape), brief(values[0]), equation)
                for name, equation in self.equations.items()
                if (values := getattr(self, name)) is not None
            ]
        )


@dataclass(frozen=True)
class Trace:
    """What forward pass and backpropagation computed for m examples.

    ``x`` is (m, n_1), ``y`` (m, n_L); ``cost`` is C_x of each example, (m,); ``grad_a`` is
    grad_a C (m, n_L); ``layers`` hold l = 2 .. L, and ``trace[l]`` is layer l.
    """

    x: Array
    y: Array
    cost: Array
    grad_a: Array
    cost_name: str
    layers: tuple[LayerTrace, ...]

    def __getitem__(self, l: int) -> LayerTrace:
        if l not in range(2, len(self.layers) + 2):
            raise IndexError(f"layer {l} has no weights: they go from 2 to {len(self.layers) + 1}")
        return self.layers[l - 2]

    def __getattr__(self, name: str) -> Any:
        if name in ("z", "a", "sigma_prime", "delta", "nabla_b", "nabla_w"):
            raise AttributeError(
                f"every layer of a trace has a {name} of its own: trace[2].{name} is layer 2's, "
                f"trace[{len(self.layers) + 1}].{name} the output's"
            )
        raise AttributeError(f"a trace has no {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it: arrays as nested lists, NaN and infinity as None."""
        whole = {name: plain(value) for name, value in vars(self).items() if name != "layers"}
        return whole | {"layers": [layer.to_dict() for layer in self.layers]}

    def __repr__(self) -> str:
        sizes = [self.x.shape[1], *(layer.z.shape[1] for layer in self.layers)]
        head = (
            f"Trace of {len(self.x)} example{'s' * (len(self.x) > 1)} through {sizes}, cost "
            f"{printable(self.cost_name)}: mean C = {self.cost.mean():.6g}"
        )
        if len(self.x) > 1:
            head += "; values are those of example 0"
        return "\n".join([head, *map(repr, self.layers)])

    def plot(self, path: str | os.PathLike[str] | None = None, example: int = 0) -> Any:
        """A picture of one example's z, a, sigma', delta and nabla_w, a column a layer: a
        matplotlib Figure, written to ``path`` if given."""
        from .pictures import draw_trace

        return draw_trace(self, example, path)


def trace(net: Network, x: Any, y: Any) -> Trace:
    """z, a, sigma'(z), delta, nabla_b and nabla_w of every layer for each example.

    Args:
        net: computed with its own backend and dtype.
        x: (m, n_1), as for ``net.backprop``.
        y: (m,) labels or (m, n_L) targets.

    Raises:
        ValueError, TypeError: one sentence on what x and y must be.

    Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2.
    """
    xp, host = net.backend.xp, net.backend.asnumpy
    x, y = net.check_data(x, y)
    x, y = as_input(xp, x, net.dtype), as_targets(xp, y, net.sizes[-1], net.dtype)
    g = net.backprop(x, y)
    layers = []
    for i, sigma in enumerate(net.activations):
        l, is_output = i + 2, i == len(net.activations) - 1
        layers.append(
            LayerTrace(
                l, sigma.name, host(g.a[i - 1] if i else x), host(g.z[i]), host(g.a[i]),
                None if isinstance(sigma, Softmax) else host(sigma.prime(xp, g.z[i], g.a[i])),
                host(g.delta[i]),
                {
                    "z": f"z^{l} = w^{l} a^{l - 1} + b^{l}",
                    "a": f"a^{l} = {sigma.name}(z^{l})" if sigma.name.isidentifier()
                    else f"a^{l} = sigma(z^{l}), sigma(z) = {sigma.name}",
                    "sigma_prime": f"sigma'(z^{l})",
                    "delta": _bp1(net, l) if is_output
                    else f"BP2: delta^{l} = ((w^{l + 1})^T delta^{l + 1}) (x) sigma'(z^{l})",
                    "nabla_b": f"BP3: dC/db^{l} = delta^{l}",
                    "nabla_w": f"BP4: dC/dw^{l} = delta^{l} (a^{l - 1})^T",
                },
            )
        )  # fmt: skip
    z, a = g.z[-1], g.a[-1]
    cost = example_cost(xp, net.activations[-1], net.cost, z, a, y)
    grad_a = net.cost.grad_a(xp, z=z, a=a, y=y)
    return Trace(host(x), host(y), host(cost), host(grad_a), net.cost.name, tuple(layers))


def _bp1(net: Network, l: int) -> str:
    """BP1 as this pair of output activation and cost has it."""
    output, cost = net.activations[-1], net.cost
    if isinstance(output, Softmax):
        return f"BP1: delta^{l} = a^{l} - y (softmax with log_likelihood)"
    if simplified := cost.simplify(output):
        right = simplified[1].source.replace("a", f"a^{l}")
        return f"BP1: delta^{l} = {right} ({output.name} with {cost.name}: sigma' cancels)"
    extra = "" if cost.grad_z is None else f" + dC/dz^{l}"
    return f"BP1: delta^{l} = grad_a C (x) sigma'(z^{l}){extra}"
