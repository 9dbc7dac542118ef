"""C(a, y): the costs by name, how to define one of your own, and BP1 for each.

The cost of one example is a sum over the output neurons, C = sum_j c(a_j, y_j); the total cost is
the mean over the examples. ``quadratic`` is 1/2 ||y - a||^2 and ``sum_squares`` is ||y - a||^2,
the scaling that some texts use: its deltas and gradients are twice the other's.

Where a cost undoes the saturation of its output activation, BP1 simplifies (to a - y for sigmoid
with cross-entropy and softmax with log-likelihood), and cost and delta are computed in that form
from z, which neither overflows nor divides by sigma'(z) = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from .activation import ACTIVATIONS, SOFTMAX, Activation, Softmax
from .errors import is_name, unknown
from .expression import Expression
from .printable import brief
from .slope import check_derivative

_ZAY = ("z", "a", "y")


@dataclass(frozen=True)
class Cost:
    """c(z, a, y) of one output neuron with its partial derivatives.

    ``grad_a`` is dc/da; ``grad_z`` is dc/dz at constant a, for a cost that names z itself, and
    ``None`` otherwise. ``simplified`` maps an output activation to (c in z, delta), the safe
    form of the pair. ``unit_interval``: the cost needs outputs in [0, 1].
    Use :func:`define_cost` to make one.
    """

    name: str
    cost: Expression
    grad_a: Expression
    grad_z: Expression | None = None
    unit_interval: bool = False
    simplified: Mapping[str, tuple[Expression, Expression]] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    def simplify(self, output: Activation | Softmax) -> tuple[Expression, Expression] | None:
        """(c in z, delta) where this output activation has such a form, else ``None``."""
        if output == ACTIVATIONS.get(output.name):
            return self.simplified.get(output.name)
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle; a built-in cost is found again by its name.
        if COSTS.get(self.name) is self:
            return get_cost, (self.name,)
        return Cost, (self.name, self.cost, self.grad_a, self.grad_z, self.unit_interval)


@dataclass(frozen=True)
class OutputError:
    """The output layer's two formulas for one pair of activation and cost.

    ``cost`` is c(z, a, y) and ``delta`` is BP1, dc/dz in z, a and y, per output neuron. Both are
    ``None`` for softmax with log-likelihood, whose sum over the row is no elementwise formula.
    """

    cost: Expression | None
    delta: Expression | None


def _builtin(
    name: str,
    cost: str,
    grad_a: str,
    simplified: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    unit_interval: bool = False,
) -> Cost:
    pairs = {key: (Expression(c, _ZAY), Expression(d, _ZAY)) for key, (c, d) in simplified.items()}
    c, da = Expression(cost, _ZAY), Expression(grad_a, _ZAY)
    return Cost(name, c, da, None, unit_interval, MappingProxyType(pairs))


# 1e-30 stands for 0 under a logarithm or in a denominator: with an output activation that reaches
# 0 or 1, the cost of being surely wrong is then large instead of infinite.
COSTS: dict[str, Cost] = {
    cost.name: cost
    for cost in (
        _builtin("quadratic", "0.5*(a - y)*(a - y)", "a - y"),
        _builtin("sum_squares", "(a - y)*(a - y)", "2*(a - y)"),
        _builtin(
            "cross_entropy",
            "-(y*log(max(a, 1e-30)) + (1 - y)*log(max(1 - a, 1e-30)))",
            "(a - y)/max(a*(1 - a), 1e-30)",
            # -y ln a - (1 - y) ln(1 - a) with a = sigmoid(z)
            {"sigmoid": ("max(z, 0) - z*y + log1p(exp(-abs(z)))", "a - y")},
            unit_interval=True,
        ),
        _builtin(
            "log_likelihood",
            "-y*log(max(a, 1e-30))",
            "-y/max(a, 1e-30)",
            {"sigmoid": ("y*(max(-z, 0) + log1p(exp(-abs(z))))", "y*(a - 1)")},
            unit_interval=True,
        ),
        _builtin(
            "huber",
            "where(abs(a - y) <= 1, 0.5*(a - y)*(a - y), abs(a - y) - 0.5)",
            "max(-1, min(1, a - y))",
        ),
    )
}

_BY_N = "n times theirs, the mean over n outputs: divide the learning rate by n"
_SOFTMAX = (
    "use 'log_likelihood' with 'softmax' as the last activation, which is scaled as theirs; y is "
    "labels or unit vectors, and the softmax is ours to compute"
)
# What other libraries call them, and how these here are scaled against theirs.
_ELSEWHERE = {
    **dict.fromkeys(
        ("mse", "meansquarederror", "squarederror", "l2"),
        "use 'quadratic', which is n/2 times theirs, the mean over n outputs (divide the learning "
        "rate by n/2), or 'sum_squares', n times theirs",
    ),
    **dict.fromkeys(("sse", "rss", "sumofsquares"), "sum_squares"),
    **dict.fromkeys(
        ("bce", "binarycrossentropy", "bcewithlogits", "sigmoidcrossentropy"),
        f"use 'cross_entropy' with 'sigmoid' as the last activation, {_BY_N}",
    ),
    "logloss": "use 'log_likelihood' with 'softmax' as the last activation, or 'cross_entropy' "
    "with one 'sigmoid' output, both scaled as theirs",
    **dict.fromkeys(
        ("nll", "negativeloglikelihood", "crossentropyloss", "softmaxcrossentropy", "ce",
         "categoricalcrossentropy", "sparsecategoricalcrossentropy"), _SOFTMAX,
    ),
    **dict.fromkeys(
        ("mae", "meanabsoluteerror", "absoluteerror", "l1"), f"use 'abs(a - y)', {_BY_N}"
    ),
    **dict.fromkeys(("smoothl1", "huberloss"), f"use 'huber', {_BY_N}"),
    "hinge": f"use 'max(0, 1 - a*y)' with targets -1 and 1, {_BY_N}",
}  # fmt: skip


def define_cost(
    name: str, cost: str, grad_a: str | None = None, *, unit_interval: bool = False
) -> Cost:
    """A cost from a formula: ``define_cost("student_t", "log1p((a - y)*(a - y))")``.

    ``cost`` is c(z, a, y) of one output neuron; ``grad_a`` is dc/da, derived symbolically when it
    is not given and checked numerically either way. With ``unit_interval=True`` it is only
    accepted behind an output activation that stays in [0, 1].
    """
    if name in COSTS:
        raise ValueError(f"cost {name!r} is built in: give your own another name")
    c = Expression(cost, _ZAY)
    if not c.names & {"z", "a"}:
        raise ValueError(f"the cost {brief(cost)} names neither a nor z: nothing can be learnt")
    da = c.derivative("a") if grad_a is None else Expression(grad_a, _ZAY)
    # A cost of probabilities need not be right, or finite, beyond them.
    check_derivative(c, da, "a", at={"a": np.linspace(0.01, 0.99, 99)} if unit_interval else None)
    return Cost(name, c, da, c.derivative("z") if "z" in c.names else None, unit_interval)


def get_cost(cost: str | Cost) -> Cost:
    """The cost of that name; a formula in a and y (``"abs(a - y)"``) defines one on the spot."""
    if isinstance(cost, Cost):
        return cost
    if not isinstance(cost, str):
        raise TypeError(f"a cost is a name, a formula in z, a and y or a Cost, not {brief(cost)}")
    if cost in COSTS:
        return COSTS[cost]
    if is_name(cost):
        raise unknown("cost", cost, COSTS, _ELSEWHERE)
    return define_cost(cost, cost)


def check_pair(activations: Sequence[Activation | Softmax], cost: Cost) -> None:
    """Refuse, in one sentence, the combinations that backpropagation has no equation for."""
    if any(isinstance(activation, Softmax) for activation in activations[:-1]):
        raise ValueError(
            "softmax in a hidden layer: it is not elementwise, so use it as the last activation "
            "only, with cost='log_likelihood'"
        )
    output = activations[-1]
    if isinstance(output, Softmax) and cost != COSTS["log_likelihood"]:
        raise ValueError(
            f"softmax with cost {brief(cost.name)}: softmax outputs go with cost='log_likelihood' "
            "only"
        )
    if cost.unit_interval and not output.in_unit_interval:
        raise ValueError(
            f"cost {brief(cost.name)} needs outputs between 0 and 1, which activation "
            f"{brief(output.name)} does not give: make the last activation 'sigmoid'"
            + (" or 'softmax'" if cost.name == "log_likelihood" else "")
        )


def output_error(activation: Activation | Softmax, cost: Cost) -> OutputError:
    """BP1 for this pair as formulas: delta = dc/da sigma'(z) + dc/dz, or the simplified form."""
    if isinstance(activation, Softmax):
        return OutputError(None, None)
    if simplified := cost.simplify(activation):
        return OutputError(*simplified)
    delta = cost.grad_a.joined("*", activation.sigma_prime)
    return OutputError(cost.cost, delta.joined("+", cost.grad_z) if cost.grad_z else delta)


def example_cost(
    xp: Any, activation: Activation | Softmax, cost: Cost, z: Any, a: Any, y: Any
) -> Any:
    """C of each example, shape (m,), from z, a and y of the output layer, each (m, n_L)."""
    if activation == SOFTMAX:
        shifted = z - z.max(axis=1, keepdims=True)
        log_a = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
        return -xp.where(y == 0, 0, y * log_a).sum(axis=1)  # 0 log 0 = 0
    simplified = cost.simplify(activation)
    c = simplified[0] if simplified else cost.cost
    return c(xp, z=z, a=a, y=y).sum(axis=1)
