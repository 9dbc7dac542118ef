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
from gpubp.kernels.cuda.launch import BLOCK, WARP, Formulas, Kernel, load_kernel, load_product, run_length
from gpubp.parameters import Parameters

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
                {"sigma": _IDENTITY if isinstance(sigma, Softmax) else sigma.sigma}, (rows, n, k),
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


def load_output_kernel(
    stem: str, dtype: str, activation: Activation | Softmax, cost: Cost, y: Any, n: int | str
) -> Kernel:
    """bp1 or score, whose warps take a row each, for one pair of output activation and cost."""
    error = output_error(activation, cost)
    formulas: Formulas = {}
    if error.cost is not None and error.delta is not None:
        formulas = {"output_cost": error.cost, "output_delta": error.delta}
    return load_kernel(
        stem, dtype, formulas, SOFTMAX=int(isinstance(activation, Softmax)),
        Target="T" if y.ndim == 2 else "long long", N=n,
    )  # fmt: skip


def row_blocks(rows: int) -> int:
    """Blocks of a kernel whose warps take a row each."""
    return -(-rows // (BLOCK // WARP))
