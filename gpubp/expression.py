"""sigma(z), C(a, y): an elementwise formula written once and read by every backend.

A formula is a string in a small language and is never executed: numbers; the declared variables;
``+ - * /``; ``**`` with a number as exponent; ``exp expm1 log log1p tanh sqrt abs erf erfc`` of one
argument; ``min max`` of two; ``where(condition, u, v)`` with comparisons, ``and``, ``or``, ``not``.

:meth:`Expression.to_python` and :meth:`Expression.to_c` write it as a scalar expression in its
variables and these names, which the caller's namespace or header supplies in its own precision:

    T(x)                                         the literal x as a float32 or a float64
    exp expm1 log log1p tanh sqrt erf erfc       of one argument, as in C
    absolute(u)                                  |u|
    minimum(u, v)                                u if u < v or u != u else v, so that NaN spreads
    maximum(u, v)                                u if u > v or u != u else v
    ipow(u, n)                                   u^n, n an int literal >= 2: :func:`ipow`
    power(u, T(x))                               u^x, x no integer: C's pow

Division follows IEEE 754 (Numba: ``error_model="numpy"``).
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial, reduce
from importlib import import_module
from operator import add, eq, ge, gt, le, lt, mul, ne, neg, sub, truediv
from typing import Any, NoReturn

import numpy as np

from .errors import unknown
from .printable import brief

# One at a time: before 3.11.8 Python counts the depth of all trees being built in one place, and
# stops with a SystemError when threads take turns (its issue 106905).
PARSING = threading.Lock()

MAX_LENGTH, MAX_NODES, MAX_DEPTH, MAX_EXPONENT = 2000, 300, 64, 64
_ERF_SLOPE = 2 / float(np.sqrt(np.pi))

# A tree is (operation, *arguments); its leaves are ("number", 0.5) and ("name", "z"). An algebra
# says what each operation does: to arrays, to text, or to SymPy expressions.
Tree = tuple[Any, ...]
Algebra = Mapping[str, Callable[..., Any]]

# The derivative of each function, in the language itself: du and dv are those of its arguments.
_DERIVATIVES = {
    "exp": "exp(u)*du",
    "expm1": "exp(u)*du",
    "log": "du/u",
    "log1p": "du/(1 + u)",
    "tanh": "(1 - tanh(u)**2)*du",
    "sqrt": "0.5*du/sqrt(u)",
    "abs": "where(u > 0, du, -du)",
    "erf": f"{_ERF_SLOPE}*exp(-u**2)*du",
    "erfc": f"-{_ERF_SLOPE}*exp(-u**2)*du",
    "min": "where(u < v, du, dv)",
    "max": "where(u > v, du, dv)",
}
_ARITY = {name: 2 if name in ("min", "max") else 1 for name in _DERIVATIVES} | {"where": 3}
_ARITHMETIC: Algebra = {"+": add, "-": sub, "*": mul, "/": truediv, "neg": neg}
_COMPARISONS: Algebra = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}
_LOGIC = ("and", "or", "not")
_OPERATORS: dict[type[Any], str] = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.USub: "neg"},
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.And: "and", ast.Or: "or", ast.Not: "not"},
}
_EMITTED = ("T", "absolute", "minimum", "maximum", "ipow", "power")


def _fold(tree: Tree, algebra: Algebra) -> Any:
    operation, *arguments = tree
    parts = (_fold(item, algebra) if isinstance(item, tuple) else item for item in arguments)
    return algebra[operation](*parts)


def ipow(u: Any, n: int) -> Any:
    """u^n = u u ... u, n >= 1, in the dtype of u; compiles under Numba as it stands."""
    result = u
    for _ in range(n - 1):
        result = result * u
    return result


class _Parser:
    """Source to tree; every refusal is one ``ValueError`` with column, reason and remedy."""

    def __init__(self, source: str, variables: tuple[str, ...]) -> None:
        self.source, self.variables, self.nodes = source, variables, 0
        self.indent = len(source) - len(source.lstrip())

    def refuse(self, column: int, reason: str) -> NoReturn:
        raise ValueError(f"formula {self.source[:60]!r}, column {column}: {reason}")

    def parse(self) -> Tree:
        if len(self.source) > MAX_LENGTH:
            self.refuse(MAX_LENGTH + 1, f"a formula has at most {MAX_LENGTH} characters")
        if bad := re.search(r"[^A-Za-z0-9_.,+\-*/()<>=! \t\n]", self.source):
            column, allowed = bad.start() + 1, "letters, digits and _ . , + - * / ( ) < > = !"
            self.refuse(column, f"{bad[0]!a} is not allowed; a formula is written with {allowed}")
        try:
            with PARSING, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                body = ast.parse(re.sub(r"\s", " ", self.source).lstrip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            column = self.indent + (getattr(error, "offset", None) or 1)
            self.refuse(column, "this is not a complete expression, or too deeply nested")
        return self.read(body)

    def read(self, node: ast.expr, depth: int = 1, is_condition: bool = False) -> Tree:
        column = self.indent + node.col_offset + 1
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            self.refuse(column, f"more than {MAX_NODES} terms or {MAX_DEPTH} levels of nesting")
        operation = _OPERATORS.get(type(getattr(node, "op", None)))
        if is_condition != (operation in _LOGIC or isinstance(node, ast.Compare)):
            self.refuse(column, "conditions stand first in where(z > 0, u, v) and nowhere else")
        items = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        match node:
            case ast.Constant() if (x := _literal(node)) is not None:
                return ("number", x)
            case ast.Name(id=name) if name in self.variables:
                return ("name", name)
            case ast.Name(id=name):
                self.refuse(column, str(unknown("variable", name, self.variables)))
            case ast.UnaryOp(op=ast.UAdd(), operand=u):
                return self.read(u, depth + 1)
            case ast.BinOp(left=u, op=ast.Pow(), right=n):
                return self.power(self.read(u, depth + 1), n)
            case ast.Call(func=ast.Name(id=operation), args=items, keywords=[]):
                if operation not in _ARITY:
                    self.refuse(column, str(unknown("function", operation, _ARITY)))
                if len(items) != (arity := _ARITY[operation]):
                    self.refuse(column, f"{operation} takes {arity}, not {len(items)}, arguments")
            case ast.Compare(ops=[op]):
                operation = _OPERATORS.get(type(op))
            case ast.Compare():
                self.refuse(column, "compare two values at a time: where(z > 0 and z < 1, u, v)")
        if operation is None:
            known = f"numbers, {', '.join(self.variables)}, + - * / **, {', '.join(_ARITY)}"
            what = type(getattr(node, "op", node)).__name__
            self.refuse(column, f"this {what} is not allowed; allowed are {known}")
        conditions = 1 if operation == "where" else len(items) if operation in _LOGIC else 0
        trees = [self.read(item, depth + 1, i < conditions) for i, item in enumerate(items)]
        if operation in ("and", "or"):
            return reduce(lambda left, right: (operation, left, right), trees)
        return (operation, *trees)

    def power(self, base: Tree, exponent: ast.expr) -> Tree:
        """base^n by what ipow and power know: n an int >= 2, or a fraction."""
        inverse = isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub)
        n = _literal(exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent)
        if n is None or n > MAX_EXPONENT:
            column = self.indent + exponent.col_offset + 1
            self.refuse(column, f"an exponent is a number up to {MAX_EXPONENT}, not a formula")
        n = int(n) if n == int(n) else n
        tree = ("number", 1) if n == 0 else base if n == 1 else ("**", base, n)
        return ("/", ("number", 1), tree) if inverse else tree


def _literal(node: ast.expr) -> float | None:
    x = node.value if isinstance(node, ast.Constant) else None
    if isinstance(x, bool) or not isinstance(x, int | float) or x >= 2**1023:
        return None
    return x if x <= 2**53 else float(x)


def _power_text(u: str, n: float) -> str:
    if isinstance(n, float):
        return f"power({u}, T({n!r}))"
    return f"({u} * {u})" if n == 2 and u.isidentifier() else f"ipow({u}, {n})"


_PYTHON: Algebra = {
    "number": "T({!r})".format,
    "name": str,
    **{name: f"{name}({{}})".format for name in _DERIVATIVES},
    "abs": "absolute({})".format,
    "min": "minimum({}, {})".format,
    "max": "maximum({}, {})".format,
    **{op: f"({{}} {op} {{}})".format for op in (*_ARITHMETIC, *_COMPARISONS, "and", "or")},
    "**": _power_text,
    "neg": "(-{})".format,
    "not": "(not {})".format,
    "where": "({1} if {0} else {2})".format,
}
_C: Algebra = {
    **_PYTHON,
    **{"and": "({} && {})".format, "or": "({} || {})".format, "not": "(!{})".format},
    "where": "({} ? {} : {})".format,
}


def _array_algebra(xp: Any, dtype: np.dtype[Any], values: Mapping[str, Any]) -> Algebra:
    """Operations on arrays of one dtype. Complex ones serve the complex step: conditions look at
    the real part, and erf is exact to first order in the imaginary part."""

    def special(name: str, sign: int, u: Any) -> Any:
        module = import_module("scipy.special" if xp is np else "cupyx.scipy.special")
        value = getattr(module, name)(u.real)
        if dtype.kind == "c":
            value = value + 1j * u.imag * (sign * _ERF_SLOPE * xp.exp(-u.real * u.real))
        return value

    return {
        "number": dtype.type,
        "name": values.__getitem__,
        **{name: getattr(xp, name) for name in ("exp", "expm1", "log", "log1p", "tanh", "sqrt")},
        "abs": (lambda u: xp.where(u.real < 0, -u, u)) if dtype.kind == "c" else xp.abs,
        "erf": partial(special, "erf", 1),
        "erfc": partial(special, "erfc", -1),
        "min": xp.minimum,  # of complex numbers, by their real parts
        "max": xp.maximum,
        **_ARITHMETIC,
        **{op: lambda u, v, f=f: f(u.real, v.real) for op, f in _COMPARISONS.items()},
        **{op: getattr(xp, f"logical_{op}") for op in _LOGIC},
        "**": lambda u, n: ipow(u, n) if isinstance(n, int) else xp.power(u, dtype.type(n)),
        "where": xp.where,
    }


@dataclass(frozen=True)
class Expression:
    """An elementwise formula in the named variables: ``Expression("z/(1 + abs(z))", ("z",))``.

    Anything outside the language above raises a one-sentence ``ValueError``.
    """

    source: str
    variables: tuple[str, ...]
    _tree: Tree = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            kind = type(self.source).__name__
            raise ValueError(f"a formula is a string such as 'tanh(z)': {kind} is not allowed")
        object.__setattr__(self, "variables", tuple(self.variables))
        for name in self.variables:
            if not name.isidentifier() or name in _ARITY or name in _EMITTED:
                raise ValueError(f"{name!r} cannot be a variable of a formula: choose another name")
        tree = self._tree or _Parser(self.source, self.variables).parse()
        object.__setattr__(self, "_tree", tree)

    def joined(self, operation: str, other: Expression) -> Expression:
        """``self operation other`` for + - * /, in the variables of self, however long."""
        source = f"({self.source}) {operation} ({other.source})"
        return Expression(source, self.variables, (operation, self._tree, other._tree))

    def renamed(self, new: Callable[[str], str]) -> Expression:
        """The same formula with other names of its variables."""

        def walk(tree: Tree) -> Tree:
            if tree[0] == "name":
                return ("name", new(tree[1]))
            return tuple(walk(item) if isinstance(item, tuple) else item for item in tree)

        return Expression(self.source, tuple(map(new, self.variables)), walk(self._tree))

    @cached_property
    def names(self) -> frozenset[str]:
        """The variables that the formula uses."""
        return frozenset(re.findall(r"\b[A-Za-z_]\w*", self.to_python())) & set(self.variables)

    def __call__(self, xp: Any, **values: Any) -> Any:
        """The formula on arrays that broadcast together: a new array of their shape and dtype.

        ``xp`` is numpy or cupy. Integers and bare numbers take the dtype of the floating arrays,
        float64 where there is none.
        """
        for name in values.keys() - set(self.variables):
            raise unknown("variable", name, self.variables)
        for name in self.names - values.keys():
            raise ValueError(f"formula {brief(self.source)} needs a value of {name}")
        arrays = {name: xp.asarray(value) for name, value in values.items()}
        dtypes = [value.dtype for value in values.values() if hasattr(value, "dtype")]
        dtype = np.result_type(*([d for d in dtypes if d.kind in "fc"] or [np.float64]))
        arrays = {name: array.astype(dtype, copy=False) for name, array in arrays.items()}
        shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        with np.errstate(all="ignore"):  # untaken branches overflow, and 1/(1 + inf) is meant
            result = _fold(self._tree, _array_algebra(xp, dtype, arrays))
        if result.shape != shape or self._tree[0] == "name":
            return xp.broadcast_to(xp.asarray(result), shape).copy()
        return result

    def to_python(self) -> str:
        """Scalar Python source in the variables and the names of the table above, for Numba."""
        return str(_fold(self._tree, _PYTHON))

    def to_c(self) -> str:
        """Scalar C source in the variables and the names of the table above, for CUDA."""
        return str(_fold(self._tree, _C))

    def derivative(self, variable: str) -> Expression:
        """d/d(variable), the other variables held constant; one-sided at kinks."""
        if variable not in self.variables:
            raise unknown("variable", variable, self.variables)
        try:
            return Expression(_differentiate(self._tree, variable), self.variables)
        except (ValueError, ArithmeticError, RecursionError) as error:
            slope = f"d/d{variable} of formula {self.source[:60]!r}"
            raise ValueError(f"{slope} is too large or not finite: give it yourself") from error


@cache
def _sympy_algebra() -> tuple[Algebra, Callable[[Any], str]]:
    """The operations on SymPy expressions, and the printer back to the language.

    Each function is opaque to SymPy, which so keeps the structure of the formula: it applies the
    chain rule with ``_DERIVATIVES`` and collects terms. A condition is a symbol named by its text.
    """
    import sympy
    from sympy.printing.str import StrPrinter

    class Printer(StrPrinter):  # type: ignore[misc]
        def _print_Float(self, x: Any) -> str:
            return repr(float(x))

    def opaque(name: str, rule: Tree) -> Any:
        def slope(self: Any, symbol: Any) -> Any:
            known = dict(zip("uvw", self.args, strict=False))
            known |= {f"d{u}": part.diff(symbol) for u, part in known.items()}
            return _fold(rule, {**algebra, "name": known.__getitem__})

        return type(sympy.Function)(name, (sympy.Function,), {"_eval_derivative": slope})

    def condition(template: str) -> Callable[..., Any]:
        return lambda *sides: sympy.Symbol(template.format(*map(show, sides)))

    show, uv = Printer().doprint, ("u", "v", "du", "dv")
    where = opaque("where", ("where", ("name", "u"), ("name", "dv"), ("name", "dw")))
    algebra: dict[str, Callable[..., Any]] = {
        "number": sympy.sympify,
        "name": sympy.Symbol,
        **{f: opaque(f, Expression(rule, uv)._tree) for f, rule in _DERIVATIVES.items()},
        **_ARITHMETIC,
        "**": lambda u, n: (u.evalf() if u.is_Number else u) ** n,  # 9**64**64 stays small
        **{op: condition(f"{{}} {op} {{}}") for op in _COMPARISONS},
        **{op: condition(f"({{}}) {op} ({{}})") for op in ("and", "or")},
        "not": condition("not ({})"),
        "where": lambda condition, u, v: u if u == v else where(condition, u, v),
    }
    return algebra, show


def _differentiate(tree: Tree, variable: str) -> str:
    import sympy
    from sympy.core.parameters import distribute

    algebra, show = _sympy_algebra()
    exp = algebra["exp"]

    def tame(product: Any) -> Any:
        """exp(w)/(c + k exp(w)) as 1/(k + c exp(-w)), and exp(v) exp(w) as exp(v + w), so that
        neither inf/inf nor inf*0 arises where the formula itself is finite."""
        powers = product.as_powers_dict()
        exps = [e for e in powers if e.func == exp and powers[e].is_Integer and powers[e] > 0]
        for e in exps:
            for total in (d for d in powers if d.is_Add and powers[d] <= -1 and d.coeff(e) != 0):
                k = total.coeff(e)
                return tame(product / e * total / (k + (total - k * e) * exp(-e.args[0])))
        if len(exps) > 1:
            merged = exp(sum(powers[e] * e.args[0] for e in exps))
            return product / sympy.prod(e ** powers[e] for e in exps) * merged
        return product

    with distribute(False):  # 0.3*(a - y) stays a difference
        slope = _fold(tree, algebra).diff(sympy.Symbol(variable))
        slope = slope.replace(lambda part: part.is_Mul, tame)
        whole = [x for x in slope.atoms(sympy.Float) if abs(x) < 2**53 and float(x).is_integer()]
        slope = slope.xreplace({x: sympy.Integer(int(x)) for x in whole})
        return show(slope)
