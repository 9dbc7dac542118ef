"""Gradients against the truth: the complex step, central differences, float64, autodiff, mpmath."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from oracle import (
    CUSTOM_ACTIVATIONS,
    central_differences,
    complex_step,
    directional_errors,
    exact_activations,
    exact_costs,
    gradient_error,
    host,
    legal_pairs,
    pair_id,
    torch_activations,
    torch_cost,
)

import gpubp
from gpubp.activation import ACTIVATIONS, SOFTMAX, Softmax
from gpubp.backprop import bp1
from gpubp.cost import COSTS, example_cost
from gpubp.initialise import INITIALISERS
from gpubp.parameters import Parameters
from gpubp.plan import Plan

PAIRS = legal_pairs()
HIDDEN = [*(a for a in ACTIVATIONS.values() if a is not SOFTMAX), *CUSTOM_ACTIVATIONS]
OUTPUTS = [(a, c) for a, c in PAIRS if a.name in ACTIVATIONS and c.name in COSTS]


def problem(
    output: Any, cost: Any, backend: Any = "reference", dtype: str = "float64", seed: int = 0,
    sizes: tuple[int, ...] = (2, 3, 2), rows: int = 5, init: str = "scaled",
) -> tuple[gpubp.Network, Any, Any]:  # fmt: skip
    """A network with ``output`` in every layer (under softmax: tanh), and targets that do not sum
    to one."""
    below = ACTIVATIONS["tanh"] if isinstance(output, Softmax) else output
    net = gpubp.Network(
        sizes, activation=[*[below] * (len(sizes) - 2), output], cost=cost, backend=backend,
        dtype=dtype, init=init, rng=seed,
    )  # fmt: skip
    rng = np.random.default_rng(seed + 1000)
    return net, rng.standard_normal((rows, sizes[0])), rng.random((rows, sizes[-1]))


@cache
def truth_by_complex_step(output: Any, cost: Any) -> Any:
    return complex_step(*problem(output, cost))


@pytest.mark.parametrize(("output", "cost"), PAIRS, ids=pair_id)
def test_float64_against_the_complex_step(output: Any, cost: Any, backend: gpubp.Backend) -> None:
    net, x, y = problem(output, cost, backend)
    truth = truth_by_complex_step(output, cost)
    assert gradient_error(net, net.backprop(x, y), truth) <= 1e-12


@pytest.mark.parametrize(("output", "cost"), PAIRS, ids=pair_id)
def test_float64_against_central_differences(output: Any, cost: Any) -> None:
    net, x, y = problem(output, cost)
    assert gradient_error(net, net.backprop(x, y), central_differences(net, x, y)) <= 1e-6


def random_network(seed: int) -> tuple[gpubp.Network, Any, Any, np.random.Generator]:
    """Any depth, widths, batch, initial weights, activations a layer and cost, all from one seed.

    Biases are drawn so that no unit sits exactly on a kink, where there is no one slope: zero
    biases under a dead layer would put it there.
    """
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 6))
    sizes = [int(n) for n in rng.integers(1, 41, layers + 1)]
    output, cost = PAIRS[rng.integers(len(PAIRS))]
    activations = [HIDDEN[i] for i in rng.integers(len(HIDDEN), size=layers - 1)]
    net = gpubp.Network(
        sizes, activation=[*activations, output], cost=cost, backend="reference", dtype="float64",
        init=sorted(INITIALISERS)[rng.integers(len(INITIALISERS))], rng=rng,
    )  # fmt: skip
    for b in net.biases:
        b += 0.1 * rng.standard_normal(b.shape)
    rows = int(rng.integers(1, 18))
    return net, rng.standard_normal((rows, sizes[0])), rng.random((rows, sizes[-1])), rng


@pytest.mark.parametrize("part", range(10))
def test_500_random_networks_against_the_complex_step(part: int) -> None:
    for seed in range(50 * part, 50 * part + 50):
        net, x, y, rng = random_network(seed)
        worst = max(directional_errors(net, net.backprop(x, y), x, y, rng))
        assert worst <= 1e-10, f"{worst:.2e} for seed {seed}: {net}"


# float32 against float64, from the same float32 weights


@pytest.mark.parametrize(("output", "cost"), OUTPUTS, ids=pair_id)
def test_float32_against_float64(output: Any, cost: Any, backend: gpubp.Backend) -> None:
    for init in INITIALISERS:
        net, x, y = problem(output, cost, backend, "float32", 3, (50, 30, 20, 10), 10, init)
        x, y = x.astype(np.float32), y.astype(np.float32)
        exact = gpubp.Network(
            net.sizes, activation=net.activations, cost=cost, backend="reference", dtype="float64"
        )
        exact.parameters.flat[...] = backend.asnumpy(net.parameters.flat)
        g = exact.backprop(x, y)
        error = gradient_error(net, net.backprop(x, y), (g.nabla_w, g.nabla_b))
        assert error <= (1e-5 if init == "scaled" else 2e-4), init


# Autodiff: PyTorch and JAX differentiate their own forward pass


def _random_problem(output: Any, cost: Any, backend: Any, seed: int) -> Any:
    """A random architecture, a built-in activation in each hidden layer, labels or targets."""
    rng = np.random.default_rng(seed)
    builtin = [a for a in HIDDEN if a.name in ACTIVATIONS]
    hidden = [builtin[i] for i in rng.integers(len(builtin), size=rng.integers(0, 4))]
    sizes = [int(n) for n in rng.integers(2, 24, len(hidden) + 2)]
    net = gpubp.Network(
        sizes, activation=[*hidden, output], cost=cost, backend=backend, dtype="float64", rng=rng
    )
    x = rng.standard_normal((int(rng.integers(1, 12)), sizes[0]))
    labels = rng.integers(0, sizes[-1], len(x))
    return net, x, labels, rng.random((len(x), sizes[-1]))


@pytest.mark.parametrize(("output", "cost"), OUTPUTS, ids=pair_id)
def test_against_pytorch(output: Any, cost: Any, backend: gpubp.Backend) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is a check only")
    sigma = torch_activations(torch)
    for seed in range(4):
        net, x, labels, targets = _random_problem(output, cost, backend, seed)
        for y in (labels, targets):  # the targets do not sum to one
            w, b = (
                [torch.tensor(p, requires_grad=True) for p in host(net, arrays)]
                for arrays in (net.weights, net.biases)
            )
            a = torch.tensor(x)
            for w_l, b_l, activation in zip(w, b, net.activations, strict=True):
                z = torch.nn.functional.linear(a, w_l, b_l)
                a = sigma[activation.name](z)
            rows = torch.tensor(np.eye(net.sizes[-1])[y] if y.ndim == 1 else y)
            value = torch_cost(torch, cost.name, output)(z, a, rows).mean()
            value.backward()
            g = net.backprop(x, y)
            assert abs(g.cost - value.item()) <= 1e-13 * max(1.0, abs(value.item()))
            truth = [[p.grad.numpy() for p in arrays] for arrays in (w, b)]
            assert gradient_error(net, g, truth) <= 1e-12


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_against_jax(output: str, backend: gpubp.Backend) -> None:
    # One deep network with every activation in some layer: JAX compiles each operation it meets.
    jax = pytest.importorskip("jax", reason="JAX is not installed: it is a check only")
    jnp, nn = jax.numpy, jax.nn
    sigma = {
        "tanh": jnp.tanh, "softsign": nn.soft_sign, "identity": lambda z: z,
        "gelu": lambda z: nn.gelu(z, approximate=False),
    }  # fmt: skip
    names = [*sorted(set(ACTIVATIONS) - {"softmax"}), output]
    net = gpubp.Network(
        [5] * (len(names) + 1), activation=names, backend=backend, dtype="float64", rng=8,
        cost="log_likelihood" if output == "softmax" else "cross_entropy",
    )  # fmt: skip
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((5, 5)), rng.random((5, 5))

    def cost(parameters: Any) -> Any:
        a = x
        for w, b, name in zip(*parameters, names, strict=True):
            z = a @ w.T + b
            a = sigma[name](z) if name in sigma else getattr(nn, name)(z)
        if output == "softmax":
            return -(y * nn.log_softmax(z)).sum(axis=1).mean()
        return (nn.softplus(z) - z * y).sum(axis=1).mean()

    with jax.enable_x64(True):
        parameters = [[jnp.array(p) for p in host(net, ps)] for ps in (net.weights, net.biases)]
        truth = [[np.asarray(p) for p in arrays] for arrays in jax.grad(cost)(parameters)]
    assert gradient_error(net, net.backprop(x, y), truth) <= 1e-12


# Numerical safety: far out on either side, against mpmath

FAR = [0.0, 1e-8, 1.0, 20.0, 50.0, 100.0, 1000.0, 1e4]
FAR += [-z for z in FAR[1:]]


def _mp() -> Any:
    mpmath = pytest.importorskip("mpmath", reason="mpmath comes with SymPy")
    mpmath.mp.dps = 60
    return mpmath.mp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(exact_names := set(ACTIVATIONS) - {"softmax"}))
def test_activations_far_out(name: str, dtype: str, backend: gpubp.Backend) -> None:
    mp, xp, activation = _mp(), backend.xp, ACTIVATIONS[name]
    sigma, sigma_prime = exact_activations(mp)[name]
    host_z = np.array([FAR], dtype)
    z, ones = backend.asarray(host_z), backend.asarray(np.ones_like(host_z))
    a = activation(xp, z)
    slope = backend.kernels.hadamard_sigma_prime(ones, z, a, activation)
    for found, exact in ((a, sigma), (slope, sigma_prime)):
        truth = np.array([float(exact(mp.mpf(float(u)))) for u in host_z[0]])
        error = np.abs(backend.asnumpy(found)[0].astype(float) - truth)
        assert (error <= 4 * np.finfo(dtype).eps * np.maximum(1, np.abs(truth))).all(), (
            found,
            truth,
        )


def _output_by_stepper(
    backend: gpubp.Backend, output: Any, cost: Any, z: Any, y: Any, dtype: str
) -> tuple[float, Any]:
    """(C, delta^L) for one example whose output layer sees z, as the Stepper computes them.

    One layer with w = I, b = 0 and x = z; a step with eta = 1 leaves b = -delta.
    """
    n = len(z)
    parameters = Parameters(backend.xp, (n, n), dtype)
    parameters.weights[0] = np.eye(n, dtype=dtype)
    plan = Plan((n, n), (output,), cost, 1, dtype)
    rows = [backend.asarray(np.array([part], dtype)) for part in (z, y)]
    stepper = backend.kernels.Stepper(plan, parameters, *rows)
    (value,) = stepper.run(np.zeros(1, np.int64), np.ones((1, 1)))
    return value, -backend.asnumpy(parameters.biases[0]).astype(float)


@cache
def _exact_cost_and_delta(output: str, cost: str, dtype: str) -> dict[Any, tuple[float, float]]:
    mp = _mp()
    sigma, sigma_prime = exact_activations(mp)[output]
    exact_cost, exact_grad_a = exact_costs(mp)[cost]
    found = {}
    for z in FAR:
        u = mp.mpf(float(np.dtype(dtype).type(z)))
        a, b, slope = sigma(u), sigma(-u) if output == "sigmoid" else 1 - sigma(u), sigma_prime(u)
        for y in (0.0, 0.25, 1.0):
            pair = exact_cost(a, b, mp.mpf(y)), exact_grad_a(a, b, mp.mpf(y)) * slope
            found[z, y] = (float(pair[0]), float(pair[1]))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("output", "cost"), [pair for pair in OUTPUTS if pair[0] is not SOFTMAX], ids=pair_id
)
def test_cost_and_delta_far_out(output: Any, cost: Any, dtype: str, backend: gpubp.Backend) -> None:
    bound = 8 * np.finfo(dtype).eps
    for (z, y), truth in _exact_cost_and_delta(output.name, cost.name, dtype).items():
        value, delta = _output_by_stepper(backend, output, cost, [z], [y], dtype)
        assert abs(value - truth[0]) <= bound * max(1, abs(truth[0])), (z, y)
        assert abs(delta[0] - truth[1]) <= bound * max(1, abs(truth[1])), (z, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_far_out(dtype: str, backend: gpubp.Backend) -> None:
    mp, cost = _mp(), COSTS["log_likelihood"]
    for z in FAR:
        for row in ([z, 0.0, -1.0], [z, z, z], [-z, z, 2 * z]):
            for y in ([1.0, 0.0, 0.0], [0.0, 0.25, 0.5]):
                u = [mp.mpf(float(np.dtype(dtype).type(v))) for v in row]
                total = mp.fsum(mp.e ** (v - max(u)) for v in u)
                log_a = [v - max(u) - mp.log(total) for v in u]
                value, delta = _output_by_stepper(backend, SOFTMAX, cost, row, y, dtype)
                truth = float(-mp.fsum(p * q for p, q in zip(y, log_a, strict=True)))
                bound = 8 * np.finfo(dtype).eps
                assert abs(value - truth) <= bound * max(1, abs(truth))
                right = [float(mp.e**q * sum(y) - p) for p, q in zip(y, log_a, strict=True)]
                assert np.abs(delta - right).max() <= bound


@pytest.mark.parametrize(("output", "cost"), PAIRS, ids=pair_id)
def test_every_cost_is_finite_far_out(output: Any, cost: Any) -> None:
    z = np.array([FAR], np.float32)
    if output.name == "cubic":
        z = z[np.abs(z) <= 1000][None, :]
    if cost.name in ("quartic", "mixed"):  # powers that leave float32 by themselves
        z = z[np.abs(z) <= 100][None, :]
    kernels = gpubp.get_backend("reference").kernels
    for y in (np.zeros_like(z), np.ones_like(z)):
        a = output(np, z)
        assert np.isfinite(example_cost(np, output, cost, z, a, y)).all()
        assert np.isfinite(bp1(np, kernels, z, a, y, output, cost)).all()


# NaN in, NaN out: a divergence may not hide behind a comparison


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("output", "cost"), OUTPUTS, ids=pair_id)
def test_nan_in_nan_out(output: Any, cost: Any, dtype: str, backend: gpubp.Backend) -> None:
    value, delta = _output_by_stepper(backend, output, cost, [0.5, np.nan], [0.0, 1.0], dtype)
    assert np.isnan(value)
    assert np.isnan(delta if isinstance(output, Softmax) else delta[1]).all()
    value, _ = _output_by_stepper(backend, output, cost, [0.5, 0.5], [0.0, np.nan], dtype)
    assert np.isnan(value)


@pytest.mark.parametrize("name", sorted(exact_names))
def test_nan_in_hadamard(name: str, backend: gpubp.Backend) -> None:
    z = backend.asarray(np.array([[0.5, 2.0, -2.0]]))
    a = ACTIVATIONS[name](backend.xp, z)
    found = backend.kernels.hadamard_sigma_prime(z * np.nan, z, a, ACTIVATIONS[name])
    assert np.isnan(backend.asnumpy(found)).all()
