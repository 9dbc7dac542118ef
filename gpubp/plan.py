"""Everything a kernel needs to know before it trains, as plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .activation import Activation, Softmax
from .cost import Cost
from .rule import PLAIN, UpdateRule


@dataclass(frozen=True)
class Plan:
    """One training run's fixed part; hashable, so that compiled kernels can be found by it.

    ``sizes`` are (n_1, ..., n_L); ``activations`` one a layer with weights; ``batch_size`` the
    rows of a full mini-batch; ``dtype`` "float32" or "float64"; ``precision`` "tf32" or "bf16" for
    products on a GPU's tensor cores, or ``None`` for dtype's own; ``threads`` the processors'
    threads it may use at most, ``None`` for all at hand: it decides on speed alone, never on bits;
    ``weighted`` whether examples have weights.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation | Softmax, ...]
    cost: Cost
    batch_size: int
    dtype: Any
    rule: UpdateRule = PLAIN
    precision: str | None = None
    threads: int | None = None
    weighted: bool = False


MOST_THREADS = 1024


def threads_at_hand() -> int:
    """The threads to use: ``$GPUBP_NUM_THREADS``, else the processors this process may run on."""
    given = os.environ.get("GPUBP_NUM_THREADS")
    if given is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    # Of more digits Python would make a number first, and of that many threads the system none.
    if not given.isdecimal() or len(given) > 5 or not 1 <= int(given) <= MOST_THREADS:
        raise ValueError(f"GPUBP_NUM_THREADS={given!r} must be an integer from 1 to {MOST_THREADS}")
    return int(given)
