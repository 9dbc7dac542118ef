"""Pages show the pictures that their own code drew: ``print(show(figure, "what it shows"))``."""

from __future__ import annotations

import base64
import html
import io
from typing import Any


def show(figure: Any, alt: str) -> str:
    """A matplotlib Figure as an HTML image inside the page; ``alt`` says what it shows."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return image(file.getvalue(), alt)


def image(png: bytes, alt: str) -> str:
    """The bytes of a PNG file as an HTML image inside the page."""
    data = base64.b64encode(png).decode()
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></p>'
