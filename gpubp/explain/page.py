"""A saved network explained on one self-contained HTML page that a person can click through.

The page holds its data, its style and its program, loads nothing, and so works from a disk and
offline: pick an example, a quantity, a neuron, and read z, a, sigma'(z), delta and nabla_w with the
numbers that went into them; pick a weight, and read its strongest paths; read the health.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import __version__

from .double import Double
from .tracing import trace
from .vitals import Health, health

if TYPE_CHECKING:
    from gpubp.network import Network

MAX_NUMBERS = 8_000_000  # on a page: about 43 MB of text


def explain_page(
    net: Network, x: Any, y: Any, *, title: str = "gpubp explain", checked: Health | None = None
) -> str:
    """The HTML text of a page about these examples.

    Args:
        net: any network.
        x, y: the examples to pick from, (m, n_1) and (m,) or (m, n_L); ten are plenty.
        title: stands at the top.
        checked: the :class:`Health` to show, if it is not that on x and y.

    Raises:
        ValueError: where the page would be too large for a browser: pass fewer examples.
    """
    weights = sum(w.size for w in net.weights)
    numbers = weights + len(x) * (net.sizes[0] + 4 * sum(net.sizes[1:]))
    if numbers > MAX_NUMBERS:
        raise ValueError(
            f"a page about {len(x)} examples of this network would hold {numbers:,} numbers, more "
            f"than {MAX_NUMBERS:,}: ask for fewer examples, or for a picture"
        )
    t, host = trace(net, x, y), net.backend.asnumpy
    data = {
        "title": title,
        "version": __version__,
        "network": repr(net),
        "sizes": list(net.sizes),
        "cost_name": t.cost_name,
        "cost": t.cost.astype(float).tolist(),
        "predicted": net.predict(x).tolist(),
        "at_z": Double.of(net, x, y).takes_cost_at_z,
        "x": _packed(t.x),
        "y": _packed(t.y),
        "grad_a": _packed(t.grad_a),
        "layers": [
            {
                "equations": layer.equations,
                "w": _packed(host(w)),
                "b": _packed(host(b)),
                **{name: _packed(getattr(layer, name)) for name in ("z", "a", "delta")},
                "sigma_prime": None if layer.sigma_prime is None else _packed(layer.sigma_prime),
            }
            for layer, w, b in zip(t.layers, net.weights, net.biases, strict=True)
        ],
        "health": (checked or health(net, x, y)).to_dict(),
    }
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    template = files("gpubp.explain").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", text)


def _packed(array: Any) -> str:
    """float32, little-endian, base64."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
