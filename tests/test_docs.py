"""The documentation holds what it promises; ``make docs`` runs its code, warnings being errors."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import gpubp
from gpubp import cli, explain, nielsen

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md"]


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S)


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    listed = re.findall(r"^ +- [^\n]+: (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == [page.name for page in PAGES]
    promised = [
        "index", "equations", "paths", "slowly", "activation", "checks", "book", "data",
        "optimizers", "sklearn", "fleet", "backends", "capacity", "speed", "kernel", "api",
    ]  # fmt: skip
    assert {f"{name}.md" for name in promised} == set(listed)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_names_of_the_library_exist(page: Path) -> None:
    """Every gpubp.a.b.c in code or in backticks can be found."""
    text = page.read_text()
    quoted = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^::: (\S+)$", text, re.M)
    names = set()
    for code in [*code_blocks(page), *quoted]:
        names |= set(re.findall(r"(?<![\w./-])gpubp(?:\.[A-Za-z_]\w*)+", code))
    for name in names - {"gpubp.kernels.cuda"}:
        found: Any = gpubp
        for part in name.split(".")[1:]:
            if not hasattr(found, part) and inspect.ismodule(found):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
    if page.name not in ("README.md", "api.md"):
        assert code_blocks(page)
    for block in code_blocks(page):
        ast.parse(block)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_commands_are_commands(page: Path) -> None:
    """Each line that calls gpubp is one that its parser takes."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ |    )(?:\.venv/bin/)?gpubp ([^\n]+)$", text, re.M)
    if page.name in ("README.md", "index.md"):
        assert lines
    for line in lines:
        command, *words = shlex.split(line, comments=True)
        make, _, summary = cli._COMMANDS[command]
        make(summary).parse_strictly(words)


def public_names() -> list[tuple[str, Any]]:
    names = [(f"gpubp.{name}", getattr(gpubp, name)) for name in gpubp.__all__]
    return names + [(f"gpubp.explain.{name}", getattr(explain, name)) for name in explain.__all__]


def test_api_reference_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M))
    for name, _ in public_names():
        assert name in ("gpubp.explain", "gpubp.optimizer") or name in listed, name
    assert explain.__doc__
    assert nielsen.__doc__


def test_every_public_name_says_what_it_is() -> None:
    for name, thing in public_names():
        assert inspect.getdoc(thing), name
    classes = [getattr(explain, name) for name in explain.__all__] + [nielsen.Network]
    for thing in filter(inspect.isclass, classes):
        for part, member in vars(thing).items():
            method = getattr(member, "fget", member)
            if inspect.isfunction(method) and not part.startswith("_"):
                assert method.__doc__ or hasattr(thing.__base__, part), f"{thing}.{part}"
    for name, function in inspect.getmembers(nielsen, inspect.isfunction):
        if function.__module__ == nielsen.__name__ and not name.startswith("_"):
            assert inspect.getdoc(function), name


def test_docstring_roles_are_shown_as_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hooks", None)
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    html = "<p>See :class:<code>~gpubp.Network</code> and :func:<code>gpubp.load</code>.</p>"
    shown = "<p>See <code>gpubp.Network</code> and <code>gpubp.load</code>.</p>"
    assert hooks.on_page_content(html) == shown


def test_notations_are_mapped_in_one_place() -> None:
    marked = re.search(
        r"<!-- --8<-- \[start:notation\] -->\n(.*?)<!-- --8<-- \[end:notation\] -->",
        (ROOT / "README.md").read_text(), re.S,
    )  # fmt: skip
    assert marked is not None
    for words in ("from-to", "sum_squares", "lambda / n", "columns"):
        assert words in marked[1]
    assert '--8<-- "README.md:notation"' in (ROOT / "docs" / "book.md").read_text()
