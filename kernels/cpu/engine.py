"""Whole runs of mini-batches in one compiled call, on register tiles, by one or more threads.

The plain twin is ``kernels/reference.py``. The weights live here as rows that leave a unit, padded
to whole vectors, so that both products are outer products (see ``tile``). The inputs that are zero
in a whole mini-batch are left out of layer 1, which is exact: by BP4 they have no gradient.

The inputs of layer 1 are dealt out in parts: part t has the columns of every ``parts``-th group of
GROUP, their rows of w^2, and so a share of z^2 = sum_t z_t. Threads share the parts. One barrier a
mini-batch makes the shares known to all; everything after it each thread computes alike, in copies
of its own. The number of parts fixes every bit of the weights; that of threads only the speed.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from gpubp.kernels.cpu.calls import barrier, call_kernel, call_rule, call_squares
from gpubp.kernels.cpu.machine_code import kept_jit
from gpubp.kernels.cpu.penalty import penalty
from gpubp.kernels.cpu.rows import (
    as_float,
    compress,
    count_lanes,
    load_input,
    no_lanes,
    nonzero,
    steps,
    transpose,
)
from gpubp.kernels.cpu.simd import get, lane_count, load, put, splat, store
from gpubp.kernels.cpu.sparse import write_row
from gpubp.kernels.cpu.tile import CHUNK, forward_tile, update_tile
from gpubp.rule import CLIP_EPSILON

GROUP = 64  # columns that go to one part together: a cache line of uint8
SPINS = 2000  # looks at the barrier before a waiting thread gives its time slice away

# The columns of ``layers``, one row a layer of weights; offsets count elements.
N_IN, N_OUT, W_STEP, W, WT_STEP, WT, B, Z, A, DELTA = range(10)
FIELDS = 10

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)
_inlined = njit(nogil=True, error_model="numpy", boundscheck=False, forceinline=True)


@_jit
def _pack(x, at, m, n_in, w_step, part, parts, like, packed, chunk_step, index, counts):
    """The part's columns that are not zero in all m rows, as chunks; returns their number.

    ``at`` holds where the rows begin in x. Column k's row of weights begins at k w_step; the
    columns that fill a chunk to a multiple of 8 are zeros with the scratch row n_in + part.
    """
    lanes = lane_count(like)
    width = CHUNK + lanes
    q, pos = 0, 0
    for first in range(part * GROUP, n_in, parts * GROUP):
        for k in range(first, min(first + GROUP, n_in), lanes):
            used = no_lanes(like)
            whole = k + lanes <= n_in
            if whole:
                for i in range(m):
                    used = used | nonzero(x, get(at, i) + k, 0, like)
            else:
                for i in range(m):
                    used = used | nonzero(x, get(at, i) + k, n_in - k, like)
            # No branch on what was found: it would be mispredicted as often as not.
            count = count_lanes(used)
            if pos + lanes > CHUNK:
                _close_chunk(packed, q * chunk_step, index, q * width, pos, m, width, like,
                             (n_in + part) * w_step)  # fmt: skip
                put(counts, q, np.int32((pos + 7) // 8 * 8))
                q, pos = q + 1, 0
            store(index, q * width + pos, compress(steps(k * w_step, w_step, like), used))
            to = q * chunk_step + pos
            if whole:
                for i in range(m):
                    row = load_input(x, get(at, i) + k, 0, like)
                    store(packed, to + i * width, compress(row, used))
            else:
                for i in range(m):
                    row = load_input(x, get(at, i) + k, n_in - k, like)
                    store(packed, to + i * width, compress(row, used))
            pos += count
    _close_chunk(packed, q * chunk_step, index, q * width, pos, m, width, like,
                 (n_in + part) * w_step)  # fmt: skip
    put(counts, q, np.int32((pos + 7) // 8 * 8))
    return q + 1


@_jit
def _close_chunk(packed, start, index, index_start, pos, m, width, like, scratch):
    zero, end = splat(like - like), (pos + 7) // 8 * 8
    for i in range(m):
        for k in range(pos, end, lane_count(like)):
            store(packed, start + i * width + k, zero)
    for k in range(pos, end):
        put(index, index_start + k, np.int32(scratch))


@_jit
def _forward(rows, wide, listed, a, a0, chunk_step, chunks, counts, index, b, b0, ldb,
             c, c0, step, m, blocks, zero):  # fmt: skip
    """C = A B for m rows (rounded up to whole tiles) and all blocks of columns of C."""
    lanes = lane_count(zero)
    row_step = CHUNK + lanes if listed else lanes
    j = 0
    while j + len(wide) <= blocks:
        for i in range(0, m, len(rows)):
            forward_tile(rows, wide, listed, a, a0 + i * row_step, chunk_step, chunks,
                         counts, index, b, b0 + j * lanes, ldb,
                         c, c0 + j * step + i * lanes, step)  # fmt: skip
        j += len(wide)
    while j < blocks:
        for i in range(0, m, len(rows)):
            forward_tile(rows, (None,), listed, a, a0 + i * row_step, chunk_step, chunks,
                         counts, index, b, b0 + j * lanes, ldb,
                         c, c0 + j * step + i * lanes, step)  # fmt: skip
        j += 1


@_jit
def _update(units, wide, listed, a, a0, d, d0, step, m, index, i0, b, b0, ldb, blocks, alpha):
    """B[k, :] += alpha sum_i A[i, k] D[i, :] for one tile's k and all blocks of columns."""
    lanes = lane_count(alpha)
    j = 0
    while j + len(wide) <= blocks:
        update_tile(units, wide, listed, a, a0, d, d0 + j * step, step, m,
                    index, i0, b, b0 + j * lanes, ldb, alpha)  # fmt: skip
        j += len(wide)
    while j < blocks:
        update_tile(units, (None,), listed, a, a0, d, d0 + j * step, step, m,
                    index, i0, b, b0 + j * lanes, ldb, alpha)  # fmt: skip
        j += 1


