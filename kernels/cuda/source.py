"""From a ``.cu`` file to a kernel: the text that the compiler sees, and compiling it once.

A kernel's file includes others by name, such as ``common.cuh`` and ``tile.cuh``. NVRTC has no
folder to look in, so these lines are replaced by the text itself; ``formulas.cuh`` is no file but
the formulas of this network, written out by ``Expression.to_c``. Before all that stand the
arithmetic and the constants of one use of the kernel. The result is complete: any CUDA compiler
takes it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from gpubp.expression import Expression
from gpubp.plan import Plan

# The arithmetic of a kernel -> the type of its numbers. In "tf32" and "bf16" the operands of
# products are rounded to that on their way to the tensor cores, and all else is float32.
_C_TYPES = {"float32": "float", "float64": "double", "tf32": "float", "bf16": "float"}


@cache
def _file(name: str) -> str:
    return (files("gpubp.kernels.cuda") / name).read_text(encoding="utf-8")


def source(
    stem: str,
    arithmetic: str,
    formulas: Mapping[str, Expression] | None = None,
    /,
    **constants: int | str,
) -> str:
    """The text of ``stem``.cu in one arithmetic: constants become macros, formulas functions.

    A size is a number, or the name of the kernel's argument that holds it (``N="n"``). A formula's
    name may be a case of a template, ``sigma<0>``."""
    lines = [f"typedef {_C_TYPES[arithmetic]} T;"]
    lines += [f"#define {name} {value}" for name, value in constants.items()]
    included = {"formulas.cuh": "\n".join(_function(*item) for item in (formulas or {}).items())}

    def text(match: re.Match[str]) -> str:
        name = match[1]
        return included[name] if name in included else whole(_file(name))

    def whole(file: str) -> str:
        return re.sub(r'#include "(.+)"', text, file)

    return "\n".join(lines) + "\n" + whole(_file(f"{stem}.cu"))


def rule_constants(plan: Plan) -> dict[str, int]:
    """What of the update rule is compiled into a kernel; its numbers are not."""
    rule = plan.rule
    return {
        "MOMENTUM": int(rule.momentum != 0),
        "NESTEROV": int(rule.nesterov),
        "PENALTY": int(rule.penalised),
    }


def _function(name: str, formula: Expression) -> str:
    arguments = ", ".join(f"T {variable}" for variable in formula.variables)
    special = "template <> " if "<" in name else ""  # sigma<1>, of layer 1
    return f"{special}__device__ inline T {name}({arguments}) {{ return {formula.to_c()}; }}"


@cache
def compiled(text: str, name: str, cooperative: bool = False) -> Any:
    """The kernel ``name`` of this text, compiled by NVRTC, and kept on disk by CuPy; with
    ``cooperative``, all blocks of a launch are on the chip together."""
    import cupy

    module = cupy.RawModule(
        code=text, options=("-std=c++17",), enable_cooperative_groups=cooperative
    )
    return module.get_function(name)
