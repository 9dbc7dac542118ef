"""z^l and a^l of some examples: the arrays that hold them and the launches that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Activation, Softmax
from gpubp.cost import Cost, output_error
from gpubp.expression import Expression
from gpubp.kernels.cuda.launch import (
    BLOCK,
    WARP,
    Kernel,
    load_kernel,
    load_product,
    run_length,
)
from gpubp.parameters import Parameters
from gpubp.plan import Plan

_IDENTITY = Expression("z", ("z",))


class Layers:
    """Forward passes of up to ``rows`` examples through a network of these parameters.

    ``fixed`` compiles the sizes into the kernels, which training is worth; without it one kernel
    serves all sizes of the same tile. With ``gather`` x is a whole data set; see ``forward.cu``.
    """

    def __init__(
        self, parameters: Parameters, activations: Sequence[Activation | Softmax], arithmetic: str,
        rows: int, x: Any, *, fixed: bool, gather: bool,
    ) -> None:  # fmt: skip
        self.parameters, self.sizes = parameters, parameters.sizes
        dtype = parameters.flat.dtype
        self.z, self.a = ([cp.empty((rows, n), dtype) for n in self.sizes[1:]] for _ in range(2))
        self._kernels = [
            load_product(
                "forward", arithmetic,
                {"sigma": layer_sigma(sigma)}, (rows, n, k),
                GATHER=int(gather and l == 0), Input=input_type(x) if l == 0 else "T",
                N=n if fixed else "n", K=k if fixed else "k", W_RUN=run_length(weights, dtype),
                X_RUN=run_length(self.a[l - 1] if l else x, dtype) if fixed else 1,
            )
            for l, (sigma, (k, n), weights) in enumerate(
                zip(activations, pairwise(self.sizes), parameters.weights, strict=True)
            )
        ]  # fmt: skip

    def enqueue(self, m: int, x: Any, *place: Any) -> None:
        """The forward pass of m rows of x, or of the data set at that place in the order."""
        weights, biases = self.parameters.weights, self.parameters.biases
        for l, (k, n) in enumerate(pairwise(self.sizes)):
            a_in, where = (x, place) if l == 0 else (self.a[l - 1], ())
            self._kernels[l].product(
                m, n, m, n, k, a_in, weights[l], biases[l], self.z[l], self.a[l], *where
            )


def input_type(x: Any) -> str:
    """The type of an input in the kernels: bytes or the network's own numbers."""
    return "unsigned char" if x.dtype == np.uint8 else "T"


def target_type(y: Any) -> str:
    """The type of y in the kernels: labels, or targets in the network's own numbers."""
    return "T" if y.ndim == 2 else "long long"


def layer_sigma(activation: Activation | Softmax) -> Expression:
    """sigma of a forward pass; softmax needs whole rows, and bp1 and score take it from z."""
    return _IDENTITY if isinstance(activation, Softmax) else activation.sigma


def output_formulas(activation: Activation | Softmax, cost: Cost) -> dict[str, Expression]:
    """BP1 and the cost of one output neuron; none for softmax, which is written out in C."""
    error = output_error(activation, cost)
    if error.cost is None or error.delta is None:
        return {}
    return {"output_cost": error.cost, "output_delta": error.delta}


def all_formulas(plan: Plan) -> dict[str, Expression]:
    """For kernels that train whole networks: sigma<l> of each layer with weights, from l = 0,
    sigma_prime<l> of each hidden one, and the output's."""
    formulas = {f"sigma<{l}>": layer_sigma(sigma) for l, sigma in enumerate(plan.activations)}
    for l, sigma in enumerate(plan.activations[:-1]):
        assert isinstance(sigma, Activation)  # softmax is for the output only
        formulas[f"sigma_prime<{l}>"] = sigma.sigma_prime
    return formulas | output_formulas(plan.activations[-1], plan.cost)


def load_output_kernel(
    stem: str, dtype: str, activation: Activation | Softmax, cost: Cost, y: Any, n: int | str,
    weighted: bool = False,
) -> Kernel:  # fmt: skip
    """bp1 or score, whose warps take a row each, for one pair of output activation and cost."""
    return load_kernel(
        stem, dtype, output_formulas(activation, cost),
        SOFTMAX=int(isinstance(activation, Softmax)), Target=target_type(y), N=n,
        WEIGHTED=int(weighted),
    )  # fmt: skip


def row_blocks(rows: int) -> int:
    """Blocks of a kernel whose warps take a row each."""
    return -(-rows // (BLOCK // WARP))
