"""Whole runs of mini-batches in one compiled call, with every product shared among the threads.

The plain twin is ``kernels/reference.py``. Forward, BP2 and BP4 are all one tile here, a sum of
outer products over a list (``tile.product_tile``):

* In the forward pass and in BP2 the list names units, and a tile serves a block of
  examples. Weights lie in panels ``wide`` vectors across, so that a tile reads one stretch of
  memory, and a panel stays in the second-level cache while all blocks of examples pass.
* In BP4 the list names examples, and a tile serves a group of units. The sum over a
  mini-batch stays in registers, and plain SGD's update is what the tile writes.

What is zero is not listed, which is exact: a zero input adds nothing to z, and by BP4 nothing to
the gradient. The forward pass passes over the inputs that are zero in a whole block of examples,
BP4 over the examples in which a whole group of neighbouring inputs is. Of MNIST, in blocks and
groups of 4, that leaves 39% of the one and 28% of the other.

The threads share the work in one of two ways; either way each number is computed by one thread in
one order, so the bits depend neither on the way nor on how many threads there are.

* By columns: a thread owns panels. It computes their z, a and delta for all examples and updates
  their weights, which so stay in its cache. Threads meet once a layer, in the forward pass and in
  BP2, to see each other's a and delta; the output layer, whose rows softmax needs whole, is shared
  by examples, and its weights by the units they come from.
* By rows: a thread owns blocks of examples from packing to BP2, where no example needs another's
  numbers, and in BP4 units. It meets the others twice a mini-batch, but weights and inputs wander
  between caches. This is for layers with too few panels to share.
"""

from __future__ import annotations

from math import sqrt

from numba import int32, njit

from gpubp.kernels.cpu.calls import barrier, call_kernel, call_rule, call_squares
from gpubp.kernels.cpu.machine_code import kept_jit
from gpubp.kernels.cpu.penalty import penalty
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
from gpubp.kernels.cpu.simd import first_lanes, get, lane_count, load, prefetch, put, splat, store
from gpubp.kernels.cpu.sparse import write_row
from gpubp.kernels.cpu.tile import product_tile
from gpubp.rule import CLIP_EPSILON

SPINS = 2000  # looks at the barrier before a waiting thread gives its time slice away
PART = 512  # terms summed at once: a long sum in parts rounds less

# The columns of ``layers``, one row a layer of weights; they count elements of ``p``. BLOCK is the
# step from one block of examples to the next in Z, A and DELTA.
N_IN, N_OUT, W, WT, B, Z, A, DELTA, BLOCK = range(9)
FIELDS = 9

_jit = njit(nogil=True, error_model="numpy", boundscheck=False)
# As parts of ``train``: called, they cost 5% of case M.
_inlined = njit(nogil=True, error_model="numpy", boundscheck=False, forceinline=True)


@_jit
def _product(rows, block, wide, down, vectors, a, a0, a_list, b, b0, b_list, first, count,
             c, c0, alpha):  # fmt: skip
    """C += alpha sum_e A_e B_e over the list from ``first`` on, for the first vectors of a panel"""
    lanes = lane_count(alpha)
    beside = len(block) * lanes
    b_step, c_vector, c_step = (
        (beside, lanes, len(wide) * lanes) if down else (lanes, beside, beside)
    )
    for start in range(first, first + count, PART):
        terms = min(PART, first + count - start)
        if vectors == len(wide):
            product_tile(rows, wide, block, down, False, a, a0, a_list, start,
                         b, b0, b_list, start, terms, c, c0, c_step, alpha)  # fmt: skip
        else:
            for j in range(vectors):
                product_tile(rows, (None,), block, down, False, a, a0, a_list, start,
                             b, b0 + j * b_step, b_list, start, terms,
                             c, c0 + j * c_vector, c_step, alpha)  # fmt: skip


