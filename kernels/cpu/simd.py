"""Vectors of the processor as values inside Numba functions.

``Vector(float32, 16)`` is LLVM's ``<16 x float>``: a value that lives in registers, and that LLVM
legalises to AVX-512, AVX2, SSE or NEON. :func:`vector` gives the width of this machine; the
environment variable ``GPUBP_VECTOR_BYTES`` (16, 32 or 64) overrides it, for tests.

Arrays are one-dimensional and C-contiguous; offsets count elements, and nothing checks them.
``+ - * /``, unary ``-``, comparisons (which give masks), ``& | ~`` of masks work as operators.
"""

from __future__ import annotations

import ctypes.util
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.extending import models, register_model
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_ELEMENT = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: I1,
    types.uint8: I8,
    types.int32: I32,
    types.int64: I64,
}


def _features() -> set[str]:
    """What Numba compiles for: this processor, or what NUMBA_CPU_NAME and _FEATURES describe."""
    settings: Any = config  # Numba fills this module from the environment while it is imported
    if settings.CPU_NAME is None:
        return {name for name, there in llvm.get_host_cpu_features().items() if there}
    return {name[1:] for name in (settings.CPU_FEATURES or "").split(",") if name[:1] == "+"}


def _register_bytes() -> int:
    if given := os.environ.get("GPUBP_VECTOR_BYTES"):
        if given not in ("16", "32", "64"):
            raise ValueError(f"GPUBP_VECTOR_BYTES is 16, 32 or 64, not {given!r}")
        return int(given)
    features = _features()
    return 64 if "avx512f" in features else 32 if "avx2" in features else 16


REGISTER_BYTES = _register_bytes()
# AVX-512 and 64-bit ARM have 32 vector registers, SSE and AVX2 have 16.
_triple = llvm.get_process_triple()
ARM = _triple.startswith(("aarch64", "arm64"))
X86 = _triple.startswith(("x86", "i686", "amd64"))
REGISTERS = 32 if ARM or REGISTER_BYTES == 64 else 16
if X86 and "fma" not in _features():
    # Where the processor has no fma, LLVM calls the C library's, which Numba does not know.
    llvm.load_library_permanently(ctypes.util.find_library("m"))


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba.extending.intrinsic that sees constant arguments, with a type that mypy can follow."""
    return _intrinsic(prefer_literal=True)(function)


class Vector(types.Type):
    """``n`` elements of ``dtype`` in one value; ``dtype`` boolean is a mask."""

    def __init__(self, dtype: Any, n: int) -> None:
        self.dtype, self.n = dtype, n
        super().__init__(f"{dtype}x{n}")


def _register(cls: Any) -> None:
    register_model(Vector)(cls)


def _initialise(self: Any, manager: Any, kind: Vector) -> None:
    models.PrimitiveModel.__init__(self, manager, kind, ir_type(kind))


_register(type("VectorModel", (models.PrimitiveModel,), {"__init__": _initialise}))


def lanes(dtype: Any) -> int:
    """How many elements of a Numba float type one register of this machine holds."""
    return REGISTER_BYTES * 8 // int(dtype.bitwidth)


def vector(dtype: Any) -> Vector:
    """This machine's vector of a Numba float type."""
    return Vector(dtype, lanes(dtype))


def ir_type(kind: Vector) -> Any:
    """The LLVM type of a vector."""
    return ir.VectorType(_ELEMENT[kind.dtype], kind.n)


def llvm_call(builder: Any, name: str, result: Any, args: Sequence[Any]) -> Any:
    """Call LLVM's intrinsic ``llvm.<name>`` (Numba's own declarations refuse vectors)."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), args)


def suffix(kind: Vector) -> str:
    """The ending that LLVM's overloaded intrinsics take for this vector: v16f32."""
    return f"v{kind.n}{'f' if isinstance(kind.dtype, types.Float) else 'i'}{kind.dtype.bitwidth}"


