"""BLAS's general matrix product with alpha and beta, called from compiled code.

Arrays are passed as (array, offset in elements), so that a part of one flat buffer costs no view.
The routine's address is a plain argument and no constant, so that compiled callers can be cached.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic
from numba.extending import get_cython_function_address

_INT, _CHAR = ir.IntType(32), ir.IntType(8)


@cache
def gemm_address(dtype: str) -> int:
    """The address of the Fortran ``sgemm`` or ``dgemm`` that SciPy was built with."""
    name = {"float32": "sgemm", "float64": "dgemm"}[dtype]
    return int(get_cython_function_address("scipy.linalg.cython_blas", name))


def _data(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic
def gemm(
    typingctx, address, left_t, right_t, m, n, k, alpha, a, a0, lda, b, b0, ldb, beta, c, c0, ldc
):
    """C := alpha op(A) op(B) + beta C for **row-major** A, B and C; C is m by n, k is summed over.

    op is the transpose where ``left_t`` or ``right_t`` is true. BLAS is column-major and sees each
    array transposed, so it is asked for C^T = op(B)^T op(A)^T: the operands change places.
    """
    element = c.dtype
    size = types.intp
    signature = types.void(
        size, types.boolean, types.boolean, size, size, size, element,
        a, size, size, b, size, size, element, c, size, size,
    )  # fmt: skip

    def codegen(context, builder, signature, args):
        address, left_t, right_t, m, n, k, alpha = args[:7]
        lda, ldb, beta, ldc = args[9], args[12], args[13], args[16]

        def by_reference(value: Any) -> Any:
            slot = cgutils.alloca_once(builder, value.type)
            builder.store(value, slot)
            return slot

        def flag(transposed: Any) -> Any:
            return by_reference(
                builder.select(
                    transposed, ir.Constant(_CHAR, ord("T")), ir.Constant(_CHAR, ord("N"))
                )
            )

        def integer(value: Any) -> Any:
            return by_reference(builder.trunc(value, _INT))

        data = [
            _data(context, builder, signature.args[i], args[i], args[i + 1]) for i in (7, 10, 14)
        ]
        call = [
            flag(right_t), flag(left_t), integer(n), integer(m), integer(k), by_reference(alpha),
            data[1], integer(ldb), data[0], integer(lda), by_reference(beta), data[2], integer(ldc),
        ]  # fmt: skip
        function = ir.FunctionType(ir.VoidType(), [value.type for value in call])
        builder.call(builder.inttoptr(address, function.as_pointer()), call)
        return context.get_dummy_value()

    return signature, codegen
