"""From a ``.cu`` file to a kernel: the text that the compiler sees, and compiling it once.

A kernel's file includes others by name, such as ``common.cuh`` and ``tile.cuh``. NVRTC has no
folder to look in, so these lines are replaced by the text itself; ``formulas.cuh`` and ``rule.cuh``
are no files but the formulas of this network and of its update rule, written out by
``Expression.to_c``. Before all that stand the arithmetic and the constants of one use of the
kernel. The result is complete: any CUDA compiler takes it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from gpubp.expression import Expression
from gpubp.rule import Steps, UpdateRule

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
    rule: UpdateRule | None = None,
    /,
    **constants: int | str,
) -> str:
    """The text of ``stem``.cu in one arithmetic: constants become macros, formulas functions.

    A size is a number, or the name of the kernel's argument that holds it (``N="n"``). A formula's
    name may be a case of a template, ``sigma<0>``. Of the update rule the macros STATES, PENALTY
    and ROOTS are the number of arrays of its state, whether it has a penalty, and ``has_roots``."""
    lines = [f"typedef {_C_TYPES[arithmetic]} T;"]
    if rule is not None:
        constants |= {
            "STATES": len(rule.state), "PENALTY": int(rule.penalised), "ROOTS": int(has_roots(rule))
        }  # fmt: skip
    lines += [f"#define {name} {value}" for name, value in constants.items()]
    included = {
        "formulas.cuh": "\n".join(_function(*item) for item in (formulas or {}).items()),
        "rule.cuh": _rule(rule) if rule is not None else "",
    }

    def text(match: re.Match[str]) -> str:
        name = match[1]
        return included[name] if name in included else whole(_file(name))

    def whole(file: str) -> str:
        return re.sub(r'#include "(.+)"', text, file)

    return "\n".join(lines) + "\n" + whole(_file(f"{stem}.cu"))


def _function(name: str, formula: Expression) -> str:
    arguments = ", ".join(f"T {variable}" for variable in formula.variables)
    special = "template <> " if "<" in name else ""  # sigma<1>, of layer 1
    return f"{special}__device__ inline T {name}({arguments}) {{ return {formula.to_c()}; }}"


def has_roots(rule: UpdateRule) -> bool:
    """Whether the rule divides or takes roots, which need many registers."""
    return any("/" in formula.source or "sqrt" in formula.source for _, formula in rule.steps)


def _own(name: str) -> str:
    """A name of the rule as C has it: so it is no macro, no keyword and no function, and ASCII."""
    return "".join(c if c.isascii() else f"u{ord(c):x}" for c in name) + "_"


def _rule(rule: UpdateRule) -> str:
    """``struct Rule``, the numbers of a step, and the rule's assignments as functions: ``update``
    for one parameter, ``update_penalised`` for one under the penalty's slope, and that slope beside
    g, ``slope_penalised``."""
    numbers = ", ".join(map(_own, rule.numbers))
    return "\n".join(
        [
            f"struct Rule {{ T {numbers}; }};",
            _update("update", rule, rule.all_steps(weights=False)),
            _update("update_penalised", rule, rule.all_steps(weights=True)),
            _slope(rule),
        ]
    )


def _slope(rule: UpdateRule) -> str:
    steps = rule.slope_steps(weights=True)
    lines = [f"const T {_own(n)} = rule.{_own(n)};" for _, f in steps for n in rule.numbers
             if n in f.names]  # fmt: skip
    lines += [f"{_own(target)} = {formula.renamed(_own).to_c()};" for target, formula in steps]
    body = "".join(f"    {line}\n" for line in [*lines, "return g_;"])
    return f"__device__ inline T slope_penalised(T w_, T g_, const Rule& rule)\n{{\n{body}}}"


def _update(name: str, rule: UpdateRule, steps: Steps) -> str:
    """A function that does these steps in local variables: read once, written once."""
    known = ["w", "g", *rule.state]
    between = dict.fromkeys(target for target, _ in steps if target not in known)
    used = frozenset[str]().union(*(formula.names for _, formula in steps))
    lines = [f"const T {_own(n)} = rule.{_own(n)};" for n in rule.numbers if n in used]
    lines += [f"T {_own(s)} = state[{k} * apart];" for k, s in enumerate(rule.state)]
    lines += ["T w_ = w, g_ = g;", *(f"T {_own(target)};" for target in between)]
    lines += [f"{_own(target)} = {formula.renamed(_own).to_c()};" for target, formula in steps]
    lines += ["w = w_;", *(f"state[{k} * apart] = {_own(s)};" for k, s in enumerate(rule.state))]
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"__device__ inline void {name}(\n"
        f"    T& w, T* state, long long apart, T g, const Rule& rule)\n{{\n{body}}}"
    )


@cache
def compiled(text: str, name: str, cooperative: bool = False) -> Any:
    """The kernel ``name`` of this text, compiled by NVRTC, and kept on disk by CuPy; with
    ``cooperative``, all blocks of a launch are on the chip together."""
    import cupy

    module = cupy.RawModule(
        code=text, options=("-std=c++17",), enable_cooperative_groups=cooperative
    )
    return module.get_function(name)