def fma_ir(builder: Any, kind: Vector, a: Any, b: Any, c: Any) -> Any:
    """a b + c with one rounding, as LLVM."""
    return llvm_call(builder, f"fma.{suffix(kind)}", ir_type(kind), [a, b, c])


def multiply_add_ir(builder: Any, kind: Vector, a: Any, b: Any, c: Any) -> Any:
    """a b + c with one rounding or two, whichever the processor does faster, as LLVM."""
    return llvm_call(builder, f"fmuladd.{suffix(kind)}", ir_type(kind), [a, b, c])


def splat_ir(builder: Any, scalar: Any, n: int) -> Any:
    """The vector of n copies of an LLVM scalar."""
    nothing = ir.Constant(ir.VectorType(scalar.type, n), ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, n), [0] * n))


def pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    """&array[offset], as LLVM; ``kind`` is the array's Numba type."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset])


def load_ir(builder: Any, kind: Vector, address: Any) -> Any:
    """The vector at the address, aligned to its elements only."""
    where = builder.bitcast(address, ir_type(kind).as_pointer())
    return builder.load(where, align=max(1, kind.dtype.bitwidth // 8))


def store_ir(builder: Any, kind: Vector, value: Any, address: Any) -> None:
    """Write the vector to the address, aligned to its elements only."""
    where = builder.bitcast(address, ir_type(kind).as_pointer())
    builder.store(value, where, align=max(1, kind.dtype.bitwidth // 8))


def prefetch_ir(builder: Any, address: Any, locality: int) -> None:
    """Ask for the cache line at the address; locality 3 is L1, 2 is L2. Never faults."""
    byte = builder.bitcast(address, I8.as_pointer())
    flags = [ir.Constant(I32, value) for value in (0, locality, 1)]
    llvm_call(builder, "prefetch.p0", ir.VoidType(), [byte, *flags])


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """array[offset : offset + lanes]"""
    kind = vector(array.dtype)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_ir(builder, kind, pointer(context, builder, sig.args[0], *args))

    return kind(array, types.intp), lower


@intrinsic
def store(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """array[offset : offset + lanes] = value"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = pointer(context, builder, sig.args[0], args[0], args[1])
        store_ir(builder, sig.args[2], args[2], address)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), lower


@intrinsic
def get(typing: Any, array: Any, offset: Any) -> Any:
    """array[offset], with no negative indices: a plain load"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(pointer(context, builder, sig.args[0], *args))

    return array.dtype(array, types.intp), lower


@intrinsic
def put(typing: Any, array: Any, offset: Any, value: Any) -> Any:
    """array[offset] = value, with no negative indices: a plain store"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], pointer(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), lower


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """The vector whose lanes all are ``scalar``, a float of the wanted precision"""
    kind = vector(scalar)
    return kind(scalar), lambda context, builder, sig, args: splat_ir(builder, args[0], kind.n)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c with one rounding"""
    if not (isinstance(a, Vector) and a == b == c):
        return None
    return a(a, a, a), lambda context, builder, sig, args: fma_ir(builder, a, *args)


@intrinsic
def select(typing: Any, mask: Any, u: Any, v: Any) -> Any:
    """u in the lanes where the mask holds, v in the others"""
    if not (isinstance(u, Vector) and u == v and mask == Vector(types.boolean, u.n)):
        return None
    return u(mask, u, v), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def first_lanes(typing: Any, like: Any, count: Any) -> Any:
    """The mask of the lanes 0 .. count - 1, for vectors like ``like``"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index = ir.Constant(ir.VectorType(I64, like.n), list(range(like.n)))
        return builder.icmp_signed("<", index, splat_ir(builder, args[1], like.n))

    return Vector(types.boolean, like.n)(like, types.int64), lower


def _sum_by_halves(builder: Any, total: Any, n: int) -> Any:
    while n > 1:
        n //= 2
        low, high = (
            builder.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, n), part))
            for part in (list(range(n)), list(range(n, 2 * n)))
        )
        total = builder.fadd(low, high)
    return builder.extract_element(total, ir.Constant(I32, 0))


