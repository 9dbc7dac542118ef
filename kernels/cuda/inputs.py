"""a^1 of a mini-batch, as the first layer's products read it."""

from __future__ import annotations

from typing import Any

import cupy as cp

from gpubp.kernels.cuda.feed import Resident, Streamed
from gpubp.kernels.cuda.launch import BLOCK, load_kernel, run_length
from gpubp.kernels.cuda.layers import input_type
from gpubp.kernels.cuda.tiling import COPIED, choose_tile
from gpubp.plan import Plan

_RUN = 4  # elements that a thread of gather.cu takes


class Inputs:
    """The rows of the data set, which products gather where they lie; or, for a large layer in
    float32, a^1 written out by ``gather.cu``, so that its tiles can copy them as they are.

    ``x`` is what the products read, ``gather`` whether they find its rows by the order.
    """

    def __init__(self, plan: Plan, feed: Resident | Streamed, arithmetic: str) -> None:
        n_in, n_out = plan.sizes[:2]
        self._feed, self._n_in = feed, n_in
        tile = choose_tile(plan.batch_size, n_out, n_in, arithmetic, copied=True)
        in_runs = run_length(feed.x, "float32") == _RUN
        self.gather = not (arithmetic == "float32" and tile == COPIED and in_runs)
        self.x = feed.x
        if not self.gather:
            self.x = cp.empty((plan.batch_size, n_in), plan.dtype)
            self._kernel = load_kernel("gather", arithmetic, {}, Input=input_type(feed.x), K=n_in)

    def place(self, *place: Any) -> tuple[Any, ...]:
        """Where in the order its rows begin, for those that gather."""
        return place if self.gather else ()

    def enqueue(self, m: int, *place: Any) -> None:
        """Write m rows out, unless the products gather them."""
        if not self.gather:
            blocks = -(-m * self._n_in // (_RUN * BLOCK))
            self._kernel(blocks, m, self._feed.x, self.x, *place)
