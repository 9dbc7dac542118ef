"""Other ways to the same numbers, each independent of the code it judges.

The complex step, central differences, the book's per-example loop in column form, exact scalar
functions (mpmath), PyTorch's functions, and the norm-wise error that compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import gpubp
from gpubp.activation import ACTIVATIONS, Softmax, define_activation
from gpubp.backprop import feedforward
from gpubp.cost import COSTS, check_pair, define_cost, example_cost
from gpubp.optimizer import SGD, Update

STEP = 1e-30  # of the complex step: far below rounding, and nothing is subtracted

CUSTOM_ACTIVATIONS = (
    define_activation("isru", "z/sqrt(1 + z*z)"),
    define_activation("bump", "0.05 + 0.9*exp(-z*z)"),
    define_activation("cubic", "z + 0.1*z**3", "1 + 0.3*z*z"),
    define_activation("half_erf", "0.5 + 0.5*erf(z)"),
)
CUSTOM_COSTS = (
    define_cost("student_t", "log1p((a - y)*(a - y))"),
    define_cost("quartic", "(a - y)**4", "4*(a - y)**3"),
    define_cost("logit", "max(z, 0) - z*y + log1p(exp(-abs(z)))"),
    define_cost("mixed", "0.5*(a - y)*(a - y) + 0.05*z*z*a"),
    define_cost("odds", "-y*log(0.01 + a) - (1 - y)*log(1.01 - a)", unit_interval=True),
)


def legal_pairs() -> list[Any]:
    """Every (output activation, cost) that a network accepts, built in and custom."""
    found = []
    for activation in (*ACTIVATIONS.values(), *CUSTOM_ACTIVATIONS):
        for cost in (*COSTS.values(), *CUSTOM_COSTS):
            try:
                check_pair([activation], cost)
            except ValueError:
                continue
            found.append((activation, cost))
    return found


def pair_id(item: Any) -> str:
    return str(item.name) if hasattr(item, "name") else ""


def normwise(found: Any, truth: Any) -> float:
    """||found - truth|| / ||truth||; of a zero truth, ||found||."""
    truth = np.asarray(truth)
    scale = float(np.linalg.norm(truth)) or 1.0
    return float(np.linalg.norm(np.asarray(found, truth.dtype) - truth)) / scale


# Products with operands of fewer bits: what precision="tf32" and "bf16" must compute


def rounded_to(bits: int, values: Any) -> Any:
    """The values rounded to so many significant bits, as far from 0 as can be in between."""
    mantissa, exponent = np.frexp(np.asarray(values))
    scale = values.dtype.type(2**bits)
    nearest = np.trunc(mantissa * scale + np.copysign(0.5, mantissa)) / scale
    return np.ldexp(nearest, exponent).astype(values.dtype)


class _Rounded(np.ndarray[Any, Any]):
    """An array whose matrix products round both operands, and so do those of what comes from it."""

    BITS: int

    def __matmul__(self, other: Any) -> Any:
        operands = (rounded_to(self.BITS, np.array(side)) for side in (self, other))
        return np.matmul(*operands).view(type(self))

    def __rmatmul__(self, other: Any) -> Any:
        operands = (rounded_to(self.BITS, np.array(side)) for side in (other, self))
        return np.matmul(*operands).view(type(self))


ROUNDED = {
    name: type(name, (_Rounded,), {"BITS": bits}) for name, bits in (("tf32", 11), ("bf16", 8))
}


def host(net: gpubp.Network, arrays: Any) -> list[Any]:
    return [net.backend.asnumpy(array) for array in arrays]


def flat(net: gpubp.Network) -> Any:
    """All weights and biases, on the host."""
    return net.backend.asnumpy(net.parameters.flat)


def gradient_error(net: gpubp.Network, g: Any, truth: Any) -> float:
    """The largest norm-wise error of any array of the gradient; truth is (nabla_w, nabla_b)."""
    pairs = zip(host(net, [*g.nabla_w, *g.nabla_b]), [*truth[0], *truth[1]], strict=True)
    return max(normwise(found, right) for found, right in pairs)


# The complex step: dC/dp = Im C(p + ih) / h


def mean_cost(net: gpubp.Network, weights: Any, biases: Any, x: Any, y: Any) -> Any:
    """The mean cost by the library's own forward pass, for real or complex parameters."""
    z, a = feedforward(np, weights, biases, net.activations, x)
    return example_cost(np, net.activations[-1], net.cost, z[-1], a[-1], y).mean()


def _entries(net: gpubp.Network) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    for kind, arrays in enumerate((net.weights, net.biases)):
        for l, array in enumerate(arrays):
            for index in np.ndindex(array.shape):
                yield kind, l, index


