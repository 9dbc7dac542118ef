"""gpubp: backpropagation for multilayer perceptrons, on the CPU and on NVIDIA GPUs.

    train, test = gpubp.data.mnist()
    net = gpubp.Network([784, 30, 10], rng=0)
    net.fit(*train, epochs=30, batch_size=10, learning_rate=3.0, validation=test)
    net.evaluate(*test)

Importing it loads nothing else: NumPy, Numba, SciPy, CuPy and SymPy come when they are first
needed, and so do ``gpubp.explain`` (see backpropagation work) and ``gpubp.nielsen`` (the book's own
calls).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, explain, nielsen, optimizer, schedule
    from .activation import Activation, define_activation
    from .backend import Backend, get_backend
    from .backprop import Gradients
    from .callbacks import Callback, EarlyStopping
    from .cost import Cost, define_cost
    from .errors import (
        BackendUnavailable,
        CheckpointError,
        DataFormatError,
        DeviceMemoryError,
        DivergenceError,
        IntensityWarning,
    )
    from .fleet import Fleet
    from .fleet_result import FleetResult, FleetRow
    from .formats.book import from_network2
    from .formats.sklearn import from_sklearn
    from .history import Epoch, History
    from .network import Evaluation, Network, load
    from .own_optimizer import define_optimizer

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Backend",
    "BackendUnavailable",
    "Callback",
    "CheckpointError",
    "Cost",
    "DataFormatError",
    "DeviceMemoryError",
    "DivergenceError",
    "EarlyStopping",
    "Epoch",
    "Evaluation",
    "Fleet",
    "FleetResult",
    "FleetRow",
    "Gradients",
    "History",
    "IntensityWarning",
    "Network",
    "data",
    "define_activation",
    "define_cost",
    "define_optimizer",
    "explain",
    "from_network2",
    "from_sklearn",
    "get_backend",
    "load",
    "nielsen",
    "optimizer",
    "schedule",
]

_MODULES = ("data", "explain", "nielsen", "optimizer", "schedule")
_HOMES = {
    "activation": ("Activation", "define_activation"),
    "backend": ("Backend", "get_backend"),
    "backprop": ("Gradients",),
    "callbacks": ("Callback", "EarlyStopping"),
    "cost": ("Cost", "define_cost"),
    "errors": (
        "BackendUnavailable",
        "CheckpointError",
        "DataFormatError",
        "DeviceMemoryError",
        "DivergenceError",
        "IntensityWarning",
    ),
    "fleet": ("Fleet",),
    "fleet_result": ("FleetResult", "FleetRow"),
    "formats.book": ("from_network2",),
    "formats.sklearn": ("from_sklearn",),
    "history": ("Epoch", "History"),
    "network": ("Evaluation", "Network", "load"),
    "own_optimizer": ("define_optimizer",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, when it is first asked for."""
    if name in _MODULES or name in _HOMES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
