"""The Hadamard step of BP1 and BP2, alone: v (x) sigma'(z); see ``hadamard_sigma_prime.cu``."""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Activation
from gpubp.arrays import check_hadamard
from gpubp.kernels.cuda.launch import BLOCK, load_kernel


def hadamard_sigma_prime(v: Any, z: Any, a: Any, activation: Activation) -> Any:
    """v (x) sigma'(z): BP1 with v = grad_a C, BP2 with v = delta w; (m, n) each."""
    v, z, a = (cp.ascontiguousarray(array) for array in (v, z, a))
    check_hadamard(v, z, a)
    kernel = load_kernel(
        "hadamard_sigma_prime", z.dtype.name, {"sigma_prime": activation.sigma_prime}
    )
    out = cp.empty_like(z)
    kernel(-(-z.size // BLOCK), np.int64(z.size), v, z, a, out)
    return out