@_inlined
def _turn(layers, l, p, like):
    """w^l turned over, for BP2, after its update"""
    lanes = lane_count(like)
    for k in range(0, layers[l, N_IN], lanes):
        for j in range(0, layers[l, N_OUT], lanes):
            there = layers[l, WT] + j * layers[l, WT_STEP] + k
            transpose(p, layers[l, W] + k * layers[l, W_STEP] + j, layers[l, W_STEP],
                      p, there, layers[l, WT_STEP])  # fmt: skip


@kept_jit
def train(
    thread, threads, parts, state, rows, wide, units,
    order, importance, batch, numbers, rules, penalty_at, squares, number,
    x, values, starts, columns, scale, labels, targets,
    layers, w1, p, s1, s, g1, g,
    packed, chunk_step, index, counts, at, shares, step, y, costs, kernels,
):  # fmt: skip
    """Train on ``order``. Column s of ``costs`` (zeros) becomes the objective of mini-batch s
    before its update, summed over its examples: first all but, then each part's penalty of w^2.

    ``importance`` has what each example's cost and delta are multiplied by, or nothing. ``rows``,
    ``wide``, ``units``: tuples whose lengths are the tile's examples, vectors and units.
    ``layers`` (int64, one row of FIELDS a layer of weights) says where everything lies: the rows of
    w^2 in ``w1``, shared by the threads; all else in ``p``, one a thread, with blocks ``step``
    apart. A row of ``packed``, ``index`` and ``counts`` belongs to a part; ``shares``
    [2][parts][blocks of z^2] is known to all. ``s1`` and ``s`` are the optimizer's state, a row of
    each of its arrays laid out like ``w1`` and ``p``; ``numbers`` has a row a mini-batch. Sparse x:
    see ``sparse.write_row``. ``kernels``: output, then (sigma, hadamard) a layer, and ``rules``:
    the update of weights and of biases, as addresses. Where the gradient is clipped there are those
    of the sums of g^2, too, ``squares`` has room for one a part, known to all, and ``number`` for a
    step's numbers. ``penalty_at`` is the place of l2 among these, or 0.
    """
    like = scale  # a number of the network's dtype
    lanes = lane_count(like)
    depth = layers.shape[0]
    n_first, n_last = layers[0, N_IN], layers[depth - 1, N_OUT]
    one = as_float(1, like)
    zero = one - one
    width = CHUNK + lanes
    first_blocks = (layers[0, N_OUT] + lanes - 1) // lanes
    # Plain SGD goes from the tile into the weights; other rules and penalties by way of g. (L2 as a
    # factor 1 - eta l2 would not need g, but in float32 a small eta l2 rounds away.)
    buffered = g1.size > 0
    into1, into = (g1, g) if buffered else (w1, p)
    clipped = squares.size > 0
    parity = 0
    for start in range(0, order.size, batch):
        batch_number = start // batch
        number0 = batch_number * numbers.shape[1]
        m = min(batch, order.size - start)
        for i in range(m):
            row = get(order, start + i)
            put(at, i, row * n_first)
            if starts.size:
                put(at, i, (thread * batch + i) * n_first)
                write_row(values, starts, columns, row, True, x, get(at, i))
        for part in range(thread, parts, threads):
            chunks = _pack(x, at, m, n_first, layers[0, W_STEP], part, parts, like,
                           packed[part], chunk_step, index[part], counts[part])  # fmt: skip
            mine = (parity * parts + part) * first_blocks * step
            _forward(rows, wide, True, packed[part], 0, chunk_step, chunks, counts[part],
                     index[part], w1, 0, layers[0, W_STEP], shares, mine, step,
                     m, first_blocks, zero)  # fmt: skip
            put(counts[part], counts.shape[1] - 1, np.int32(chunks))

        if starts.size:
            for i in range(m):
                write_row(values, starts, columns, get(order, start + i), False, x, get(at, i))

        # The targets, while the other threads arrive.
        last_blocks = (n_last + lanes - 1) // lanes
        if labels.size:
            none = splat(zero)
            for j in range(last_blocks):
                for i in range(m):
                    store(y, j * step + i * lanes, none)
            for i in range(m):
                label = labels[get(order, start + i)]
                put(y, label // lanes * step + i * lanes + label % lanes, one)
        else:
            for i in range(m):
                row = get(order, start + i) * n_last
                for j in range(n_last):
                    put(y, j // lanes * step + i * lanes + j % lanes, get(targets, row + j))

        if threads > 1 and not barrier(state, threads, SPINS):
            return

        # Forward: z^l = w^l a^{l-1} + b^l, a^l = sigma(z^l).
        for l in range(depth):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            z, a, bias = layers[l, Z], layers[l, A], layers[l, B]
            blocks = (n_out + lanes - 1) // lanes
            if l == 0:
                factor = splat(scale)
                for j in range(blocks):
                    shift = load(p, bias + j * lanes)
                    for i in range(m):
                        here = (parity * parts * blocks + j) * step + i * lanes
                        total_z = load(shares, here)
                        for t in range(1, parts):
                            total_z = total_z + load(shares, here + t * blocks * step)
                        store(p, z + j * step + i * lanes, factor * total_z + shift)
            else:
                _forward(rows, wide, False, p, layers[l - 1, A], step, (n_in + lanes - 1) // lanes,
                         counts[0], index[0], p, layers[l, W], layers[l, W_STEP], p, z, step,
                         m, blocks, zero)  # fmt: skip
                for j in range(blocks):
                    shift = load(p, bias + j * lanes)
                    for i in range(m):
                        here = z + j * step + i * lanes
                        store(p, here, load(p, here) + shift)
            call_kernel(kernels[1 + 2 * l], m, step, n_out, p, z, p, a, p, z, y, 0, p, z)
        parity = 1 - parity

        # BP1, and the cost before the update.
        delta = layers[depth - 1, DELTA]
        cost = call_kernel(kernels[0], m, step, n_last, p, layers[depth - 1, Z],
                           p, layers[depth - 1, A], importance, start, y, 0, p, delta)  # fmt: skip
        if thread == 0:
            costs[0, batch_number] = cost
        if penalty_at:
            l2, l1 = numbers[batch_number, penalty_at], numbers[batch_number, penalty_at + 1]
            for part in range(thread, parts, threads):
                for first in range(part * GROUP, n_first, parts * GROUP):
                    count = (min(first + GROUP, n_first) - first) * layers[0, W_STEP]
                    costs[1 + part, batch_number] += m * penalty(
                        w1, first * layers[0, W_STEP], count, l2, l1
                    )
            for l in range(1, depth if thread == 0 else 1):
                size = (layers[l, N_IN] + lanes - 1) // lanes * lanes * layers[l, W_STEP]
                costs[0, batch_number] += m * penalty(p, layers[l, W], size, l2, l1)

        # From the output back: BP2 with w^l as it was in the forward pass, then its update.
        squared = 0.0
        alpha = (one if buffered else -numbers[batch_number, 0]) / as_float(m, like)
        for l in range(depth - 1, 0, -1):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            delta, below = layers[l, DELTA], layers[l - 1, DELTA]
            blocks, blocks_in = (n_out + lanes - 1) // lanes, (n_in + lanes - 1) // lanes
            _forward(rows, wide, False, p, delta, step, blocks, counts[0], index[0],
                     p, layers[l, WT], layers[l, WT_STEP], p, below, step,
                     m, blocks_in, zero)  # fmt: skip
            call_kernel(kernels[2 * l], m, step, n_in, p, layers[l - 1, Z], p, layers[l - 1, A],
                        p, below, y, 0, p, below)  # fmt: skip
            w_step = layers[l, W_STEP]
            size = blocks_in * lanes * w_step
            for k in range(0, n_in, len(units)):
                a = layers[l - 1, A] + k // lanes * step + k % lanes
                row = layers[l, W] + k * w_step
                _update(units, wide, False, p, a, p, delta, step, m,
                        index[0], 0, into, row, w_step, blocks, alpha)  # fmt: skip
            if clipped:
                squared += call_squares(rules[2], size, p, layers[l, W], g, layers[l, W],
                                        s, 0, 0, numbers, number0)  # fmt: skip
            elif buffered:
                call_rule(rules[0], size, p, layers[l, W], g, layers[l, W],
                          s, layers[l, W], g.size, numbers, number0)  # fmt: skip
            if not clipped:
                _turn(layers, l, p, like)

        # BP3.
        for l in range(depth):
            for j in range((layers[l, N_OUT] + lanes - 1) // lanes):
                column = splat(zero)
                for i in range(m):
                    column = column + load(p, layers[l, DELTA] + j * step + i * lanes)
                here = layers[l, B] + j * lanes
                store(into, here, load(into, here) + splat(alpha) * column)
                if clipped:
                    squared += call_squares(rules[3], lanes, p, here, g, here, s, 0, 0,
                                            numbers, number0)  # fmt: skip
                elif buffered:
                    call_rule(rules[1], lanes, p, here, g, here, s, here, g.size,
                              numbers, number0)  # fmt: skip

        # BP4 of layer 1.
        delta, w_step = layers[0, DELTA], layers[0, W_STEP]
        alpha1 = alpha * scale
        for part in range(thread, parts, threads):
            rows_of_w = index[part]
            for q in range(get(counts[part], counts.shape[1] - 1)):
                for k in range(0, counts[part, q], len(units)):
                    _update(units, wide, True, packed[part], q * chunk_step + k, p, delta, step, m,
                            rows_of_w, q * width + k, into1, 0, w_step,
                            first_blocks, alpha1)  # fmt: skip
            if clipped:
                squares[part] = 0.0
            for first in range(part * GROUP, n_first if buffered else 0, parts * GROUP):
                here, count = first * w_step, (min(first + GROUP, n_first) - first) * w_step
                if clipped:
                    squares[part] += call_squares(rules[2], count, w1, here, g1, here, s1, 0, 0,
                                                  numbers, number0)  # fmt: skip
                else:
                    call_rule(rules[0], count, w1, here, g1, here, s1, here, g1.size,
                              numbers, number0)  # fmt: skip
        if not clipped:
            continue

        # All of the gradient is there: its norm, then the updates that waited for it.
        if threads > 1 and not barrier(state, threads, SPINS):
            return
        for part in range(parts):
            squared += squares[part]
        last = numbers.shape[1] - 1
        for i in range(last):
            number[i] = numbers[batch_number, i]
        number[last] = min(1.0, numbers[batch_number, last] / (sqrt(squared) + CLIP_EPSILON))
        for part in range(thread, parts, threads):
            for first in range(part * GROUP, n_first, parts * GROUP):
                here, count = first * w_step, (min(first + GROUP, n_first) - first) * w_step
                call_rule(rules[0], count, w1, here, g1, here, s1, here, g1.size, number, 0)
        for l in range(depth):
            if l > 0:
                size = (layers[l, N_IN] + lanes - 1) // lanes * lanes * layers[l, W_STEP]
                call_rule(rules[0], size, p, layers[l, W], g, layers[l, W],
                          s, layers[l, W], g.size, number, 0)  # fmt: skip
                _turn(layers, l, p, like)
            for j in range((layers[l, N_OUT] + lanes - 1) // lanes):
                here = layers[l, B] + j * lanes
                call_rule(rules[1], lanes, p, here, g, here, s, here, g.size, number, 0)