@intrinsic
def lane_sum(typing: Any, value: Any) -> Any:
    """The sum of the lanes, by halves: a fixed order"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _sum_by_halves(builder, args[0], value.n)

    return value.dtype(value), lower


@intrinsic
def lane_sum_float64(typing: Any, value: Any) -> Any:
    """The sum of the lanes in float64, by halves: for sums of many terms"""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = args[0]
        if value.dtype == types.float32:
            wide = builder.fpext(wide, ir.VectorType(ir.DoubleType(), value.n))
        return _sum_by_halves(builder, wide, value.n)

    return types.float64(value), lower


@intrinsic
def prefetch(typing: Any, array: Any, offset: Any, locality: Any) -> Any:
    """Ask for the cache line of array[offset], into L1 (locality 3) or L2 (locality 2)"""
    level = locality.literal_value

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        prefetch_ir(builder, pointer(context, builder, sig.args[0], args[0], args[1]), level)
        return context.get_dummy_value()

    return types.void(array, types.intp, locality), lower


def _operator(op: Any, arity: int, build: Callable[..., Any], result: Any, of_masks: bool) -> None:
    """Register ``op`` for vectors of one type, as Numba registers it for numbers."""

    def generic(self: Any, args: Any, kws: Any) -> Any:
        first = args[0]
        if len(args) != arity or not isinstance(first, Vector) or any(a != first for a in args):
            return None
        if (first.dtype == types.boolean) != of_masks:
            return None
        return signature(result(first), *args)

    infer_global(op)(type(f"Vector_{op.__name__}", (AbstractTemplate,), {"generic": generic}))
    lower_builtin(op, *[Vector] * arity)(lambda context, builder, sig, args: build(builder, *args))


def _same(kind: Vector) -> Vector:
    return kind


def _mask(kind: Vector) -> Vector:
    return Vector(types.boolean, kind.n)


_operator(operator.add, 2, lambda builder, a, b: builder.fadd(a, b), _same, False)
_operator(operator.sub, 2, lambda builder, a, b: builder.fsub(a, b), _same, False)
_operator(operator.mul, 2, lambda builder, a, b: builder.fmul(a, b), _same, False)
_operator(operator.truediv, 2, lambda builder, a, b: builder.fdiv(a, b), _same, False)
_operator(operator.neg, 1, lambda builder, a: builder.fneg(a), _same, False)
_operator(operator.and_, 2, lambda builder, a, b: builder.and_(a, b), _same, True)
_operator(operator.or_, 2, lambda builder, a, b: builder.or_(a, b), _same, True)
_operator(operator.invert, 1, lambda builder, a: builder.not_(a), _same, True)


def _comparison(op: Any, sign: str) -> None:
    # NaN compares false, except that it differs from everything.
    ordered = "fcmp_unordered" if sign == "!=" else "fcmp_ordered"
    _operator(op, 2, lambda builder, a, b: getattr(builder, ordered)(sign, a, b), _mask, False)


for _op, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _comparison(_op, _sign)


@intrinsic
def lane_count(typing: Any, like: Any) -> Any:
    """How many lanes the vectors of floats like ``like`` have: a constant of the machine code"""
    return types.int64(like), lambda *args: ir.Constant(I64, lanes(like))


def _literal(dtype: Any) -> Any:
    kind = vector(dtype)

    @intrinsic
    def literal(typing: Any, value: Any) -> Any:
        """The vector whose lanes all are ``value``, a number rounded to the vector's precision"""
        given = types.float64 if isinstance(types.unliteral(value), types.Float) else types.int64

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            number = context.cast(builder, args[0], given, kind.dtype)
            return splat_ir(builder, number, kind.n)

        return kind(given), lower

    return literal


float32_vector, float64_vector = _literal(types.float32), _literal(types.float64)