def _gradient_by(net: gpubp.Network, dtype: Any, slope: Callable[..., float]) -> Any:
    """(nabla_w, nabla_b), entry by entry; ``slope`` sees the parameters and the entry to move."""
    parameters = [
        [np.array(array, dtype) for array in host(net, arrays)]
        for arrays in (net.weights, net.biases)
    ]
    gradient = [[np.zeros(array.shape) for array in arrays] for arrays in parameters]
    for kind, l, index in _entries(net):
        gradient[kind][l][index] = slope(parameters, kind, l, index)
    return gradient


def complex_step(net: gpubp.Network, x: Any, y: Any) -> Any:
    """(nabla_w, nabla_b) by the complex step on every parameter, float64."""

    def slope(parameters: Any, kind: int, l: int, index: Any) -> float:
        parameters[kind][l][index] += 1j * STEP
        cost = mean_cost(net, *parameters, x, y)
        parameters[kind][l][index] -= 1j * STEP
        return float(cost.imag / STEP)

    return _gradient_by(net, complex, slope)


def central_differences(net: gpubp.Network, x: Any, y: Any, h: float = 1e-6) -> Any:
    """(nabla_w, nabla_b) by (C(p + h) - C(p - h)) / 2h, float64."""

    def slope(parameters: Any, kind: int, l: int, index: Any) -> float:
        here, costs = parameters[kind][l][index], []
        for moved in (here + h, here - h):
            parameters[kind][l][index] = moved
            costs.append(mean_cost(net, *parameters, x, y))
        parameters[kind][l][index] = here
        return float((costs[0] - costs[1]) / (2 * h))

    return _gradient_by(net, float, slope)


def directional_errors(
    net: gpubp.Network, g: Any, x: Any, y: Any, rng: np.random.Generator, directions: int = 2
) -> list[float]:
    """For each array, an estimate of ||g - truth|| / ||g|| that sees every entry.

    Along unit-variance random directions D, the mean of <g - truth, D>^2 is ||g - truth||^2, and
    <truth, D> is one complex step: a few forward passes an array instead of one a parameter.
    """
    parameters = [[np.array(p, complex) for p in arrays] for arrays in (net.weights, net.biases)]
    found = (g.nabla_w, g.nabla_b)
    errors = []
    for kind in (0, 1):
        for l, nabla in enumerate(found[kind]):
            here, misses = parameters[kind][l], []
            for _ in range(directions):
                d = rng.standard_normal(here.shape)
                parameters[kind][l] = here + 1j * STEP * d
                truth = mean_cost(net, *parameters, x, y).imag / STEP
                misses.append(truth - np.vdot(nabla, d))
            parameters[kind][l] = here
            scale = float(np.linalg.norm(nabla)) or 1.0
            errors.append(math.sqrt(np.mean(np.square(misses))) / scale)
    return errors


# The book's loop, from the equations, one example at a time, in columns and float64


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


BOOK_SIGMA: dict[str, tuple[Any, Any]] = {
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.where(z > 0, z, 0.0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "identity": (lambda z: z, np.ones_like),
}

# BP1: (a, y, sigma'(z)) -> delta^L
BOOK_BP1: dict[str, Any] = {
    "quadratic": lambda a, y, sp: (a - y) * sp,
    "sum_squares": lambda a, y, sp: 2 * (a - y) * sp,
    "cross_entropy": lambda a, y, sp: a - y,
}


def book_backprop(
    weights: list[Any], biases: list[Any], activation: str, cost: str, x: Any, y: Any
) -> tuple[list[Any], list[Any]]:
    """(nabla_w, nabla_b) of one example's cost; x, y, the biases and all inside are columns."""
    sigma, sigma_prime = BOOK_SIGMA[activation]
    a, z = [x], []
    for w, b in zip(weights, biases, strict=True):
        z.append(w @ a[-1] + b)
        a.append(sigma(z[-1]))
    delta = BOOK_BP1[cost](a[-1], y, sigma_prime(z[-1]))  # BP1
    nabla_b, nabla_w = [delta], [delta @ a[-2].T]  # BP3, BP4
    for l in range(2, len(a)):
        delta = (weights[1 - l].T @ delta) * sigma_prime(z[-l])  # BP2
        nabla_b.insert(0, delta)
        nabla_w.insert(0, delta @ a[-l - 1].T)
    return nabla_w, nabla_b


def book_epoch(
    weights: list[Any], biases: list[Any], activation: str, cost: str,
    x: Any, y: Any, order: Any, batch_size: int, eta: float,
) -> None:  # fmt: skip
    """One epoch in place: w <- w - (eta/m) sum_x nabla C_x for each mini-batch of ``order``."""
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        sums = [[np.zeros_like(p) for p in arrays] for arrays in (weights, biases)]
        for i in batch:
            column = (x[i].reshape(-1, 1), y[i].reshape(-1, 1))
            for total, nabla in zip(
                sums, book_backprop(weights, biases, activation, cost, *column), strict=True
            ):
                for t, n in zip(total, nabla, strict=True):
                    t += n
        for arrays, total in zip((weights, biases), sums, strict=True):
            for p, t in zip(arrays, total, strict=True):
                p -= eta / len(batch) * t


# Exact scalar functions: name -> (sigma, sigma') and name -> C(z, a, y), given mpmath


def exact_activations(mp: Any) -> dict[str, tuple[Any, Any]]:
    scale, alpha = mp.mpf(1.0507009873554805), mp.mpf(1.6732632423543772)
    e = mp.exp

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + e(-z))

    def phi(z: Any) -> Any:
        return mp.erfc(-z / mp.sqrt(2)) / 2

    return {
        "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
        "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2),
        "relu": (lambda z: max(z, mp.mpf(0)), lambda z: mp.mpf(z > 0)),
        "leaky_relu": (
            lambda z: z if z > 0 else z * mp.mpf("0.01"),
            lambda z: mp.mpf(1) if z > 0 else mp.mpf("0.01"),
        ),
        "elu": (lambda z: z if z > 0 else mp.expm1(z), lambda z: mp.mpf(1) if z > 0 else e(z)),
        "selu": (
            lambda z: scale * (z if z > 0 else alpha * mp.expm1(z)),
            lambda z: scale * (1 if z > 0 else alpha * e(z)),
        ),
        "gelu": (
            lambda z: z * phi(z),
            lambda z: phi(z) + z * e(-z * z / 2) / mp.sqrt(2 * mp.pi),
        ),
        "silu": (
            lambda z: z * sigmoid(z),
            lambda z: sigmoid(z) * (1 + z * sigmoid(-z)),
        ),
        "softplus": (
            lambda z: max(z, mp.mpf(0)) + mp.log1p(e(-abs(z))),
            sigmoid,
        ),
        "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
        "identity": (lambda z: z, lambda z: mp.mpf(1)),
    }


