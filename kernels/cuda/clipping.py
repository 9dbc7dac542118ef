"""The update of a rule that clips the gradient: two launches once all of it is there.

See ``squares.cu`` and ``clipped_update.cu``.
"""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from gpubp.kernels.cuda.launch import BLOCK, load_kernel
from gpubp.kernels.cuda.memory import allocating
from gpubp.parameters import Parameters
from gpubp.plan import Plan
from gpubp.rule import CLIP_EPSILON

MOST_BLOCKS = 128  # a multiprocessor's share each, and few sums for every block to add up


class Clipped:
    """The gradient's memory, seen layer by layer as ``weights`` and ``biases``, and ``enqueue``,
    which updates the parameters by it. ``blocks`` leave a penalty each."""

    def __init__(self, plan: Plan, parameters: Parameters) -> None:
        rule, flat = plan.rule, parameters.flat
        with allocating(
            "the gradient, which clip_norm needs whole,", flat.nbytes, "train without clip_norm"
        ):
            self._gradient = cp.zeros(flat.size, flat.dtype)
        self.weights, self.biases = parameters.views(self._gradient)
        self.blocks = min(MOST_BLOCKS, -(-flat.size // BLOCK))
        self._squares = cp.empty(self.blocks)
        self._flat = flat
        self._counts = np.int64(parameters.n_weights), np.int64(flat.size)
        # Without state nothing reads it.
        self._state = parameters.state if len(parameters.state) else flat
        constants = {"CLIP_BLOCKS": self.blocks, "CLIP_EPSILON": repr(CLIP_EPSILON)}
        self._sum, self._update = (
            load_kernel(stem, plan.dtype, {}, BLOCK, rule, **constants)
            for stem in ("squares", "clipped_update")
        )

    def enqueue(self, m: int, numbers: Any, done: Any, step: int, penalty: Any) -> None:
        """The update by the sums over m examples."""
        self._sum(
            self.blocks, m, *self._counts, self._flat, self._gradient, numbers, done, step,
            self._squares, penalty,
        )  # fmt: skip
        self._update(
            self.blocks, m, *self._counts, self._flat, self._state, self._gradient, numbers, done,
            step, self._squares,
        )  # fmt: skip
