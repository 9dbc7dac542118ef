"""Rows of inputs as vectors: reading them in any dtype, leaving lanes out, transposing squares."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from gpubp.kernels.cpu.simd import (
    I32,
    I64,
    Vector,
    intrinsic,
    ir_type,
    lanes,
    llvm_call,
    load_ir,
    pointer,
    splat_ir,
    store_ir,
    suffix,
    vector,
)


@intrinsic
def load_input(typing: Any, x: Any, offset: Any, count: Any, like: Any) -> Any:
    """x[offset : offset + lanes] as floats like ``like``; lanes from ``count`` on are read as 0"""
    kind = vector(like)
    source = Vector(x.dtype, kind.n)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = pointer(context, builder, sig.args[0], args[0], args[1])
        if isinstance(count, types.Literal):  # the whole vector
            value = load_ir(builder, source, address)
        else:
            value = _load_part(builder, source, address, args[2])
        if x.dtype == types.uint8:
            wide = ir.VectorType(I32, kind.n)
            value = builder.sitofp(builder.zext(value, wide), ir_type(kind))
        return value

    return kind(x, types.int64, count, like), lower


@intrinsic
def nonzero(typing: Any, x: Any, offset: Any, count: Any, like: Any) -> Any:
    """The mask of x[offset : offset + lanes] != 0 (NaN counts); false from ``count`` on"""
    n = lanes(like)
    source = Vector(x.dtype, n)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = pointer(context, builder, sig.args[0], args[0], args[1])
        if isinstance(count, types.Literal):
            value = load_ir(builder, source, address)
        else:
            value = _load_part(builder, source, address, args[2])
        zero = ir.Constant(value.type, None)
        if x.dtype == types.uint8:
            return builder.icmp_unsigned("!=", value, zero)
        return builder.fcmp_unordered("!=", value, zero)

    return Vector(types.boolean, n)(x, types.int64, count, like), lower


def _load_part(builder: Any, kind: Vector, address: Any, count: Any) -> Any:
    """The first ``count`` elements and zeros; memory behind them is not touched."""
    index = ir.Constant(ir.VectorType(I64, kind.n), list(range(kind.n)))
    mask = builder.icmp_signed("<", index, splat_ir(builder, count, kind.n))
    where = builder.bitcast(address, ir_type(kind).as_pointer())
    align = ir.Constant(I32, max(1, kind.dtype.bitwidth // 8))
    args = [where, align, mask, ir.Constant(ir_type(kind), None)]
    return llvm_call(builder, f"masked.load.{suffix(kind)}.p0", ir_type(kind), args)


@intrinsic
def no_lanes(typing: Any, like: Any) -> Any:
    """The mask that holds nowhere"""
    kind = Vector(types.boolean, lanes(like))
    return kind(like), lambda context, builder, sig, args: ir.Constant(ir_type(kind), None)


@intrinsic
def load_as(typing: Any, array: Any, offset: Any, like: Any) -> Any:
    """array[offset : offset + lanes], as many elements as vectors like ``like`` have"""
    kind = Vector(array.dtype, lanes(like))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_ir(builder, kind, pointer(context, builder, sig.args[0], args[0], args[1]))

    return kind(array, types.int64, like), lower


@intrinsic
def mask_bits(typing: Any, mask: Any) -> Any:
    """The mask as an int32: bit k says whether it holds in lane k"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.n)), I32)

    return types.int32(mask), lower


@intrinsic
def any_bits(typing: Any, value: Any, bits: Any) -> Any:
    """The lanes of an int32 vector that have one of these bits"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        common = builder.and_(args[0], splat_ir(builder, args[1], value.n))
        return builder.icmp_unsigned("!=", common, ir.Constant(common.type, None))

    return Vector(types.boolean, value.n)(value, types.int32), lower


@intrinsic
def count_lanes(typing: Any, mask: Any) -> Any:
    """In how many lanes the mask holds"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.zext(builder.bitcast(args[0], ir.IntType(mask.n)), I64)
        return llvm_call(builder, "ctpop.i64", I64, [bits])

    return types.int64(mask), lower


@intrinsic
def compress(typing: Any, value: Any, mask: Any) -> Any:
    """The lanes of ``value`` where the mask holds, moved together at the front"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # As whole numbers: where a processor has no such instruction, LLVM 22 puts it together
        # from others, and fails at floating-point zeros.
        bits = ir.VectorType(ir.IntType(int(value.dtype.bitwidth)), value.n)
        name = f"experimental.vector.compress.v{value.n}i{bits.element.width}"
        moved = llvm_call(
            builder, name, bits,
            [builder.bitcast(args[0], bits), args[1], ir.Constant(bits, None)],
        )  # fmt: skip
        return builder.bitcast(moved, ir_type(value))

    return value(value, mask), lower


@intrinsic
def steps(typing: Any, first: Any, step: Any, like: Any) -> Any:
    """The int32 vector first, first + step, first + 2 step, ..., as wide as ``like``'s"""
    kind = Vector(types.int32, lanes(like))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, step = (splat_ir(builder, builder.trunc(arg, I32), kind.n) for arg in args[:2])
        index = ir.Constant(ir_type(kind), list(range(kind.n)))
        return builder.add(first, builder.mul(step, index))

    return kind(types.int64, types.int64, like), lower


@intrinsic
def transpose(
    typing: Any, source: Any, s0: Any, s_step: Any, target: Any, t0: Any, t_step: Any
) -> Any:
    """target[j, i] = source[i, j] for one square of lanes; rows lie ``step`` elements apart"""
    kind = vector(source.dtype)
    n = kind.n

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = pointer(context, builder, sig.args[0], args[0], args[1])
        to = pointer(context, builder, sig.args[3], args[3], args[4])
        rows = []
        for _ in range(n):
            rows.append(load_ir(builder, kind, start))
            start = builder.gep(start, [args[2]])
        # Squares of s x s change places, for s = 1, 2, 4, ...; lane n + j is lane j of the second.
        s = 1
        while s < n:
            upper = [n + j - s if j & s else j for j in range(n)]
            lower_ = [n + j if j & s else j + s for j in range(n)]
            for i in (i for i in range(n) if not i & s):
                a, b = rows[i], rows[i + s]
                for at, order in ((i, upper), (i + s, lower_)):
                    mask = ir.Constant(ir.VectorType(I32, n), order)
                    rows[at] = builder.shuffle_vector(a, b, mask)
            s *= 2
        for row in rows:
            store_ir(builder, kind, row, to)
            to = builder.gep(to, [args[5]])
        return context.get_dummy_value()

    size = types.int64
    return types.void(source, size, size, target, size, size), lower


@intrinsic
def lane_max(typing: Any, value: Any) -> Any:
    """The largest lane; where lanes are NaN, any of the lanes"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        largest = builder.extract_element(args[0], ir.Constant(I32, 0))
        for i in range(1, value.n):
            lane = builder.extract_element(args[0], ir.Constant(I32, i))
            larger = builder.fcmp_ordered(">", lane, largest)
            largest = builder.select(larger, lane, largest)
        return largest

    return value.dtype(value), lower


@intrinsic
def as_float(typing: Any, value: Any, like: Any) -> Any:
    """The integer as a float of ``like``'s precision (Numba's own int * float32 is a float64)"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], context.get_value_type(sig.return_type))

    return types.unliteral(like)(types.int64, like), lower
