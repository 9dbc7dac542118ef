"""The check of a derivative: what it must see, and what it must not mistake for a fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.activation import ACTIVATIONS, Activation
from gpubp.cost import COSTS, Cost
from gpubp.slope import check_derivative

ELEMENTWISE = [item for item in ACTIVATIONS.values() if isinstance(item, Activation)]
Z = np.concatenate([-np.logspace(-6, 4, 401), np.linspace(-6, 6, 401), np.logspace(-6, 4, 401)])


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=lambda item: item.name)
def test_built_in_activations_pass_in_both_dtypes(activation: Activation) -> None:
    check_derivative(activation.sigma, activation.sigma_prime, "z", given={"a": activation.sigma})
    slopes = []
    for dtype in (np.float32, np.float64):
        z = Z.astype(np.float32).astype(dtype)
        slopes.append(activation.prime(np, z, activation(np, z)))
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cost", COSTS.values(), ids=lambda item: item.name)
def test_built_in_costs_pass(cost: Cost) -> None:
    inside = {"a": np.linspace(0.01, 0.99, 99)} if cost.unit_interval else None
    check_derivative(cost.cost, cost.grad_a, "a", at=inside)


@pytest.mark.parametrize(
    ("sigma", "sigma_prime"),
    [
        ("min(max(z, 0), 6)", "where(z > 0, 1, 0)"),
        ("max(-100, min(100, z))", "1"),
        ("where(z > 1000, 1000, z)", "1"),
        # windows too narrow for any grid, at a number ...
        ("where(z > 777 and z < 777.01, 2*z, z)", "1"),
        ("where(z > 50 and z < 50.001, 2*z, z)", "1"),
        # ... and where no number stands
        ("where(z*z > 2000 and z*z < 2000.1, 2*z, z)", "1"),
        ("where(3*z > 6 and 3*z < 6.00001, 2*z, z)", "1"),
        ("z + max(0, 1e-4 - abs(exp(z) - 12))", "1"),
        # ... and where a switch changes its sign twice at once, or is met exactly, or is none
        ("where((z - 777)*(z - 777.01) < 0, 2*z, z)", "1"),
        ("z + max(0, 1e-5 - abs(3*z - 6))", "1"),
        ("exp(-((z - 777)*10000)**2)", "0"),
        ("max(z, 0)", "where(z > 0.0001, 1, 0)"),
        ("tanh(z)", "where(a > 0.9999999, 0.5, 1 - a*a)"),
        ("tanh(1e-5*z)", "1e-5"),
        ("1e-3*z + where(abs(z) < 0.001, z, 0)", "1e-3"),
    ],
)
def test_a_slope_that_is_wrong_only_far_out_or_close_to_a_switch(
    sigma: str, sigma_prime: str
) -> None:
    with pytest.raises(ValueError, match=r"is not the derivative of .* at z = .* the slope is"):
        gpubp.define_activation("wrong", sigma, sigma_prime)
    right = gpubp.define_activation("right", sigma)  # as found by itself
    assert right.sigma_prime.source != sigma_prime


@pytest.mark.parametrize(
    ("cost", "grad_a"),
    [
        ("where(abs(a - y) <= 50, 0.5*(a - y)**2, 50*abs(a - y) - 1250)", "a - y"),
        ("where(a + y > 3 and a + y < 3.001, a, 0)", "0"),
        ("where(a*y > 300, a, 0)", "0"),
        ("where(y > 1000, 2*a, a)", "1"),
        ("0.5*(a - y)**2", "where(abs(a - y) < 20, a - y, 20)"),
    ],
)
def test_costs_are_tried_as_far(cost: str, grad_a: str) -> None:
    with pytest.raises(ValueError, match=r"is not the derivative of .* in a: at a = .*y = "):
        gpubp.define_cost("wrong", cost, grad_a)


RIGHT = (
    ("min(max(z, 0), 6)", "where(a > 0 and a < 6, 1, 0)"),
    ("min(1, max(0, 0.2*z + 0.5))", "where(z > -2.5 and z < 2.5, 0.2, 0)"),
    ("z/(1 + exp(-z))", "a + 1/(1 + exp(-z))*(1 - a)"),  # cancels at large z
    ("where(z > 0, z, expm1(z))", "where(z > 0, 1, a + 1)"),
    ("max(z, 0) + log1p(exp(-abs(z)))", "1 - exp(-a)"),
    ("log1p(exp(z))", "1/(1 + exp(-z))"),
    ("abs(z)", "z/abs(z)"),
    ("z/(1 + abs(z))", "(1 - abs(a))**2"),
    ("exp(-z*z)", "-2*z*a"),
    ("z/sqrt(1 + z*z)", "(1 + z*z)**-1.5"),
    ("(exp(z) - 1)/z", "(z*exp(z) - exp(z) + 1)/(z*z)"),  # next to no digit is left near 0
    ("max(z, 0) + log1p(exp(-abs(z)))", "exp(z)/(1 + exp(z))"),  # not finite beyond 709
)
DERIVED = (
    *("min(max(z, 0), 6)", "z*tanh(log1p(exp(z)))", "log(z + sqrt(z*z + 1))", "log(abs(z))"),
    *("(exp(z) - exp(-z))/(exp(z) + exp(-z))", "z/(1 - exp(-z))", "tanh(z)/z", "abs(z)**1.5"),
    *("1/(1 + exp(-100*(z - 3)))", "exp(min(z, 20))", "tanh(1e3*z)", "1e6*z", "exp(-exp(-z))"),
    *("z**3", "sqrt(abs(z))", "where(z > 20, z, log(1 + exp(z)))", "tanh(exp(z))", "1/z"),
)
DERIVED_COSTS = (
    *("0.5*(a - y)**2", "abs(a - y)", "(a - y)**4", "max(0, 1 - a*y)**2", "log1p(exp(-a*y))"),
    *("abs(a - y) + log1p(exp(-2*abs(a - y)))", "log(0.5*(exp(a - y) + exp(y - a)))"),
    *("max(0.9*(y - a), -0.1*(y - a))", "max(0, abs(a - y) - 0.1)", "exp(a) - y*a", "-y*log(a)"),
    *("(a - y)**2/(1 + (a - y)**2)", "0.5*(a - y)**2 + 0.1*z*z", "abs(a - y)**1.5"),
)


def test_what_is_right_passes() -> None:
    for sigma, sigma_prime in RIGHT:
        gpubp.define_activation("right", sigma, sigma_prime)
    for sigma in DERIVED:
        gpubp.define_activation("right", sigma)
    for cost in DERIVED_COSTS:
        gpubp.define_cost("right", cost)
    for cost in ("-(y*log(a) + (1 - y)*log(1 - a))", "-y*log(max(a, 1e-7))", "(1 - a)**2*y/a"):
        gpubp.define_cost("right", cost, unit_interval=True)


def test_the_point_with_the_smallest_numbers_is_told() -> None:
    with pytest.raises(ValueError, match=r"at z = 6\.0\d* it gives 1 and the slope is 0"):
        gpubp.define_activation("wrong", "min(max(z, 0), 6)", "where(z > 0, 1, 0)")


def test_derivatives_that_are_nowhere_finite_are_refused() -> None:
    for sigma, sigma_prime in (("log(z - 100)", "1/(z - z)"), ("z", "0*z/0")):
        with pytest.raises(ValueError, match="is not the derivative"):
            gpubp.define_activation("wrong", sigma, sigma_prime)


def test_points_beside_a_switch_are_those_given_for_a_variable() -> None:
    cost: Any = COSTS["huber"].cost
    check_derivative(cost, COSTS["quadratic"].grad_a, "a", at={"a": [0.1, 0.9], "y": [0.5]})
    with pytest.raises(ValueError, match=r"at a = 1.50015"):
        check_derivative(cost, COSTS["quadratic"].grad_a, "a", at={"a": [0.1, 3], "y": [0.5]})
