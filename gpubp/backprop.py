"""The four equations of backpropagation, one function each.

Layer l = 1 is the input and L the output. The book's column form stands beside each function; in
memory examples are rows: x is (m, n_1), z^l, a^l and delta^l are (m, n_l), w^l is (n_l, n_{l-1})
and w^l_jk joins neuron k of layer l-1 to neuron j of layer l. Lists run over the layers that have
weights: index 0 is l = 2, index -1 is L. ``xp`` is numpy or cupy; ``kernels`` is one of the
modules under :mod:`gpubp.kernels`. delta belongs to each example, nabla_b and nabla_w to the mean
cost over the m rows.

Source: M. Nielsen, Neural Networks and Deep Learning, chapter 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .activation import Activation, Softmax
from .cost import Cost, example_cost

Array = Any  # a numpy or a cupy array
Activations = Sequence[Activation | Softmax]


@dataclass(frozen=True)
class Gradients:
    """What backpropagation finds: ``cost`` is the mean over the m examples; the lists hold z, a
    and delta (m, n_l), nabla_b (n_l,) and nabla_w (n_l, n_{l-1}) for l = 2 .. L."""

    cost: float
    z: list[Array]
    a: list[Array]
    delta: list[Array]
    nabla_b: list[Array]
    nabla_w: list[Array]

    def __repr__(self) -> str:
        m, sizes = len(self.a[-1]), [a.shape[1] for a in self.a]
        return f"Gradients(cost={self.cost:.6g}, examples={m}, layers of {sizes} neurons)"


def feedforward(
    xp: ModuleType, weights: Sequence[Array], biases: Sequence[Array], sigma: Activations, x: Array
) -> tuple[list[Array], list[Array]]:
    """z^l = w^l a^{l-1} + b^l,  a^l = sigma(z^l); returns (z, a) for l = 2 .. L."""
    z, a = [], [x]
    for w, b, activation in zip(weights, biases, sigma, strict=True):
        z.append(a[-1] @ w.T + b)
        a.append(activation(xp, z[-1]))
    return z, a[1:]


def bp1(
    xp: ModuleType,
    kernels: ModuleType,
    z: Array,
    a: Array,
    y: Array,
    sigma: Activation | Softmax,
    cost: Cost,
) -> Array:
    """BP1: delta^L = grad_a C (x) sigma'(z^L), from z, a, y of the output layer, each (m, n_L).

    a - y where the pair of activation and cost simplifies; there sigma' cancels.
    """
    if isinstance(sigma, Softmax):
        return a * y.sum(axis=1, keepdims=True) - y  # a - y for targets that sum to 1
    if simplified := cost.simplify(sigma):
        return simplified[1](xp, z=z, a=a, y=y)
    delta = kernels.hadamard_sigma_prime(cost.grad_a(xp, z=z, a=a, y=y), z, a, sigma)
    return delta if cost.grad_z is None else delta + cost.grad_z(xp, z=z, a=a, y=y)


def bp2(
    kernels: ModuleType, w: Array, delta: Array, z: Array, a: Array, sigma: Activation | Softmax
) -> Array:
    """BP2: delta^l = ((w^{l+1})^T delta^{l+1}) (x) sigma'(z^l); w, delta of l+1 and z, a of l."""
    return kernels.hadamard_sigma_prime(delta @ w, z, a, sigma)


def bp3(delta: Array) -> Array:
    """BP3: dC/db^l = delta^l, here the mean over the m rows of delta: (n_l,)."""
    return delta.sum(axis=0) / len(delta)


def bp4(kernels: ModuleType, delta: Array, a: Array) -> Array:
    """BP4: dC/dw^l = delta^l (a^{l-1})^T, here the mean over the m rows: (n_l, n_{l-1})."""
    return kernels.outer_sum(delta, a)[0] / len(delta)


def backprop(
    xp: ModuleType,
    kernels: ModuleType,
    weights: Sequence[Array],
    biases: Sequence[Array],
    sigma: Activations,
    cost: Cost,
    x: Array,
    y: Array,
    importance: Array | None = None,
) -> Gradients:
    """The gradient of the mean cost over the rows of x (m, n_1) and y (m, n_L).

    ``importance`` (m,) are the examples' weights, of mean 1, by which C and delta are multiplied.
    """
    z, a = feedforward(xp, weights, biases, sigma, x)
    c = example_cost(xp, sigma[-1], cost, z[-1], a[-1], y)
    delta = [bp1(xp, kernels, z[-1], a[-1], y, sigma[-1], cost)]
    if importance is not None:
        c, delta = importance * c, [importance[:, None] * delta[0]]
    for l in reversed(range(len(weights) - 1)):
        delta.insert(0, bp2(kernels, weights[l + 1], delta[0], z[l], a[l], sigma[l]))
    return Gradients(
        cost=float(c.mean(dtype=float)),
        z=z,
        a=a,
        delta=delta,
        nabla_b=[bp3(d) for d in delta],
        nabla_w=[bp4(kernels, d, a_in) for d, a_in in zip(delta, [x, *a], strict=False)],
    )
