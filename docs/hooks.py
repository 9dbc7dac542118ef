"""MkDocs calls these while it builds the site."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things by Sphinx's roles: here the name alone is shown."""
    return _ROLE.sub(r"<code>\1</code>", html)
