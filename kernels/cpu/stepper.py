"""Which of the two engines trains a network, on how many threads: a rule, and how to override it.

``tiled`` keeps the weights in registers' shape and skips inputs that are zero in a whole
mini-batch; it is the faster one as long as the weights stay in the second-level cache. ``blas``
cuts large products into blocks that fit the caches. The rule looks at sizes only, and the tiled
engine's bits do not depend on the number of threads, so a run repeats bit for bit.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np

from gpubp.errors import unknown
from gpubp.kernels.cpu.blas import BlasStepper
from gpubp.kernels.cpu.tiled import TiledStepper
from gpubp.parameters import Parameters
from gpubp.plan import Plan

ENGINES = ("tiled", "blas")
_CACHE = 1 << 20  # bytes of weights up to which the tiled engine wins: a second-level cache
_WORTH = 1e6  # operations a step from which a second thread may earn its barrier


def threads_at_hand() -> int:
    """The threads to use: ``$GPUBP_NUM_THREADS``, else the processors this process may run on."""
    given = os.environ.get("GPUBP_NUM_THREADS")
    if given is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"GPUBP_NUM_THREADS={given!r} must be an integer of at least 1")
    return int(given)


def choose_engine(plan: Plan) -> tuple[str, int]:
    """(engine, parts to share among threads) for a plan; ``$GPUBP_ENGINE`` overrides the engine."""
    weights = sum(n_in * n_out for n_in, n_out in pairwise(plan.sizes))
    engine = os.environ.get("GPUBP_ENGINE")
    if engine is None:
        engine = "tiled" if weights * np.dtype(plan.dtype).itemsize <= _CACHE else "blas"
    if engine not in ENGINES:
        raise unknown("GPUBP_ENGINE", engine, ENGINES)
    if engine == "blas":
        return engine, 1  # BLAS has threads of its own
    # Beyond two, each further thread repeats the upper layers and has less of the first to do.
    return engine, 2 if 6 * plan.batch_size * weights >= _WORTH else 1


def describe() -> str:
    """The rule in a line, with what overrides it now."""
    rule = f"tiled up to {_CACHE >> 20} MiB of weights, then blas"
    rule = os.environ.get("GPUBP_ENGINE") or rule
    return f"{rule}; {threads_at_hand()} threads (GPUBP_ENGINE, GPUBP_NUM_THREADS override)"


class Stepper:
    """Mini-batch SGD on the CPU; what it computes is defined by the reference's Stepper.

    x is (n, n_1) of the plan's dtype or uint8; y is (n,) labels or (n, n_L) targets; all C-ordered.
    """

    def __init__(self, plan: Plan, parameters: Parameters, x: Any, y: Any) -> None:
        self.engine, parts = choose_engine(plan)
        self._stepper: TiledStepper | BlasStepper
        if self.engine == "tiled":
            self._stepper = TiledStepper(plan, parameters, x, y, parts, threads_at_hand())
        else:
            self._stepper = BlasStepper(plan, parameters, x, y)

    def run(self, order: Any, learning_rate: float) -> float:
        """Train on the examples of ``order``; the mean of their objective before each update."""
        return self._stepper.run(order, learning_rate)