@_jit
def _pack(block, x, at, example, m, n_in, like, p, a0, a_list, b_list, first, masks, mask_step):
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
            store(p, a0 + (k // lanes * len(block) + i) * lanes, value)
            mask = value != zero
            put(masks, k // lanes * mask_step + example + i, mask_bits(mask))
            used = used | mask
        # No branch on what was found: it would be mispredicted as often as not.
        store(a_list, to, compress(load_as(a_list, k, like), used))
        store(b_list, to, compress(load_as(b_list, k, like), used))
        to += count_lanes(used)
    return to - first


@_jit
def _prefetch_rows(x, order, first, last, n_in):
    """Ask for the rows that order[first:last] names, a cache line at a time"""
    step = 64 // x.itemsize
    for i in range(first, last):
        row = get(order, i) * n_in
        for k in range(0, n_in + step - 1, step):
            prefetch(x, row + min(k, n_in - 1), 2)


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
def _targets(block, labels, targets, order, start, m, n_out, like, y, y0):
    """Rows of y, labels as unit vectors, as one block of examples"""
    lanes = lane_count(like)
    one = as_float(1, like)
    none = splat(like - like)
    for j in range(0, n_out, lanes):
        for i in range(m):
            store(y, y0 + (j // lanes * len(block) + i) * lanes, none)
    for i in range(m):
        row = get(order, start + i)
        if labels.size:
            j = get(labels, row)
            put(y, y0 + (j // lanes * len(block) + i) * lanes + j % lanes, one)
        else:
            for j in range(n_out):
                there = y0 + (j // lanes * len(block) + i) * lanes + j % lanes
                put(y, there, get(targets, row * n_out + j))


@_jit
def _column_sum(block, p, delta, step, m, like):
    """sum_x delta over a vector of columns, in blocks of 64 examples"""
    lanes = lane_count(like)
    total = splat(like - like)
    for first in range(0, m, 64):
        part = splat(like - like)
        for i in range(first, min(first + 64, m)):
            part = part + load(p, delta + i // len(block) * step + i % len(block) * lanes)
        total = total + part
    return total


@_inlined
def _gather(
    thread, block, t, order, start, m, n_first, like, x, values, starts, columns,
    a1, a1_step, at, a_list, b_list, list_step, counts, masks, rows_step,
):  # fmt: skip
    """a^1 of block t of the mini-batch from ``start`` on, and the list of its inputs"""
    example, count = t * len(block), min(len(block), m - t * len(block))
    for i in range(count):
        row = get(order, start + example + i)
        put(at, example + i, row * n_first)
        if starts.size:
            put(at, example + i, (thread * len(block) + i) * n_first)
            write_row(values, starts, columns, row, True, x, get(at, example + i))
    counts[t] = _pack(block, x, at, example, count, n_first, like, a1, t * a1_step,
                      a_list, b_list, (1 + t) * list_step, masks, rows_step)  # fmt: skip
    if starts.size:
        for i in range(count):
            row = get(order, start + example + i)
            write_row(values, starts, columns, row, False, x, get(at, example + i))


@_inlined
def _forward(
    block, wide, l, is_output, m, first, last, panel_from, panel_step, x, order, after, starts,
    scale, layers, p, a1, a1_step, a_list, b_list, list_step, counts, y, kernels, one,
):  # fmt: skip
    """z^l = w^l a^{l-1} + b^l, and a^l = sigma(z^l) but for the output, of some blocks and panels.

    ``after`` is where the next mini-batch begins in the order: its rows are asked for.
    """
    lanes = lane_count(one)
    tall, across = len(block), len(wide)
    panel = across * lanes
    n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
    vectors = (n_out + lanes - 1) // lanes
    for q in range(panel_from, (vectors + across - 1) // across, panel_step):
        w = layers[l, W] + q * panel * ((n_in + lanes - 1) // lanes * lanes)
        for t in range(first, last):
            beside = t * layers[l, BLOCK] + q * panel * tall
            z = layers[l, Z] + beside
            here = min(across, vectors - q * across)
            for j in range(here):
                bias = load(p, layers[l, B] + q * panel + j * lanes)
                for i in range(tall):
                    store(p, z + (j * tall + i) * lanes, bias)
            if l == 0:
                if q == panel_from and not starts.size:
                    at = after + t * tall
                    _prefetch_rows(x, order, at, min(at + tall, order.size), n_in)
                _product(block, block, wide, False, here, a1, t * a1_step, a_list,
                         p, w, b_list, (1 + t) * list_step, counts[t], p, z, scale)  # fmt: skip
            else:
                below = layers[l - 1, A] + t * layers[l - 1, BLOCK]
                _product(block, block, wide, False, here, p, below, a_list, p, w, b_list,
                         0, n_in, p, z, one)  # fmt: skip
            if not is_output:
                call_kernel(kernels[1 + 2 * l], min(tall, m - t * tall), tall * lanes,
                            min(n_out - q * panel, panel), p, z, p, layers[l, A] + beside,
                            p, z, y, 0, p, z)  # fmt: skip


@_inlined
def _output(block, t, order, importance, start, m, labels, targets, layers, p, y, kernels, like):
    """a^L of block t whole, BP1 into delta^L, and the summed cost"""
    l, tall = layers.shape[0] - 1, len(block)
    step, n_out = tall * lane_count(like), layers[l, N_OUT]
    beside, count = t * layers[l, BLOCK], min(tall, m - t * tall)
    z, a, delta = layers[l, Z] + beside, layers[l, A] + beside, layers[l, DELTA] + beside
    _targets(block, labels, targets, order, start + t * tall, count, n_out, like, y, beside)
    call_kernel(kernels[2 * l + 1], count, step, n_out, p, z, p, a, p, z, y, 0, p, z)
    return call_kernel(kernels[0], count, step, n_out, p, z, p, a, importance, start + t * tall,
                       y, beside, p, delta)  # fmt: skip


@_inlined
def _turn(wide, layers, l, q, k, w, p, like):
    """The vectors from k on of panel q of w^l turned over, for BP2, after their update"""
    lanes, across = lane_count(like), len(wide)
    panel, vectors = across * lanes, (layers[l, N_OUT] + lanes - 1) // lanes
    if l > 0:
        to = layers[l, WT] + k // across * panel * vectors * lanes
        to += k % across * lanes + q * across * panel * lanes
        for j in range(min(across, vectors - q * across)):
            transpose(p, w + j * lanes, panel, p, to + j * lanes * panel, panel)


@kept_jit
def train(
    thread, threads, by_rows, state, block, wide, units, order, importance, batch, numbers, rules,
    penalty_at, fused, x, values, starts, columns, scale, labels, targets,
    layers, p, s, apart, room, gradient, squares, number,
    a1, a1_step, at, a_list, b_list, list_step, counts, a_rows, b_rows, rows_step, row_counts,
    masks, y, by_block, penalties, costs, kernels,
):  # fmt: skip
    """Train on ``order``. costs[0, s] becomes the objective of mini-batch s before its update,
    summed over its examples.

    ``importance`` has what each example's cost and delta are multiplied by, or nothing. ``block``,
    ``wide`` and ``units`` are tuples: their lengths are the examples of a block, the
    vectors of a panel and the units of a group. ``layers`` (int64, one row of FIELDS a layer of
    weights) says where everything lies in ``p``, which all threads share; ``s`` is the optimizer's
    state, its arrays ``apart`` from each other and laid out like ``p``; ``numbers`` has a row a
    mini-batch. A thread's own ``room`` takes a piece of the gradient; ``a1`` to ``masks`` are its
    own too, or shared by rows. ``kernels``: output, then (sigma, hadamard) a layer, and ``rules``:
    the update of weights and of biases, as addresses. Sparse x: see ``sparse.write_row``.

    Where the gradient is clipped there are the addresses of the sums of g^2, too, ``gradient`` is
    laid out like ``p``, ``squares`` has room for a sum a block of weights and vector of biases, and
    a thread's own ``number`` for a step's numbers. ``penalty_at`` is the place of l2 among these,
    or 0.
    """
    like = scale  # a number of the network's dtype
    lanes = lane_count(like)
    tall, across, group = len(block), len(wide), len(units)
    panel = across * lanes  # columns
    depth = layers.shape[0]
    n_first = layers[0, N_IN]
    one = as_float(1, like)
    zero = one - one
    together = threads > 1
    # Where it is ``fused``, plain SGD goes from the tile into the weights; other rules, penalties
    # and sums in several parts by way of ``room``. (L2 as a factor 1 - eta l2 would not need it,
    # but in float32 a small eta l2 rounds away.)
    buffered = not fused or batch > PART
    clipped = squares.size > 0
    for start in range(0, order.size, batch):
        m = min(batch, order.size - start)
        batch_number = start // batch
        number0 = batch_number * numbers.shape[1]
        blocks = (m + tall - 1) // tall
        my_first, my_last = blocks * thread // threads, blocks * (thread + 1) // threads
        first, last = (my_first, my_last) if by_rows else (0, blocks)
        panel_from, panel_step = (0, 1) if by_rows else (thread, threads)

        # a^1 and the lists of inputs
        for t in range(first, last):
            _gather(thread, block, t, order, start, m, n_first, like, x, values, starts, columns,
                    a1, a1_step, at, a_list, b_list, list_step, counts, masks,
                    rows_step)  # fmt: skip

        # Forward: z^l = w^l a^{l-1} + b^l, a^l = sigma(z^l).
        for l in range(depth):
            is_output = l == depth - 1
            if is_output:
                first, last, panel_from, panel_step = my_first, my_last, 0, 1
            _forward(block, wide, l, is_output, m, first, last, panel_from, panel_step,
                     x, order, start + batch, starts, scale, layers, p,
                     a1, a1_step, a_list, b_list, list_step, counts, y, kernels, one)  # fmt: skip
            if together and not by_rows and not is_output and not barrier(state, threads, SPINS):
                return

        # a^L whole, BP1, and the cost before the update
        for t in range(my_first, my_last):
            by_block[t] = _output(block, t, order, importance, start, m, labels, targets, layers, p,
                                  y, kernels, like)  # fmt: skip
        if together and not by_rows and not barrier(state, threads, SPINS):
            return

        # BP2: delta^l = ((w^{l+1})^T delta^{l+1}) (x) sigma'(z^l).
        if not by_rows:
            first, last, panel_from, panel_step = 0, blocks, thread, threads
        for l in range(depth - 2, -1, -1):
            n, n_above = layers[l, N_OUT], layers[l + 1, N_OUT]
            vectors = (n + lanes - 1) // lanes
            for q in range(panel_from, (vectors + across - 1) // across, panel_step):
                wt = layers[l + 1, WT] + q * panel * ((n_above + lanes - 1) // lanes * lanes)
                for t in range(first, last):
                    beside = t * layers[l, BLOCK] + q * panel * tall
                    delta = layers[l, DELTA] + beside
                    here = min(across, vectors - q * across)
                    for i in range(here * tall):
                        store(p, delta + i * lanes, splat(zero))
                    above = layers[l + 1, DELTA] + t * layers[l + 1, BLOCK]
                    _product(block, block, wide, False, here, p, above, a_list, p, wt, b_list,
                             0, n_above, p, delta, one)  # fmt: skip
                    call_kernel(kernels[2 + 2 * l], min(tall, m - t * tall), tall * lanes,
                                min(n - q * panel, panel), p, layers[l, Z] + beside,
                                p, layers[l, A] + beside, p, delta, y, 0, p, delta)  # fmt: skip
            # By columns with one hidden layer, all that follows is in the owner's hands.
            if together and not by_rows and depth > 2 and not barrier(state, threads, SPINS):
                return
        if together and by_rows and not barrier(state, threads, SPINS):
            return
        if thread == 0:
            total = 0.0
            for t in range(blocks):
                total += by_block[t]
            costs[0, batch_number] = total

        # BP3, BP4 and the update, from the output back
        slot, bias_slot = 0, squares.size
        for l in range(depth):
            bias_slot -= (layers[l, N_OUT] + lanes - 1) // lanes
        for l in range(depth - 1, -1, -1):
            n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
            k_blocks, vectors = (n_in + lanes - 1) // lanes, (n_out + lanes - 1) // lanes
            alpha = (one if buffered else -numbers[batch_number, 0]) / as_float(m, like)
            by_panels = not by_rows and l < depth - 1
            for j in range(vectors):
                if j // across % threads == thread:
                    column = _column_sum(block, p, layers[l, DELTA] + j * tall * lanes,
                                         layers[l, BLOCK], m, like)  # fmt: skip
                    bias = layers[l, B] + j * lanes
                    if clipped:
                        store(gradient, bias, splat(alpha) * column)
                        squares[bias_slot + j] = call_squares(
                            rules[3], lanes, p, bias, gradient, bias, s, 0, 0, numbers, number0
                        )
                    elif buffered:
                        store(room, 0, splat(alpha) * column)
                        call_rule(rules[1], lanes, p, bias, room, 0, s, bias, apart,
                                  numbers, number0)  # fmt: skip
                    else:
                        store(p, bias, load(p, bias) + splat(alpha) * column)
            if l == 0:
                alpha = alpha * scale
                for k in range(k_blocks):
                    if by_panels or k // across % threads == thread:
                        for u in range(0, lanes, group):
                            g = (k * lanes + u) // group
                            row_counts[g] = _choose(
                                masks, k * rows_step, int32(((1 << group) - 1) << u), m,
                                a_rows, b_rows, (depth + g) * rows_step,
                            )  # fmt: skip
            source, a_in = (a1, 0) if l == 0 else (p, layers[l - 1, A])
            for q in range((vectors + across - 1) // across):
                here = min(across, vectors - q * across)
                delta = layers[l, DELTA] + q * panel * tall
                for k in range(k_blocks):
                    if (q if by_panels else k // across) % threads != thread:
                        continue
                    w = layers[l, W] + (q * k_blocks + k) * panel * lanes
                    into, to = (room, 0) if buffered else (p, w)
                    if clipped:
                        into, to = gradient, w
                    for u in range(0, min(lanes, n_in - k * lanes), group):
                        g = (k * lanes + u) // group
                        chosen = (depth + g) * rows_step if l == 0 else l * rows_step
                        count = row_counts[g] if l == 0 else m
                        _product(units, block, wide, True, here,
                                 source, a_in + k * tall * lanes + u, a_rows,
                                 p, delta, b_rows, chosen, count,
                                 into, to + u * panel, alpha)  # fmt: skip
                    if penalty_at:
                        l2 = numbers[batch_number, penalty_at]
                        l1 = numbers[batch_number, penalty_at + 1]
                        penalties[slot + q * k_blocks + k] = penalty(p, w, panel * lanes, l2, l1)
                    if clipped:
                        squares[slot + q * k_blocks + k] = call_squares(
                            rules[2], panel * lanes, p, w, gradient, w, s, 0, 0, numbers, number0
                        )
                        continue
                    if buffered:
                        call_rule(rules[0], panel * lanes, p, w, room, 0, s, w, apart,
                                  numbers, number0)  # fmt: skip
                    _turn(wide, layers, l, q, k, w, p, like)
            slot += (vectors + across - 1) // across * k_blocks
            bias_slot += vectors
        if clipped:
            # All of the gradient is there: its norm, then the updates that waited for it.
            if together and not barrier(state, threads, SPINS):
                return
            squared = 0.0
            for i in range(squares.size):
                squared += squares[i]
            last = numbers.shape[1] - 1
            for i in range(last):
                number[i] = numbers[batch_number, i]
            number[last] = min(1.0, numbers[batch_number, last] / (sqrt(squared) + CLIP_EPSILON))
            for l in range(depth):
                k_blocks = (layers[l, N_IN] + lanes - 1) // lanes
                vectors = (layers[l, N_OUT] + lanes - 1) // lanes
                by_panels = not by_rows and l < depth - 1
                for j in range(vectors):
                    if j // across % threads == thread:
                        bias = layers[l, B] + j * lanes
                        call_rule(rules[1], lanes, p, bias, gradient, bias, s, bias, apart,
                                  number, 0)  # fmt: skip
                for q in range((vectors + across - 1) // across):
                    for k in range(k_blocks):
                        if (q if by_panels else k // across) % threads == thread:
                            w = layers[l, W] + (q * k_blocks + k) * panel * lanes
                            call_rule(rules[0], panel * lanes, p, w, gradient, w, s, w, apart,
                                      number, 0)  # fmt: skip
                            _turn(wide, layers, l, q, k, w, p, like)
        shared = by_rows or depth != 2 or penalty_at or clipped
        if together and shared and not barrier(state, threads, SPINS):
            return
        if thread == 0 and penalty_at:
            squared = 0.0
            for i in range(slot):
                squared += penalties[i]
            costs[0, batch_number] += m * squared


@_jit
def _class(block, values, at, n, half):
    """The class that a row names: the first of the largest outputs, of one whether it is over 1/2;
    NaN counts as the largest, as NumPy has it."""
    lanes = lane_count(half)
    if n == 1:
        return 1 if get(values, at) > half else 0
    best, largest = 0, get(values, at)
    for j in range(1, n):
        value = get(values, at + (j // lanes * len(block)) * lanes + j % lanes)
        if value > largest or (value != value and largest == largest):
            best, largest = j, value
    return best


@kept_jit
def score(
    block, wide, order, importance, batch, half, x, values, starts, columns, scale, labels, targets,
    layers, p, a1, a1_step, at, a_list, b_list, list_step, counts, masks, rows_step, y, kernels,
):  # fmt: skip
    """The summed cost of the examples of ``order``, and how many of them are in the class of y.

    The forward pass of ``train`` by one thread, ``batch`` examples at a time; ``half`` is 1/2.
    """
    lanes, tall = lane_count(half), len(block)
    l = layers.shape[0] - 1
    n_out, one = layers[l, N_OUT], half + half
    total, right = 0.0, 0
    for start in range(0, order.size, batch):
        m = min(batch, order.size - start)
        blocks = (m + tall - 1) // tall
        for t in range(blocks):
            _gather(0, block, t, order, start, m, layers[0, N_IN], one, x, values, starts, columns,
                    a1, a1_step, at, a_list, b_list, list_step, counts, masks,
                    rows_step)  # fmt: skip
        for layer in range(l + 1):
            _forward(block, wide, layer, layer == l, m, 0, blocks, 0, 1,
                     x, order, start + batch, starts, scale, layers, p,
                     a1, a1_step, a_list, b_list, list_step, counts, y, kernels, one)  # fmt: skip
        for t in range(blocks):
            total += _output(block, t, order, importance, start, m, labels, targets, layers, p, y,
                             kernels, one)  # fmt: skip
            beside = t * layers[l, BLOCK]
            for row in range(min(tall, m - t * tall)):
                found = _class(block, p, layers[l, A] + beside + row * lanes, n_out, half)
                right += found == _class(block, y, beside + row * lanes, n_out, half)
    return total, right


@kept_jit
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
