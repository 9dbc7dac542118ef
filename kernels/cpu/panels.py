"""Whole runs of mini-batches in one compiled call, with every product shared among the threads.

The plain twin is ``kernels/reference.py``. Forward, BP2 and BP4 are all one tile here, a sum of
outer products over a list (``tile.product_tile``):

* In the forward pass and in BP2 the list names units, and a tile serves a block of ``rows``
  examples. Weights lie in panels ``wide`` vectors across, so that a tile reads one stretch of
  memory, and a panel stays in the second-level cache while all blocks of examples pass.
* In BP4 the list names examples, and a tile serves a group of ``rows`` units. The sum over a
  mini-batch stays in registers, and plain SGD's update is what the tile writes.

What is zero is not listed, which is exact: a zero input adds nothing to z, and by BP4 nothing to
the gradient. The forward pass passes over the inputs that are zero in a whole block of examples,
BP4 over the examples in which a whole group of neighbouring inputs is. Of MNIST, in blocks and
groups of 4, that leaves 39% of the one and 28% of the other.

From packing to BP2 no example needs another's numbers, so the threads share the blocks of
examples; then they meet and share the units in BP4: two barriers a mini-batch. Where examples are
few (``by_rows`` false) they share the panels instead and meet after every layer. Each number is
computed by one thread in one order, so the bits do not depend on how many threads there are.
"""

from __future__ import annotations

from numba import int32, njit

from gpubp.kernels.cpu.calls import barrier, call_kernel
from gpubp.kernels.cpu.rows import (
    any_bits,
    as_float,
    compress,
    count_lanes,
    load_as,
    load_input,
    mask_bits,
    no_lanes,
    transpose,
)
from gpubp.kernels.cpu.rule import apply, penalty
from gpubp.kernels.cpu.simd import first_lanes, get, lane_count, load, put, splat, store
from gpubp.kernels.cpu.tile import product_tile

SPINS = 2000  # looks at the barrier before a waiting thread gives its time slice away
PART = 512  # terms summed at once: a long sum in parts rounds less

# The columns of ``layers``, one row a layer of weights; they count elements of ``p``. What layer
# l takes in begins at A_IN, and IN_BLOCK is the step from one block of examples to the next; Z, A
# and DELTA of what it gives out are BLOCK apart.
N_IN, N_OUT, W, WT, B, Z, A, DELTA, BLOCK, A_IN, IN_BLOCK = range(11)
FIELDS = 11

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)
_cached_jit = njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)


@_jit
def _product(rows, wide, down, vectors, a, a0, a_list, b, b0, b_list, first, count, c, c0, alpha):
    """C += alpha sum_e A_e B_e over the list from ``first`` on, for the first vectors of a panel"""
    lanes = lane_count(alpha)
    b_step, c_step = (len(rows) * lanes, lanes) if down else (lanes, len(rows) * lanes)
    for start in range(first, first + count, PART):
        terms = min(PART, first + count - start)
        if vectors == len(wide):
            product_tile(rows, wide, wide, down, a, a0, a_list, start, b, b0, b_list, start, terms,
                         c, c0, alpha)  # fmt: skip
        else:
            for j in range(vectors):
                product_tile(rows, (None,), wide, down, a, a0, a_list, start,
                             b, b0 + j * b_step, b_list, start, terms,
                             c, c0 + j * c_step, alpha)  # fmt: skip


