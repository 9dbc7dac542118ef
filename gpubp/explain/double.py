"""A network and its examples in float64: what explanations are computed with.

Layers are named as in the equations, l = 2 .. L; neurons, and rows of examples, count from 0 as
arrays do. Lists run over l = 2 .. L, so that layer l stands at index l - 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import backprop as equations
from gpubp.activation import Activation, Softmax
from gpubp.arrays import as_input, as_targets, check_count
from gpubp.backend import Backend
from gpubp.backprop import Array, Gradients
from gpubp.cost import Cost, example_cost

if TYPE_CHECKING:
    from gpubp.network import Network

QUIET = np.errstate(over="ignore", invalid="ignore")  # infinite numbers show in what is reported


def check_layer(net: Network, layer: Any) -> int:
    """The list index l - 2 of a layer that has weights."""
    last = len(net.sizes)
    if check_count(layer, "layer", least=0) not in range(2, last + 1):
        raise ValueError(
            f"layer={layer} has no weighted inputs: layers count as in the equations, and this "
            f"network's go from 2 to {last}"
        )
    return int(layer) - 2


def check_neuron(value: Any, name: str, neurons: int, layer: int) -> int:
    """A neuron's index, from 0."""
    j = check_count(value, name, least=0)
    if j >= neurons:
        raise ValueError(
            f"{name}={j} is not in layer {layer}: its neurons count from 0 to {neurons - 1}"
        )
    return j


def plain_kernels(xp: ModuleType) -> Any:
    """The two kernels that the equations need, as array expressions: nothing to compile."""

    def hadamard_sigma_prime(v: Array, z: Array, a: Array, activation: Activation) -> Array:
        return v * activation.prime(xp, z, a)

    def outer_sum(delta: Array, a: Array) -> tuple[Array, Array]:
        return delta.T @ a, delta.sum(axis=0)

    return SimpleNamespace(hadamard_sigma_prime=hadamard_sigma_prime, outer_sum=outer_sum)


@dataclass(frozen=True)
class Double:
    """A network's parameters and the examples x (m, n_1), y (m, n_L), all float64."""

    backend: Backend
    weights: list[Array]
    biases: list[Array]
    activations: tuple[Activation | Softmax, ...]
    cost: Cost
    x: Array
    y: Array

    @classmethod
    def of(cls, net: Network, x: Any, y: Any) -> Double:
        """The network's present parameters, and x and y as it reads them."""
        xp = net.backend.xp
        x, y = net.check_data(x, y)
        return cls(
            net.backend,
            [w.astype(float) for w in net.weights],
            [b.astype(float) for b in net.biases],
            net.activations,
            net.cost,
            as_input(xp, x, "float64"),
            as_targets(xp, y, net.sizes[-1], "float64").astype(float, copy=False),
        )

    @property
    def xp(self) -> ModuleType:
        return self.backend.xp

    @QUIET
    def backprop(self) -> Gradients:
        """BP1-BP4 by the backend's own kernels."""
        return equations.backprop(
            self.xp, self.backend.kernels, self.weights, self.biases, self.activations, self.cost,
            self.x, self.y,
        )  # fmt: skip

    @QUIET
    def costs(self, i: int, z: Array) -> Array:
        """C of each example, (m,), if the weighted inputs of layer i + 2 were z (m, n); z may be
        complex, for the complex step."""
        a = self.activations[i](self.xp, z)
        if i + 1 < len(self.weights):
            zs, as_ = equations.feedforward(
                self.xp, self.weights[i + 1 :], self.biases[i + 1 :], self.activations[i + 1 :], a
            )
            z, a = zs[-1], as_[-1]
        return example_cost(self.xp, self.activations[-1], self.cost, z, a, self.y)

    def a_in(self, i: int, g: Gradients) -> Array:
        """a^{l-1} (m, n_{l-1}) of layer l = i + 2."""
        return self.x if i == 0 else g.a[i - 1]

    @property
    def takes_cost_at_z(self) -> bool:
        """Whether C is a function of z^L that sigma'(z^L) is no separate factor of: softmax, a
        pair such as sigmoid with cross-entropy that simplifies, or a cost that names z."""
        output = self.activations[-1]
        simple = isinstance(output, Softmax) or self.cost.simplify(output) is not None
        return simple or self.cost.grad_z is not None

    def sigma_primes(self, g: Gradients) -> list[Array]:
        """sigma'(z^l) (m, n_l) of every layer; of an output that :attr:`takes_cost_at_z`, 1."""
        z_a = zip(self.activations, g.z, g.a, strict=True)
        primes = [
            self.xp.ones_like(z) if isinstance(sigma, Softmax) else sigma.prime(self.xp, z, a)
            for sigma, z, a in z_a
        ]
        if self.takes_cost_at_z:
            primes[-1] = self.xp.ones_like(primes[-1])
        return primes

    def rate_of_cost(self, g: Gradients) -> Array:
        """dC/da^L (m, n_L); of an output that :attr:`takes_cost_at_z`, dC/dz^L."""
        if self.takes_cost_at_z:
            return g.delta[-1]
        return self.cost.grad_a(self.xp, z=g.z[-1], a=g.a[-1], y=self.y)
