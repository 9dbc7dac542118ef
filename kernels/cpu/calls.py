"""A kernel called by its address, the barrier at which threads wait for each other, and what a
thread makes of numbers below the smallest normal one."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from gpubp.kernels.cpu.simd import ARM, I1, I32, I64, X86, intrinsic, llvm_call, pointer

_FLUSHING = 0x8040  # of x86's MXCSR: results, and operands, below the smallest normal number are 0
_YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"


@intrinsic
def call_kernel(
    typing: Any, address: Any, m: Any, step: Any, n: Any,
    z: Any, z0: Any, a: Any, a0: Any, v: Any, v0: Any, y: Any, y0: Any, out: Any, out0: Any,
) -> Any:  # fmt: skip
    """``kernel(m, step, n, z, a, v, y, out) -> float64`` at ``address``; see ``blocks``."""
    size = types.int64

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = [
            pointer(context, builder, sig.args[i], args[i], args[i + 1])
            for i in range(4, len(args), 2)
        ]
        kind = ir.FunctionType(ir.DoubleType(), [I64] * 3 + [p.type for p in where])
        function = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(function, [*args[1:4], *where])

    pairs = [t for array in (z, a, v, y, out) for t in (array, size)]
    return types.float64(size, size, size, size, *pairs), lower


def _caller(result: Any, kind: Any) -> Any:
    """``kernel(count, w, g, state, apart, numbers)`` at ``address``, which gives a ``result``; see
    ``blocks.rule_kernel``."""

    @intrinsic
    def call(
        typing: Any, address: Any, count: Any, w: Any, w0: Any, g: Any, g0: Any,
        state: Any, state0: Any, apart: Any, numbers: Any, number0: Any,
    ) -> Any:  # fmt: skip
        size = types.int64

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            w_at, g_at, state_at, numbers_at = (
                pointer(context, builder, sig.args[i], args[i], args[i + 1]) for i in (2, 4, 6, 9)
            )
            given = [args[1], w_at, g_at, state_at, args[8], numbers_at]
            function = ir.FunctionType(kind, [value.type for value in given])
            found = builder.call(builder.inttoptr(args[0], function.as_pointer()), given)
            return context.get_dummy_value() if result is types.void else found

        return result(size, size, w, size, g, size, state, size, size, numbers, size), lower

    return call


call_rule = _caller(types.void, ir.VoidType())
call_squares = _caller(types.float64, ir.DoubleType())


@intrinsic
def barrier(typing: Any, state: Any, threads: Any, spins: Any) -> Any:
    """Wait until all ``threads`` have called; True, or False once state[16] is set (abandoned).

    ``state`` is an int64 array shared by the threads, zero at first: arrived at [0], generation at
    [8], abandoned at [16], each in a cache line of its own. A waiting thread spins ``spins`` times
    with the processor's pause and from then on gives its time slice away between looks, so that
    threads sharing a core still get through.
    Everything written before the barrier is visible after it.
    """

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, count, limit = args
        where = [
            pointer(context, builder, sig.args[0], array, ir.Constant(I64, i * 8)) for i in range(3)
        ]
        entry = builder.basic_block
        last, wait, look, rest, calm, done = (
            builder.append_basic_block(name)
            for name in ("last", "wait", "look", "rest", "calm", "done")
        )
        one, zero = ir.Constant(I64, 1), ir.Constant(I64, 0)
        generation = builder.load_atomic(where[1], "acquire", 8)
        before = builder.atomic_rmw("add", where[0], one, "acq_rel")
        is_last = builder.icmp_signed("==", builder.add(before, one), count)
        builder.cbranch(is_last, last, wait)

        builder.position_at_end(last)
        builder.store_atomic(zero, where[0], "monotonic", 8)
        builder.store_atomic(builder.add(generation, one), where[1], "release", 8)
        builder.branch(done)

        builder.position_at_end(wait)
        spin = builder.phi(I64)
        spin.add_incoming(zero, entry)
        # In this order, so that a barrier which all have reached is never taken for abandoned.
        abandoned = builder.load_atomic(where[2], "acquire", 8)
        now = builder.load_atomic(where[1], "acquire", 8)
        builder.cbranch(builder.icmp_signed("!=", now, generation), done, look)

        builder.position_at_end(look)
        builder.cbranch(builder.icmp_signed("!=", abandoned, zero), done, rest)

        builder.position_at_end(rest)
        _pause(builder)
        patient = builder.icmp_signed("<", spin, limit)
        with builder.if_then(builder.not_(patient), likely=False):
            kind = ir.FunctionType(I32, [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, _YIELD), [])
        builder.branch(calm)

        builder.position_at_end(calm)
        spin.add_incoming(builder.add(spin, one), calm)
        builder.branch(wait)

        builder.position_at_end(done)
        result = builder.phi(I1)
        result.add_incoming(ir.Constant(I1, 1), last)
        result.add_incoming(ir.Constant(I1, 1), wait)
        result.add_incoming(ir.Constant(I1, 0), look)
        return result

    return types.boolean(state, types.int64, types.int64), lower


@intrinsic
def set_flushing(typing: Any, mode: Any) -> Any:
    """Give this thread the ``mode`` of floating point, as this function returned it, and return
    what it had; with -1 the present one, but that numbers below the smallest normal one, 1.2e-38 of
    float32, count as 0. On other processors than x86 nothing happens."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not X86:
            return ir.Constant(I32, 0)
        place = cgutils.alloca_once(builder, I32)
        bytes_ = builder.bitcast(place, ir.IntType(8).as_pointer())
        llvm_call(builder, "x86.sse.stmxcsr", ir.VoidType(), [bytes_])
        before = builder.load(place)
        flush = builder.icmp_signed("<", args[0], ir.Constant(I32, 0))
        flushing = builder.or_(before, ir.Constant(I32, _FLUSHING))
        builder.store(builder.select(flush, flushing, args[0]), place)
        llvm_call(builder, "x86.sse.ldmxcsr", ir.VoidType(), [bytes_])
        return before

    return types.int32(types.int32), lower


def _pause(builder: Any) -> None:
    """Tell the processor that this is a waiting loop."""
    if ARM:
        llvm_call(builder, "aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])
    elif X86:
        llvm_call(builder, "x86.sse2.pause", ir.VoidType(), [])
