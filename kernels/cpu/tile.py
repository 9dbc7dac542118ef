"""Register tiles: the two products of backpropagation for a few rows and a few vectors at a time.

Matrices of (examples x units) lie in blocks of LANES columns, ``[block][example][lane]``, so that
the stride between examples is a constant of the machine code; inputs lie in longer chunks of
columns, ``[chunk][example][CHUNK + LANES]``, from which columns without a nonzero are left out.
Weights are rows: row k holds the weights that leave unit k, padded to whole vectors.

    forward_tile    C[i, :] = sum_k A[i, k] B[k, :]                    z = a w^T,  BP2
    update_tile     B[k, :] += alpha sum_i A[i, k] D[i, :]      BP4 and its update

Either keeps all its sums in registers and touches memory once; the sums run in a fixed order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from gpubp.kernels.cpu.simd import (
    I64,
    intrinsic,
    ir_type,
    load_ir,
    multiply_add_ir,
    pointer,
    prefetch_ir,
    splat_ir,
    store_ir,
    vector,
)

CHUNK = 512  # columns of one chunk of inputs; its rows lie CHUNK + LANES elements apart
_AHEAD = 8  # rows of B that the forward tile prefetches ahead of their use


def _int(value: int) -> Any:
    return ir.Constant(I64, value)


def _at(builder: Any, base: Any, offset: Any) -> Any:
    return builder.gep(base, [_int(offset) if isinstance(offset, int) else offset])


class _Loop:
    """``for (n = count; n > 0; n -= step)`` over phi nodes; ``state`` is carried through."""

    def __init__(self, builder: Any, count: Any, state: list[Any], step: int = 1) -> None:
        self.builder, self.step, self.initial = builder, step, state
        self.before = builder.basic_block
        self.body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, _int(0)), self.body, self.after)
        builder.position_at_end(self.body)
        self.left = builder.phi(I64)
        self.left.add_incoming(count, self.before)
        self.state = [builder.phi(value.type) for value in state]
        for phi, value in zip(self.state, state, strict=True):
            phi.add_incoming(value, self.before)

    def close(self, state: list[Any]) -> list[Any]:
        """End the body with the state's new values; returns the state after the loop."""
        builder = self.builder
        end = builder.basic_block
        left = builder.sub(self.left, _int(self.step))
        self.left.add_incoming(left, end)
        for phi, value in zip(self.state, state, strict=True):
            phi.add_incoming(value, end)
        builder.cbranch(builder.icmp_signed(">", left, _int(0)), self.body, self.after)
        builder.position_at_end(self.after)
        results = []
        for initial, value in zip(self.initial, state, strict=True):
            phi = builder.phi(value.type)
            phi.add_incoming(initial, self.before)
            phi.add_incoming(value, end)
            results.append(phi)
        return results


