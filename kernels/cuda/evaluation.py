"""Cost and accuracy of a data set, computed where it lies: see ``score.cu``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Activation, Softmax
from gpubp.arrays import row_chunks
from gpubp.cost import Cost
from gpubp.kernels.cuda.layers import Layers, load_output_kernel, row_blocks
from gpubp.kernels.cuda.memory import allocating
from gpubp.parameters import Parameters


def score(
    parameters: Parameters, activations: Sequence[Activation | Softmax], cost: Cost, x: Any, y: Any
) -> tuple[float, int]:
    """(the sum of the examples' costs, how many are in the class of y), in bounded memory."""
    dtype, n = parameters.flat.dtype.name, parameters.sizes[-1]
    chunks = list(row_chunks(len(x), 2 * sum(parameters.sizes) * parameters.flat.itemsize))
    rows = len(x[chunks[0]])
    needed = 2 * rows * sum(parameters.sizes[1:]) * parameters.flat.itemsize + x[chunks[0]].nbytes
    with allocating(f"{rows:,} examples to evaluate", needed, "free memory on the GPU"):
        layers = Layers(parameters, activations, dtype, rows, x, fixed=False, gather=False)
        kernel = load_output_kernel("score", dtype, activations[-1], cost, y, "n")
        costs, right = (cp.zeros(row_blocks(rows)) for _ in range(2))
        for chunk in chunks:
            x_chunk, y_chunk = cp.asarray(x[chunk]), cp.asarray(y[chunk])
            m = len(x_chunk)
            layers.enqueue(m, x_chunk)
            kernel(row_blocks(m), m, n, layers.z[-1], layers.a[-1], y_chunk, costs, right)
    return float(np.sum(costs.get())), int(np.sum(right.get()))