@_jit
def _pack(rows, x, at, example, m, n_in, like, p, a0, a_list, b_list, first, masks, mask_step):
    """A block of m examples as floats; how many inputs are listed, those not zero in all of it.

    The lists begin with an entry for every unit; what is chosen from them goes behind ``first``.
    Bit k of ``masks[block of k, example]`` says whether input k of the example is not zero.
    """
    lanes = lane_count(like)
    zero = splat(like - like)
    to = first
    for k in range(0, n_in, lanes):
        used = no_lanes(like)
        whole = k + lanes <= n_in
        for i in range(m):
            here = get(at, example + i) + k
            value = load_input(x, here, 0, like) if whole else load_input(x, here, n_in - k, like)
            store(p, a0 + (k // lanes * len(rows) + i) * lanes, value)
            mask = value != zero
            put(masks, k // lanes * mask_step + example + i, mask_bits(mask))
            used = used | mask
        # No branch on what was found: it would be mispredicted as often as not.
        store(a_list, to, compress(load_as(a_list, k, like), used))
        store(b_list, to, compress(load_as(b_list, k, like), used))
        to += count_lanes(used)
    return to - first


@_jit
def _choose(masks, at, bits, m, a_rows, b_rows, first):
    """List the examples whose mask has one of ``bits``; the lists begin with every example."""
    to = first
    for i in range(0, m, lane_count(bits)):
        mask = load(masks, at + i)
        used = any_bits(mask, bits) & first_lanes(mask, m - i)
        store(a_rows, to, compress(load(a_rows, i), used))
        store(b_rows, to, compress(load(b_rows, i), used))
        to += count_lanes(used)
    return to - first


@_jit
def _targets(rows, labels, targets, order, start, m, n_out, like, y, y0):
    """Rows of y, labels as unit vectors, as one block of examples"""
    lanes = lane_count(like)
    one = as_float(1, like)
    none = splat(like - like)
    for j in range(0, n_out, lanes):
        for i in range(m):
            store(y, y0 + (j // lanes * len(rows) + i) * lanes, none)
    for i in range(m):
        row = get(order, start + i)
        if labels.size:
            j = get(labels, row)
            put(y, y0 + (j // lanes * len(rows) + i) * lanes + j % lanes, one)
        else:
            for j in range(n_out):
                there = y0 + (j // lanes * len(rows) + i) * lanes + j % lanes
                put(y, there, get(targets, row * n_out + j))


@_jit
def _column_sum(rows, p, delta, step, m, like):
    """sum_x delta over a vector of columns, in blocks of 64 examples"""
    lanes = lane_count(like)
    total = splat(like - like)
    for first in range(0, m, 64):
        part = splat(like - like)
        for i in range(first, min(first + 64, m)):
            part = part + load(p, delta + i // len(rows) * step + i % len(rows) * lanes)
        total = total + part
    return total


@_cached_jit
def train(
    thread, threads, by_rows, state, rows, wide, order, batch, eta,
    x, values, starts, columns, scale, labels, targets,
    layers, p, v, g, momentum, nesterov, l2, l1,
    at, a_list, b_list, list_step, counts, a_rows, b_rows, rows_step, row_counts, masks, mask_step,
    y, costs, penalties, kernels,
):  # fmt: skip
    """Train on ``order``; from thread 0 the summed objective, before each update.

    ``rows`` and ``wide`` are tuples: their lengths are the examples of a block and the vectors of a
    panel. ``layers`` (int64, one row of FIELDS a layer of weights) says where everything lies in
    ``p``, which all threads share; ``v`` is its velocity, ``g`` a thread's own room for the gradient
    of one group of units. ``kernels``: output, then (sigma, hadamard) a layer, as addresses.
    Sparse x: ``values`` and ``columns`` of row i lie from ``starts[i]`` on, and ``x`` is room of
    zeros for a block of dense rows a thread.
    """
    lanes = lane_count(eta)
    tall = len(rows)
    panel = len(wide) * lanes  # columns
    depth = layers.shape[0]
    n_first, n_last = layers[0, N_IN], layers[depth - 1, N_OUT]
    one = as_float(1, eta)
    zero = one - one
    # Plain SGD goes from the tile into the weights; momentum, penalties and sums in several parts
    # by way of g. (L2 as a factor 1 - eta l2 would not need g, but in float32 a small eta l2
    # rounds away.)
    buffered = momentum != zero or l2 != zero or l1 != zero or batch > PART
    total = 0.0
    for start in range(0, order.size, batch):
        m = min(batch, order.size - start)
        blocks = (m + tall - 1) // tall
        first, last = 0, blocks
        if by_rows:
            first, last = blocks * thread // threads, blocks * (thread + 1) // threads
        panel_from, panel_step = (0, 1) if by_rows else (thread, threads)

        # a^1, y, and the lists of inputs
        for t in range(first if by_rows else thread, last, 1 if by_rows else threads):
            example, count = t * tall, min(tall, m - t * tall)
            for i in range(count):
                row = get(order, start + example + i)
                put(at, example + i, row * n_first)
                if starts.size:
                    put(at, example + i, (thread * tall + i) * n_first)
                    for e in range(get(starts, row), get(starts, row + 1)):
                        put(x, (thread * tall + i) * n_first + get(columns, e), get(values, e))
            a_in = layers[0, A_IN] + t * layers[0, IN_BLOCK]
            counts[t] = _pack(rows, x, at, example, count, n_first, eta, p, a_in,
                              a_list, b_list, (1 + t) * list_step, masks, mask_step)  # fmt: skip
            if starts.size:
                for i in range(count):
                    row = get(order, start + example + i)
                    for e in range(get(starts, row), get(starts, row + 1)):
                        put(x, (thread * tall + i) * n_first + get(columns, e), x.dtype.type(0))
            _targets(rows, labels, targets, order, start + example, count, n_last, eta,
                     y, t * layers[depth - 1, BLOCK])  # fmt: skip
        if threads > 1 and not by_rows and not barrier(state, threads, SPINS):
            return total

        # Forward: z^l = w^l a^{l-1} + b^l, a^l = sigma(z^l).
        for l in range(depth):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            across = (n_out + lanes - 1) // lanes
            for q in range(panel_from, (n_out + panel - 1) // panel, panel_step):
                vectors = min(len(wide), across - q * len(wide))
                w = layers[l, W] + q * panel * ((n_in + lanes - 1) // lanes * lanes)
                for t in range(first, last):
                    beside = t * layers[l, BLOCK] + q * panel * tall
                    z, a_in = layers[l, Z] + beside, layers[l, A_IN] + t * layers[l, IN_BLOCK]
                    for j in range(vectors):
                        bias = load(p, layers[l, B] + q * panel + j * lanes)
                        for i in range(tall):
                            store(p, z + (j * tall + i) * lanes, bias)
                    if l == 0:
                        _product(rows, wide, False, vectors, p, a_in, a_list, p, w, b_list,
                                 (1 + t) * list_step, counts[t], p, z, scale)  # fmt: skip
                    else:
                        _product(rows, wide, False, vectors, p, a_in, a_list, p, w, b_list,
                                 0, n_in, p, z, one)  # fmt: skip
                    if l < depth - 1:
                        call_kernel(kernels[1 + 2 * l], min(tall, m - t * tall), tall * lanes,
                                    min(n_out - q * panel, panel), p, z, p, layers[l, A] + beside,
                                    p, z, y, 0, p, z)  # fmt: skip
            if threads > 1 and not by_rows and not barrier(state, threads, SPINS):
                return total

        # The output layer's rows are finished whole, for softmax: a^L, BP1, the cost.
        for t in range(first, last if by_rows or thread == 0 else first):
            beside, count = t * layers[depth - 1, BLOCK], min(tall, m - t * tall)
            z, a = layers[depth - 1, Z] + beside, layers[depth - 1, A] + beside
            delta = layers[depth - 1, DELTA] + beside
            call_kernel(kernels[2 * depth - 1], count, tall * lanes, n_last,
                        p, z, p, a, p, z, y, 0, p, z)  # fmt: skip
            costs[t] = call_kernel(kernels[0], count, tall * lanes, n_last,
                                   p, z, p, a, p, delta, y, beside, p, delta)  # fmt: skip
        if threads > 1 and not by_rows and not barrier(state, threads, SPINS):
            return total

        # BP2: delta^l = ((w^{l+1})^T delta^{l+1}) (x) sigma'(z^l).
        for l in range(depth - 1, 0, -1):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            across = (n_in + lanes - 1) // lanes
            for q in range(panel_from, (n_in + panel - 1) // panel, panel_step):
                vectors = min(len(wide), across - q * len(wide))
                wt = layers[l, WT] + q * panel * ((n_out + lanes - 1) // lanes * lanes)
                for t in range(first, last):
                    beside = t * layers[l - 1, BLOCK] + q * panel * tall
                    below = layers[l - 1, DELTA] + beside
                    for i in range(vectors * tall):
                        store(p, below + i * lanes, splat(zero))
                    _product(rows, wide, False, vectors,
                             p, layers[l, DELTA] + t * layers[l, BLOCK], a_list, p, wt, b_list,
                             0, n_out, p, below, one)  # fmt: skip
                    call_kernel(kernels[2 * l], min(tall, m - t * tall), tall * lanes,
                                min(n_in - q * panel, panel), p, layers[l - 1, Z] + beside,
                                p, layers[l - 1, A] + beside, p, below, y, 0, p, below)  # fmt: skip
            if threads > 1 and not by_rows and l > 1 and not barrier(state, threads, SPINS):
                return total
        if threads > 1 and not barrier(state, threads, SPINS):
            return total
        if thread == 0:
            for t in range(blocks):
                total += costs[t]

        # BP3, BP4 and the update, from the output back.
        slot = 0
        for l in range(depth - 1, -1, -1):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            k_blocks, across = (n_in + lanes - 1) // lanes, (n_out + lanes - 1) // lanes
            alpha = (one if buffered else -eta) / as_float(m, eta)
            for j in range(thread, across, threads):
                column = _column_sum(rows, p, layers[l, DELTA] + j * tall * lanes,
                                     layers[l, BLOCK], m, eta)  # fmt: skip
                bias = layers[l, B] + j * lanes
                if buffered:
                    store(g, 0, splat(alpha) * column)
                    apply(p, v, bias, g, 0, lanes, eta, momentum, nesterov, zero, zero)
                else:
                    store(p, bias, load(p, bias) + splat(alpha) * column)
            if l == 0:
                alpha = alpha * scale
                for k in range(thread, k_blocks, threads):
                    for u in range(0, lanes, tall):
                        group = (k * lanes + u) // tall
                        row_counts[group] = _choose(
                            masks, k * mask_step, int32(((1 << tall) - 1) << u), m,
                            a_rows, b_rows, (depth + group) * rows_step,
                        )  # fmt: skip
            for q in range((across + len(wide) - 1) // len(wide)):
                vectors = min(len(wide), across - q * len(wide))
                delta = layers[l, DELTA] + q * panel * tall
                for k in range(thread, k_blocks, threads):
                    w = layers[l, W] + (q * k_blocks + k) * panel * lanes
                    into, to = (g, 0) if buffered else (p, w)
                    for u in range(0, min(lanes, n_in - k * lanes), tall):
                        group = (k * lanes + u) // tall
                        chosen = (depth + group) * rows_step if l == 0 else l * rows_step
                        count = row_counts[group] if l == 0 else m
                        _product(rows, wide, True, vectors,
                                 p, layers[l, A_IN] + k * tall * lanes + u, a_rows,
                                 p, delta, b_rows, chosen, count,
                                 into, to + u * panel, alpha)  # fmt: skip
                    if l2 != zero or l1 != zero:
                        penalties[slot + q * k_blocks + k] = penalty(p, w, panel * lanes, l2, l1)
                    if buffered:
                        apply(p, v, w, g, 0, panel * lanes, eta, momentum, nesterov, l2, l1)
                    if l > 0:  # w^T, for BP2
                        to = layers[l, WT] + k // len(wide) * panel * across * lanes
                        to += k % len(wide) * lanes + q * len(wide) * panel * lanes
                        for j in range(vectors):
                            transpose(p, w + j * lanes, panel, p, to + j * lanes * panel, panel)
            slot += (across + len(wide) - 1) // len(wide) * k_blocks
        if threads > 1 and not barrier(state, threads, SPINS):
            return total
        if thread == 0 and (l2 != zero or l1 != zero):
            squared = 0.0
            for i in range(slot):
                squared += penalties[i]
            total += m * squared
    return total


@_cached_jit
def copy(inward, wide, layers, flat, p, both):
    """The flat parameters into their panels (with ``both`` into those of w^T too), or back."""
    lanes = lane_count(flat[0])
    panel = len(wide) * lanes
    n_weights = 0
    for l in range(layers.shape[0]):
        n_weights += layers[l, N_IN] * layers[l, N_OUT]
    start, bias = 0, n_weights
    for l in range(layers.shape[0]):
        n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
        tall_in = (n_in + lanes - 1) // lanes * lanes
        tall_out = (n_out + lanes - 1) // lanes * lanes
        for j in range(0, n_out, lanes):
            for k in range(0, n_in, lanes):
                w = layers[l, W] + j // panel * panel * tall_in + k * panel + j % panel
                wt = layers[l, WT] + k // panel * panel * tall_out + j * panel + k % panel
                flat_at = start + j * n_in + k
                if j + lanes <= n_out and k + lanes <= n_in:
                    if inward:
                        transpose(flat, flat_at, n_in, p, w, panel)
                    else:
                        transpose(p, w, panel, flat, flat_at, n_in)
                    if inward and both and l > 0:
                        for i in range(lanes):
                            store(p, wt + i * panel, load(flat, flat_at + i * n_in))
                else:
                    for i in range(min(lanes, n_out - j)):
                        for u in range(min(lanes, n_in - k)):
                            if inward:
                                p[w + u * panel + i] = flat[flat_at + i * n_in + u]
                            else:
                                flat[flat_at + i * n_in + u] = p[w + u * panel + i]
                            if inward and both and l > 0:
                                p[wt + i * panel + u] = flat[flat_at + i * n_in + u]
        for j in range(n_out):
            if inward:
                p[layers[l, B] + j] = flat[bias + j]
            else:
                flat[bias + j] = p[layers[l, B] + j]
        start, bias = start + n_in * n_out, bias + n_out
