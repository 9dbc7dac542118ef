"""The oracle: the contract in plain NumPy, in any dtype. The other modules compute this, faster."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gpubp.activation import Activation
from gpubp.arrays import as_input, as_targets
from gpubp.backprop import backprop
from gpubp.parameters import Parameters
from gpubp.plan import Plan


def hadamard_sigma_prime(v: Any, z: Any, a: Any, activation: Activation) -> Any:
    """v (x) sigma'(z): BP1 with v = grad_a C, BP2 with v = delta w; (m, n) each."""
    return v * activation.prime(np, z, a)


def outer_sum(delta: Any, a: Any) -> tuple[Any, Any]:
    """(sum_x delta a^T, sum_x delta): BP4 and BP3 summed over the rows of (m, j) and (m, k)."""
    return delta.T @ a, delta.sum(axis=0)


class Stepper:
    """w^l -= (eta/m) sum_x delta^l (a^{l-1})^T, b^l -= (eta/m) sum_x delta^l, by the equations, or
    what else the plan's rule makes of the gradient.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.plan, self.parameters, self.x, self.y = plan, parameters, x, y

    def run(self, order: Any, numbers: Any, importance: Any = None) -> Any:
        """Train on the examples of ``order``; each mini-batch's objective before its update, summed
        over its examples. ``numbers`` has a row a mini-batch: those of the plan's rule. Of a
        weighted plan ``importance`` has a number an example: its weight beside the mean of its
        mini-batch's, by which its cost and delta^L are multiplied."""
        plan, parameters = self.plan, self.parameters
        costs = []
        for step, start in enumerate(range(0, len(order), plan.batch_size)):
            rows = order[start : start + plan.batch_size]
            x = as_input(np, self.x[rows], plan.dtype)
            y = as_targets(np, self.y[rows], plan.sizes[-1], plan.dtype)
            factor = None if importance is None else importance[start : start + len(rows)]
            # What overflows shows in the cost, and the loop raises DivergenceError for it.
            with np.errstate(over="ignore", invalid="ignore"):
                g = backprop(
                    np, sys.modules[__name__], parameters.weights, parameters.biases,
                    plan.activations, plan.cost, x, y,
                    None if factor is None else factor.astype(plan.dtype),
                )  # fmt: skip
                penalty = plan.rule.penalty(np, parameters, numbers[step])
                costs.append(len(rows) * (g.cost + penalty))
                gradient = np.concatenate([part.ravel() for part in (*g.nabla_w, *g.nabla_b)])
                plan.rule.update(parameters, gradient, numbers[step])
        return np.array(costs, np.float64)
