"""The Hadamard step of BP1 and BP2: v (x) sigma'(z), one fused pass over three arrays.

The plain twin is ``v * sigma_prime(z, a)``, a pass and a temporary array for each operation in the
formula. Here the formula is compiled on vectors (see ``blocks``): each element is read once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.activation import Activation
from gpubp.arrays import check_hadamard
from gpubp.kernels.cpu import simd
from gpubp.kernels.cpu.blocks import hadamard_kernel
from gpubp.kernels.cpu.generated import load_compiled


def hadamard_sigma_prime(v: Any, z: Any, a: Any, activation: Activation) -> Any:
    """v (x) sigma'(z): BP1 with v = grad_a C, BP2 with v = delta w; (m, n) each."""
    v, z, a = (np.ascontiguousarray(array) for array in (v, z, a))
    check_hadamard(v, z, a)
    out = np.empty_like(z)
    load_compiled("contiguous").hadamard(
        hadamard_kernel(activation, z.dtype.name),
        v.reshape(-1), z.reshape(-1), a.reshape(-1), out.reshape(-1),
        np.zeros((4, simd.REGISTER_BYTES // z.itemsize), z.dtype),
    )  # fmt: skip
    return out
