"""One mini-batch as a sequence of launches: forward, BP1, BP2, then BP4 with BP3 and the update.

For n layers with weights these are 3 n launches: n forward, one BP1, n - 1 BP2 from the output
down, and n updates. All of BP2 reads weights before any of them is updated; the stream keeps the
order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cupy as cp
import numpy as np

from gpubp.activation import Activation
from gpubp.kernels.cuda.clipping import Clipped
from gpubp.kernels.cuda.feed import Resident, Streamed
from gpubp.kernels.cuda.inputs import Inputs
from gpubp.kernels.cuda.launch import load_kernel, load_product, run_length
from gpubp.kernels.cuda.layers import Layers, input_type, load_output_kernel, row_blocks
from gpubp.kernels.cuda.memory import allocating
from gpubp.parameters import Parameters
from gpubp.plan import Plan

GRAPH_STEPS = 64  # mini-batches whose launches are enqueued before next_steps, at most


class MiniBatch:
    """The launches of one training step, and every array they touch, allocated once.

    ``first`` is the place in the feed's order from which offsets count, ``done`` the number of
    mini-batches before, ``numbers`` those of the update rule, a row a mini-batch; they live on the
    device, so that a captured graph of these launches serves all steps. Blocks leave their parts of
    a mini-batch's cost in its row of ``_costs``: of BP1 the examples' costs, of the updates m times
    the penalty. ``next_steps`` adds them up into ``objective``, which as ``numbers`` has room for
    ``steps`` mini-batches, from number ``done`` on.
    """

    def __init__(
        self, plan: Plan, parameters: Parameters, feed: Resident | Streamed, steps: int
    ) -> None:
        self.plan, self.feed, sizes = plan, feed, plan.sizes
        dtype, m, rule = plan.dtype, plan.batch_size, plan.rule
        arithmetic = plan.precision or dtype  # of the products
        self.parameters, self.state = parameters, parameters.state
        with allocating(
            f"the layers of a mini-batch of {m}", 3 * m * sum(sizes[1:]) * np.dtype(dtype).itemsize,
            "train with a smaller batch_size",
        ):  # fmt: skip
            self.inputs = Inputs(plan, feed, arithmetic)
            self.layers = Layers(
                parameters, plan.activations, arithmetic, m, self.inputs.x, fixed=True,
                gather=self.inputs.gather,
            )  # fmt: skip
            self.delta = [cp.empty((m, n), dtype) for n in sizes[1:]]
        self._bp1 = load_output_kernel(
            "bp1", dtype, plan.activations[-1], plan.cost, feed.y, sizes[-1], plan.weighted
        )
        pairs = list(pairwise(sizes))
        hidden = [sigma for sigma in plan.activations[:-1] if isinstance(sigma, Activation)]
        self._bp2 = [
            load_product(
                "bp2",
                arithmetic,
                {"sigma_prime": sigma.sigma_prime},
                (m, k, n),
                N=n,
                K=k,
                DELTA_RUN=run_length(delta, dtype),
                W_RUN=run_length(weights, dtype),
            )
            for sigma, (k, n), delta, weights in zip(
                hidden, pairs[1:], self.delta[1:], parameters.weights[1:], strict=True
            )
        ]
        self._clipped = Clipped(plan, parameters) if rule.clipped else None
        fused = self._clipped is None
        self._update = [
            load_product(
                "outer_sum", arithmetic, {}, (n, k, m), rule if fused else None,
                GATHER=int(l == 0 and self.inputs.gather), UPDATE=int(fused),
                Input="T" if l else input_type(self.inputs.x), N=n, K=k,
                DELTA_RUN=run_length(self.delta[l], dtype),
                X_RUN=run_length(self.layers.a[l - 1] if l else self.inputs.x, dtype),
            )
            for l, (k, n) in enumerate(pairs)
        ]  # fmt: skip
        self._next = load_kernel("next_steps", dtype, {}, GRAPH_STEPS)
        self.first, self.done = (cp.zeros(1, np.int64) for _ in range(2))
        self.objective = cp.empty(steps)
        self.numbers = cp.empty((steps, len(rule.numbers)), dtype)
        sums = [row_blocks(m)]
        if rule.penalised and self._clipped is not None:
            sums += [self._clipped.blocks]
        elif rule.penalised:
            sums += [u.tile.blocks(n, k) for u, (k, n) in zip(self._update, pairs, strict=True)]
        self._costs = cp.empty((GRAPH_STEPS, sum(sums)))
        # Without penalties nobody writes them.
        self._penalties = list(np.cumsum(sums)[:-1]) or [0] * len(pairs)
        # The first array of the state, from which the kernels find the others. Without any, as for
        # plain SGD and before a run begins, nothing reads it, but the arguments are the same.
        self._states = parameters.views(self.state[0] if len(self.state) else parameters.flat)
        self._apart = np.int64(parameters.flat.size)
        # Without weights nothing reads it.
        self._importance = feed.importance if plan.weighted else parameters.flat

    def enqueue(self, m: int, offset: int) -> None:
        """Train on the m examples that stand ``offset`` behind the first of the order."""
        sizes, layers, delta = self.plan.sizes, self.layers, self.delta
        step = offset // self.plan.batch_size
        costs = self._costs[step]
        weights, biases = self.parameters.weights, self.parameters.biases
        place = (self.feed.order, self.first, offset)
        inputs = self.inputs
        inputs.enqueue(m, *place)
        layers.enqueue(m, inputs.x, *inputs.place(*place))
        self._bp1(
            row_blocks(self.plan.batch_size), m, sizes[-1], layers.z[-1], layers.a[-1],
            self.feed.y, delta[-1], costs, self._importance, *place,
        )  # fmt: skip
        for l in reversed(range(len(delta) - 1)):
            k, n = sizes[l + 1], sizes[l + 2]
            self._bp2[l].product(
                m, k, m, n, k, delta[l + 1], weights[l + 1], layers.z[l], layers.a[l], delta[l]
            )
        for l, (k, n) in enumerate(pairwise(sizes)):
            into: tuple[Any, ...]
            if self._clipped is not None:
                into = (self._clipped.weights[l], self._clipped.biases[l])
            else:
                into = (
                    weights[l], biases[l], self._states[0][l], self._states[1][l], self._apart,
                    self.numbers, self.done, step, costs[self._penalties[l] :],
                )  # fmt: skip
            self._update[l].product(
                n, k, m, n, k, delta[l],
                *((inputs.x, *inputs.place(*place)) if l == 0 else (layers.a[l - 1],)), *into,
            )  # fmt: skip
        if self._clipped is not None:
            penalties = costs[self._penalties[0] :]
            self._clipped.enqueue(m, self.numbers, self.done, step, penalties)

    def next_steps(self, examples: int, steps: int) -> None:
        """After so many examples, the mini-batches ``steps``: their costs; and let offsets count
        from there on."""
        self._next(
            1, self.first, self.done, np.int64(examples), steps, self._costs.shape[1],
            self._costs, self.objective,
        )  # fmt: skip
