"""sigma(z) and sigma'(z): the activations by name, and how to define one of your own.

An elementwise activation is two formulas in the language of :mod:`gpubp.expression`: ``sigma`` in
z, and ``sigma_prime`` in z and a = sigma(z), because for several of them a is the cheaper and the
more exact way (sigmoid: a(1 - a)). Every backend compiles or evaluates these same formulas.

Each form below is finite wherever its value fits float32 or float64: where exp overflows it stands
in a denominator or in an untaken branch, and expm1 and erfc keep the digits that exp(z) - 1 and
1 + erf(z) lose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import is_name, unknown
from .expression import Expression
from .printable import brief
from .slope import check_derivative

# SELU's two constants (Klambauer et al., 2017): the fixed point of mean 0, variance 1.
_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772

# name: (sigma in z, sigma' in z and a)
_FORMULAS = {
    "sigmoid": ("1/(1 + exp(-z))", "a*(1 - a)"),
    "tanh": ("tanh(z)", "1 - a*a"),
    "relu": ("max(z, 0)", "where(z > 0, 1, 0)"),
    "leaky_relu": ("where(z > 0, z, 0.01*z)", "where(z > 0, 1, 0.01)"),
    "elu": ("where(z > 0, z, expm1(z))", "where(z > 0, 1, exp(z))"),
    "selu": (
        f"where(z > 0, {_SCALE}*z, {_SCALE * _ALPHA}*expm1(z))",
        f"where(z > 0, {_SCALE}, {_SCALE * _ALPHA}*exp(z))",
    ),
    "gelu": (
        "0.5*z*erfc(-0.7071067811865476*z)",
        "0.5*erfc(-0.7071067811865476*z) + 0.3989422804014327*z*exp(-0.5*z*z)",
    ),
    "silu": ("z/(1 + exp(-z))", "1/(1 + exp(-z)) + a/(1 + exp(z))"),
    "softplus": ("max(z, 0) + log1p(exp(-abs(z)))", "1/(1 + exp(-z))"),
    "softsign": ("z/(1 + abs(z))", "1/((1 + abs(z))*(1 + abs(z)))"),
    "identity": ("z", "1"),
}

# What other libraries call them.
_ELSEWHERE = {
    **dict.fromkeys(("linear", "none"), "identity"),
    **dict.fromkeys(("logistic", "expit"), "sigmoid"),
    "swish": "silu", "lrelu": "leaky_relu",
    "relu6": "use the formula 'min(max(z, 0), 6)'",
    "hardtanh": "use the formula 'max(-1, min(1, z))'",
    "mish": "use the formula 'z*tanh(log1p(exp(z)))'",
}  # fmt: skip


@dataclass(frozen=True)
class Activation:
    """a = sigma(z), elementwise, with its derivative ``sigma_prime`` in z and a.

    Use :func:`define_activation` to make one: it derives and checks the derivative.
    """

    name: str
    sigma: Expression
    sigma_prime: Expression

    def __call__(self, xp: Any, z: Any) -> Any:
        """a = sigma(z), shape and dtype of z; ``xp`` is numpy or cupy."""
        return self.sigma(xp, z=z)

    def prime(self, xp: Any, z: Any, a: Any) -> Any:
        """sigma'(z), shape and dtype of z."""
        return self.sigma_prime(xp, z=z, a=a)

    @cached_property
    def in_unit_interval(self) -> bool:
        """Whether every output lies in [0, 1], as cross-entropy and log-likelihood need."""
        a = self(np, np.concatenate([np.linspace(-50, 50, 2001), np.array([-1e4, 1e4])]))
        return bool(np.all((a >= 0) & (a <= 1)))


@dataclass(frozen=True)
class Softmax:
    """a_j = exp(z_j) / sum_k exp(z_k): not elementwise, so an output layer only."""

    name: str = "softmax"
    in_unit_interval: bool = True

    def __call__(self, xp: Any, z: Any) -> Any:
        """a = softmax(z) along the rows of z (m, n)."""
        e = xp.exp(z - z.max(axis=1, keepdims=True))  # the largest exponent is 0: no overflow
        return e / e.sum(axis=1, keepdims=True)


SOFTMAX = Softmax()
ACTIVATIONS: dict[str, Activation | Softmax] = {
    **{
        name: Activation(name, Expression(sigma, ("z",)), Expression(prime, ("z", "a")))
        for name, (sigma, prime) in _FORMULAS.items()
    },
    "softmax": SOFTMAX,
}


def define_activation(name: str, sigma: str, sigma_prime: str | None = None) -> Activation:
    """An activation from a formula: ``define_activation("softsign", "z/(1 + abs(z))")``.

    ``sigma`` is in z; ``sigma_prime`` is in z and a, and is derived symbolically when it is not
    given. Either way it is compared with sigma's own slope at many points, far out and on both
    sides of every switch, and a ``ValueError`` names the point where they differ. The result goes
    wherever a name goes.
    """
    if name in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is built in: give your own another name")
    f = Expression(sigma, ("z",))
    df = Expression(f.derivative("z").source if sigma_prime is None else sigma_prime, ("z", "a"))
    check_derivative(f, df, "z", given={"a": f})
    return Activation(name, f, df)


def get_activation(activation: str | Activation | Softmax) -> Activation | Softmax:
    """The activation of that name; a formula in z such as ``"z/(1 + abs(z))"`` defines one."""
    if isinstance(activation, Activation | Softmax):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"an activation is a name, a formula in z or an Activation, not {brief(activation)}"
        )
    if activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    if is_name(activation):
        raise unknown("activation", activation, ACTIVATIONS, _ELSEWHERE)
    return define_activation(activation, activation)


def get_activations(
    activation: str | Activation | Softmax | Sequence[str | Activation | Softmax], layers: int
) -> tuple[Activation | Softmax, ...]:
    """One activation a layer with weights: one for all, or a sequence of ``layers`` of them."""
    if isinstance(activation, str) or not isinstance(activation, Iterable):
        return (get_activation(activation),) * layers
    found = tuple(get_activation(item) for item in activation)
    if len(found) != layers:
        raise ValueError(
            f"{len(found)} activations for {layers} layers with weights: "
            "give one for all of them, or one for each"
        )
    return found