@intrinsic
def forward_tile(
    typing: Any, rows: Any, vectors: Any, listed: Any,
    a: Any, a0: Any, chunk_step: Any, chunks: Any, counts: Any, index: Any,
    b: Any, b0: Any, ldb: Any, c: Any, c0: Any, c_step: Any,
) -> Any:  # fmt: skip
    """C[i, :] = sum_k A[i, k] B[k, :] for ``rows`` examples and ``vectors`` vectors of columns.

    ``rows`` and ``vectors`` are tuples: their lengths count. ``listed``: A is in chunks, chunk q
    has ``counts[q]`` columns (a multiple of 2) whose rows of B begin at the offsets
    ``index[q * (CHUNK + LANES) ...]``. Otherwise A is in blocks, B's rows are ``ldb`` apart, and
    all ``chunks * LANES`` of them are read.
    """

    sizes = rows, vectors, listed
    rows, vectors, listed = len(rows), len(vectors), listed.literal_value
    kind = vector(c.dtype)
    n = kind.n
    row_step = CHUNK + n if listed else n

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chunk_step, chunks, ldb, c_step = args[5], args[6], args[11], args[14]
        a, b, c = (pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (3, 9, 12))
        counts, index = (pointer(context, builder, sig.args[i], args[i], _int(0)) for i in (7, 8))
        zero = ir.Constant(ir_type(kind), [0.0] * n)
        outer = _Loop(builder, chunks, [a, b, counts, index] + [zero] * (rows * vectors))
        a, b, counts, index = outer.state[:4]
        count = builder.sext(builder.load(counts), I64) if listed else _int(n)
        totals = outer.state[4:]
        # A chunk of inputs is summed for itself: a sum in parts rounds less than one long sum.
        start = [zero] * len(totals) if listed else totals
        inner = _Loop(builder, count, [a, b, index, *start], 2)
        a_k, b_k, index_k, *sums = inner.state
        for k in range(2):
            if listed:
                ahead = builder.sext(builder.load(_at(builder, index_k, k + _AHEAD)), I64)
                for j in range(vectors):
                    line = _at(builder, _at(builder, b_k, ahead), j * n)
                    prefetch_ir(builder, line, 3)
                offset = builder.sext(builder.load(_at(builder, index_k, k)), I64)
                row = _at(builder, b_k, offset)
            else:
                row = b_k
                b_k = _at(builder, b_k, ldb)
            right = [load_ir(builder, kind, _at(builder, row, j * n)) for j in range(vectors)]
            for i in range(rows):
                left = builder.load(_at(builder, a_k, i * row_step + k))
                left = splat_ir(builder, left, n)
                for j in range(vectors):
                    at = i * vectors + j
                    sums[at] = multiply_add_ir(builder, kind, left, right[j], sums[at])
        _, b_end, _, *sums = inner.close(
            [_at(builder, a_k, 2), b_k, _at(builder, index_k, 2), *sums]
        )
        if listed:
            sums = [builder.fadd(u, v) for u, v in zip(totals, sums, strict=True)]
        following = [
            _at(builder, a, chunk_step),
            b if listed else b_end,
            _at(builder, counts, 1),
            _at(builder, index, CHUNK + n),
        ]
        sums = outer.close([*following, *sums])[4:]
        for j in range(vectors):
            column = _at(builder, c, builder.mul(c_step, _int(j)))
            for i in range(rows):
                store_ir(builder, kind, sums[i * vectors + j], _at(builder, column, i * n))
        return context.get_dummy_value()

    size = types.int64
    return types.void(
        *sizes, a, size, size, size, counts, index, b, size, size, c, size, size
    ), lower  # fmt: skip


@intrinsic
def update_tile(
    typing: Any, units: Any, vectors: Any, listed: Any,
    a: Any, a0: Any, d: Any, d0: Any, d_step: Any, m: Any,
    index: Any, i0: Any, b: Any, b0: Any, ldb: Any, alpha: Any,
) -> Any:  # fmt: skip
    """B[k, :] += alpha sum_i A[i, k] D[i, :] for ``units`` k and ``vectors`` vectors of columns.

    A at ``a0`` is the first of the units' columns. ``listed``: the rows of B begin at the offsets
    ``index[i0 ...]``; otherwise they are ``ldb`` apart.
    """

    sizes = units, vectors, listed
    units, vectors, listed = len(units), len(vectors), listed.literal_value
    kind = vector(b.dtype)
    n = kind.n
    row_step = CHUNK + n if listed else n

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        d_step, m, ldb, alpha = args[7], args[8], args[13], args[14]
        a, d, index, b = (
            pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (3, 5, 9, 11)
        )
        zero = ir.Constant(ir_type(kind), [0.0] * n)
        columns = [_at(builder, d, builder.mul(d_step, _int(j))) for j in range(vectors)]
        targets = []
        for k in range(units):
            if listed:
                offset = builder.sext(builder.load(_at(builder, index, k)), I64)
            else:
                offset = builder.mul(ldb, _int(k))
            targets += [_at(builder, _at(builder, b, offset), j * n) for j in range(vectors)]
        for where in targets:
            prefetch_ir(builder, where, 3)
        loop = _Loop(builder, m, [a, *columns] + [zero] * (units * vectors))
        a, columns, sums = (
            loop.state[0], loop.state[1 : vectors + 1], loop.state[vectors + 1 :],
        )  # fmt: skip
        right = [load_ir(builder, kind, column) for column in columns]
        for k in range(units):
            left = splat_ir(builder, builder.load(_at(builder, a, k)), n)
            for j in range(vectors):
                at = k * vectors + j
                sums[at] = multiply_add_ir(builder, kind, left, right[j], sums[at])
        following = [_at(builder, a, row_step), *(_at(builder, x, n) for x in columns)]
        sums = loop.close([*following, *sums])[vectors + 1 :]

        alpha = splat_ir(builder, alpha, n)
        for where, total in zip(targets, sums, strict=True):
            new = multiply_add_ir(builder, kind, alpha, total, load_ir(builder, kind, where))
            store_ir(builder, kind, new, where)
        return context.get_dummy_value()

    size, element = types.int64, b.dtype
    return types.void(
        *sizes, a, size, d, size, size, size, index, size, b, size, size, element
    ), lower  # fmt: skip