def exact_costs(mp: Any) -> dict[str, tuple[Any, Any]]:
    """name -> (c(a, 1 - a, y), dc/da): both a and 1 - a are handed in, exact."""

    def quadratic(a: Any, b: Any, y: Any) -> Any:
        return (a - y) ** 2 / 2

    def huber(a: Any, b: Any, y: Any) -> Any:
        return (a - y) ** 2 / 2 if abs(a - y) <= 1 else abs(a - y) - mp.mpf("0.5")

    def weigh(y: Any, u: Any) -> Any:
        return y * mp.log(u) if y else mp.mpf(0)

    return {
        "quadratic": (quadratic, lambda a, b, y: a - y),
        "sum_squares": (lambda a, b, y: (a - y) ** 2, lambda a, b, y: 2 * (a - y)),
        "huber": (huber, lambda a, b, y: max(mp.mpf(-1), min(mp.mpf(1), a - y))),
        "cross_entropy": (
            lambda a, b, y: -weigh(y, a) - weigh(1 - y, b),
            lambda a, b, y: (1 - y) / b - y / a,
        ),
        "log_likelihood": (lambda a, b, y: -weigh(y, a), lambda a, b, y: -y / a),
    }


# PyTorch's own functions


def torch_activations(torch: Any) -> dict[str, Any]:
    f = torch.nn.functional
    return {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": f.leaky_relu,  # its slope is 0.01 by default
        "elu": f.elu,
        "selu": torch.selu,
        "gelu": f.gelu,
        "silu": f.silu,
        "softplus": f.softplus,
        "softsign": f.softsign,
        "identity": lambda z: z,
        "softmax": lambda z: torch.softmax(z, dim=1),
    }


def torch_cost(torch: Any, cost: str, output: Any) -> Callable[[Any, Any, Any], Any]:
    """C(z, a, y) of each example, (m,)."""
    f = torch.nn.functional
    by_name = {
        "quadratic": lambda z, a, y: 0.5 * f.mse_loss(a, y, reduction="none"),
        "sum_squares": lambda z, a, y: f.mse_loss(a, y, reduction="none"),
        "huber": lambda z, a, y: f.huber_loss(a, y, reduction="none"),
        "cross_entropy": lambda z, a, y: f.binary_cross_entropy_with_logits(z, y, reduction="none"),
        "log_likelihood": lambda z, a, y: -y * f.logsigmoid(z),
    }
    if isinstance(output, Softmax):
        return lambda z, a, y: -(y * f.log_softmax(z, dim=1)).sum(dim=1)
    return lambda z, a, y: by_name[cost](z, a, y).sum(dim=1)


def sgd(momentum: float = 0.0, nesterov: bool = False, l2: float = 0.0, l1: float = 0.0) -> Update:
    """SGD, beside a penalty."""
    return Update(SGD(momentum, nesterov), l2, l1)


def steps(update: Update, order: Any, batch: int, rate: float, first: int = 1) -> tuple[Any, Any]:
    """What a Stepper's ``run`` takes to train on the examples of ``order`` at one learning rate,
    the first mini-batch being step ``first`` of the run."""
    return order, update.numbers(first, np.full(-(-len(order) // batch), rate))
