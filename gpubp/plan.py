"""Everything a kernel needs to know before it trains, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .activation import Activation, Softmax
from .cost import Cost
from .optimiser import UpdateRule


@dataclass(frozen=True)
class Plan:
    """One training run's fixed part; hashable, so that compiled kernels can be found by it.

    ``sizes`` are (n_1, ..., n_L); ``activations`` one a layer with weights; ``batch_size`` the
    rows of a full mini-batch; ``dtype`` "float32" or "float64"; ``precision`` "tf32" or "bf16" for
    products on a GPU's tensor cores, or ``None`` for dtype's own.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation | Softmax, ...]
    cost: Cost
    batch_size: int
    dtype: Any
    rule: UpdateRule
    precision: str | None = None