@intrinsic
def product_tile(
    typing: Any, rows: Any, vectors: Any, block: Any, down: Any, fresh: Any,
    a: Any, a0: Any, a_list: Any, a_first: Any, b: Any, b0: Any, b_list: Any, b_first: Any,
    count: Any, c: Any, c0: Any, c_step: Any, alpha: Any,
) -> Any:  # fmt: skip
    """C[r, :] += alpha sum_e A_e[r] B_e[:]: the sum of ``count`` outer products, by two lists.

    A_e are ``rows`` numbers and B_e is ``vectors`` vectors; where they begin in a and b the lists
    say. Forward, BP2 and BP4 are all this sum; only what lies beside what differs. ``down`` the
    examples (BP4), e is an example, A_e are neighbouring units of it, and the rows of C are
    ``c_step`` apart. Otherwise (forward, BP2) e is a unit, A_e are its values in a block of
    ``block`` examples, and C is there too, with ``c_step`` from vector to vector. ``rows`` to
    ``block`` are tuples: their lengths count. ``fresh``: C = instead of C +=.
    """
    sizes = rows, vectors, block, down, fresh
    rows, vectors, block = len(rows), len(vectors), len(block)
    down, fresh = down.literal_value, fresh.literal_value
    kind = vector(c.dtype)
    n = kind.n
    a_row, b_column = (1, block * n) if down else (n, n)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, a_list, b, b_list, c = (
            pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (5, 7, 9, 11, 14)
        )
        count, c_step, alpha = args[13], args[16], args[17]
        places = [(r, j) for r in range(rows) for j in range(vectors)]
        zero = ir.Constant(ir_type(kind), [0.0] * n)
        loop = _Loop(builder, count, [a_list, b_list] + [zero] * len(places))
        a_at, b_at, *sums = loop.state
        left = _at(builder, a, builder.sext(builder.load(a_at), I64))
        right = _at(builder, b, builder.sext(builder.load(b_at), I64))
        right = [load_ir(builder, kind, _at(builder, right, j * b_column)) for j in range(vectors)]
        for r in range(rows):
            scalar = splat_ir(builder, builder.load(_at(builder, left, r * a_row)), n)
            for j in range(vectors):
                at = r * vectors + j
                sums[at] = multiply_add_ir(builder, kind, scalar, right[j], sums[at])
        sums = loop.close([_at(builder, a_at, 1), _at(builder, b_at, 1), *sums])[2:]
        alpha = splat_ir(builder, alpha, n)
        for (r, j), total in zip(places, sums, strict=True):
            along, across = (r, j) if down else (j, r)
            where = _at(builder, c, builder.mul(c_step, _int(along)))
            where = _at(builder, where, across * n)
            before = zero if fresh else load_ir(builder, kind, where)
            store_ir(builder, kind, multiply_add_ir(builder, kind, alpha, total, before), where)
        return context.get_dummy_value()

    size, element = types.int64, c.dtype
    return types.void(
        *sizes, a, size, a_list, size, b, size, b_list, size, size, c, size, size, element
    ), lower  # fmt: skip
