"""Training in one launch, by all multiprocessors together: see ``cooperative.cu``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Softmax
from gpubp.kernels.cuda.feed import Resident, Streamed
from gpubp.kernels.cuda.launch import BLOCK, Kernel, run_length
from gpubp.kernels.cuda.layers import all_formulas, input_type, target_type
from gpubp.kernels.cuda.memory import allocating, copied_numbers
from gpubp.kernels.cuda.source import compiled, source
from gpubp.kernels.cuda.tiling import choose_tile
from gpubp.parameters import Parameters
from gpubp.plan import Plan

LAUNCH_STEPS = 1024  # mini-batches a launch: some 10 ms, after which Ctrl-C is looked for
MOST_HEAD = 1 << 21  # products a mini-batch in all layers but the first
MOST_FIRST = 1 << 26  # products a mini-batch in the first layer


def why_not_cooperative(plan: Plan) -> str | None:
    """Why launches of one kernel each are better for this plan, or None.

    The rule from sizes alone: the first layer is small enough for launches to count (2^26 products
    are 5 us at 80% of an H200's float32, beside 2 us a launch), and all others are so small that a
    block takes rows through them faster than a barrier of the grid (2^21 products are 17,000 a
    block of 128, 66 a thread). Not measured yet.
    """
    n_in, first, *_ = plan.sizes
    head = sum(k * n for k, n in pairwise(plan.sizes[1:]))
    if plan.rule.clipped:
        return "a clipped gradient must be there whole before any update"
    if plan.precision is not None:
        return f"products in {plan.precision} are launches of their own"
    if plan.batch_size * n_in * first > MOST_FIRST:
        return f"its first layer has more than {MOST_FIRST:,} products a mini-batch"
    if plan.batch_size * head > MOST_HEAD:
        return f"its layers after the first have more than {MOST_HEAD:,} products a mini-batch"
    return None


class Cooperative:
    """A way to train: ``begin`` a piece, ``train`` on what the feed has loaded, read ``costs``."""

    def __init__(
        self, plan: Plan, parameters: Parameters, feed: Resident | Streamed, stream: Any
    ) -> None:
        sizes, dtype, m = plan.sizes, plan.dtype, plan.batch_size
        self.parameters, self._feed, self._m, self._rule = parameters, feed, m, plan.rule
        pairs = list(pairwise(sizes))
        with allocating(
            f"the layers of a mini-batch of {m}", 3 * m * sum(sizes[1:]) * np.dtype(dtype).itemsize,
            "train with a smaller batch_size",
        ):  # fmt: skip
            self._layers = [cp.empty(m * sum(sizes[1:]), dtype) for _ in range(3)]
        (n_in, n), head = pairs[0], pairs[1:] or pairs
        tiles = {
            "TILE_FORWARD": choose_tile(m, n, n_in, dtype, BLOCK),
            "TILE_FIRST": choose_tile(n, n_in, m, dtype, BLOCK),
            "TILE_HEAD": choose_tile(*max(head, key=np.prod)[::-1], m, dtype, BLOCK),
        }
        text = source(
            "cooperative", dtype, all_formulas(plan), plan.rule,
            SIZES=", ".join(map(str, sizes)), LAYERS=len(pairs), M=m, BLOCK=BLOCK,
            Input=input_type(feed.x), X_RUN=run_length(feed.x, dtype), Target=target_type(feed.y),
            SOFTMAX=int(isinstance(plan.activations[-1], Softmax)), WEIGHTED=int(plan.weighted),
            **{name: tile.type for name, tile in tiles.items()},
        )  # fmt: skip
        self._kernel = Kernel(compiled(text, "cooperative", cooperative=True), BLOCK)
        # A block a multiprocessor at most, and none that would have nothing to do.
        updates = tiles["TILE_FIRST"].blocks(n, n_in) + sum(
            tiles["TILE_HEAD"].blocks(n, k) for k, n in pairs[1:]
        )
        work = max(tiles["TILE_FORWARD"].blocks(m, n), m, updates)
        self._blocks = min(cp.cuda.Device().attributes["MultiProcessorCount"], work)
        self._arrived = cp.zeros(1, np.uint32)
        # Without weights nothing reads it.
        self._importance = feed.importance if plan.weighted else parameters.flat

    def begin(self, numbers: Any) -> None:
        """A piece, with the update rule's numbers in each of its mini-batches."""
        self._numbers = copied_numbers(numbers, self.parameters.flat.dtype)
        self._costs, self._done = cp.empty((len(numbers), self._blocks)), 0

    def costs(self) -> Any:
        """Of each mini-batch the objective, summed over its examples: a part a block, added up
        once all have been trained on."""
        return self._costs.get().sum(axis=1)

    def train(self, examples: int) -> None:
        """Enqueue the mini-batches of the examples that the feed has loaded."""
        flat = self.parameters.flat
        state = self.parameters.state if self._rule.state else flat  # without any nothing reads it
        for first in range(0, examples, LAUNCH_STEPS * self._m):
            self._arrived.fill(0)
            self._kernel(
                self._blocks, self._feed.x, self._feed.y, self._importance, self._feed.order,
                np.int64(first), min(LAUNCH_STEPS * self._m, examples - first), flat, state,
                *self._layers, self._numbers[self._done :], self._costs[self._done :],
                self._arrived,
            )  # fmt: skip
            self._done += -(-min(LAUNCH_STEPS * self._m, examples - first) // self._m)
