"""The package's edges: what importing loads, who may import whom, how backends answer."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpubp

PACKAGE = Path(gpubp.__file__).parent


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light(tmp_path: Path) -> None:
    heavy = ["numba", "llvmlite", "cupy", "sympy", "scipy", "pooch", "tqdm", "matplotlib"]
    names = [name for name in gpubp.__all__ if name not in ("explain", "nielsen")]
    code = f"import gpubp, sys; {'; '.join(f'gpubp.{name}' for name in names)}\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code, tmp_path).strip() == "[]"


def test_import_is_quick(tmp_path: Path) -> None:
    # NumPy's own import is not ours to answer for, and a busy machine makes any one run slow.
    code = (
        "import time, numpy; t = time.process_time(); import gpubp; print(time.process_time() - t)"
    )
    assert min(float(run_python(code, tmp_path)) for _ in range(5)) <= 0.2


def test_no_top_level_kernels(tmp_path: Path) -> None:
    code = "import importlib.util; print(importlib.util.find_spec('kernels'))"
    assert run_python(code, tmp_path).strip() == "None"
    assert importlib.util.find_spec("gpubp.kernels") is not None


def imported_modules(path: Path) -> set[str]:
    """Names under gpubp that the file imports at module level or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = "gpubp." + (node.module or "") if node.level else node.module or ""
            found |= {f"{base}.{alias.name}".replace("..", ".") for alias in node.names}
    return {name for name in found if name.startswith("gpubp.")}


def test_equations_import_no_kernels() -> None:
    assert not {name for name in imported_modules(PACKAGE / "backprop.py") if "kernels" in name}


def test_kernels_import_nothing_above_them() -> None:
    import gpubp.kernels

    allowed = {"activation", "arrays", "cost", "errors", "expression", "kernels", "plan"}
    allowed |= {"folders", "interrupt", "parameters", "rule"}
    for path in Path(gpubp.kernels.__file__).parent.rglob("*.py"):
        extra = {"backprop"} if path.name == "reference.py" else set()
        above = {name.split(".")[1] for name in imported_modules(path)} - allowed - extra
        assert not above, f"{path.name} imports gpubp.{above}"


def test_backprop_fits_on_a_screen() -> None:
    assert len((PACKAGE / "backprop.py").read_text().splitlines()) < 160


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_backend_by_name(name: str) -> None:
    backend = gpubp.get_backend(name)
    assert backend.name == name
    assert backend.xp is np
    array = backend.asarray([1.0, 2.0], "float32")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(backend.asnumpy(array), [1, 2])
    backend.synchronize()
    assert gpubp.get_backend(backend) is backend


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("cup", ValueError, "did you mean"),
        ("gpu", ValueError, "cuda"),
        ("cpu:1", ValueError, "unknown backend"),
        ("cuda:x", ValueError, "unknown backend"),
        (3, TypeError, "must be a name"),
    ],
)
def test_unknown_backend(name: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        gpubp.get_backend(name)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_cuda_is_unavailable_by_name() -> None:
    with pytest.raises(gpubp.BackendUnavailable, match="backend='cpu'"):
        gpubp.Network([2, 1], backend="cuda")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, inside_functions: bool) -> set[str]:
    """The modules of gpubp that the file imports when it is read, or inside functions too; not for
    types alone."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            if isinstance(node, ast.FunctionDef) and not inside_functions:
                continue
            if isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = [*(above if node.level else []), *([node.module] if node.module else [])]
                found.update(".".join([*base, alias.name]) for alias in node.names)
                found.add(".".join(base))
            for part in ("body", "orelse", "finalbody", "handlers"):
                visit(getattr(node, part, []))

    visit(ast.parse(path.read_text()).body)
    return found


# What a network asks for by name is found when it is asked for, above it.
UPWARD = {("gpubp.network", "gpubp.explain"), ("gpubp.explain.vitals", "gpubp.explain.pictures")}


@pytest.mark.parametrize("inside_functions", [False, True], ids=["at once", "when asked for"])
def test_imports_go_one_way(inside_functions: bool) -> None:
    """Of all modules none imports one that imports it, by whatever way round."""
    import gpubp.kernels

    kernels = Path(gpubp.kernels.__file__).parent
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py") if kernels not in path.parents}
    graph = {
        name: {other for other in imports(path, inside_functions) & paths.keys() - {name}
               if not (inside_functions and (name, other) in UPWARD)}
        for name, path in paths.items()
    }  # fmt: skip
    assert {"gpubp.sgd", "gpubp.keeper"} <= graph["gpubp.fleet"] | graph["gpubp.sgd"]
    left = dict(graph)
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"
