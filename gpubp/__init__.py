"""gpubp: backpropagation for multilayer perceptrons, on the CPU and on NVIDIA GPUs.

    train, test = gpubp.data.mnist()
    net = gpubp.Network([784, 30, 10], rng=0)
    net.fit(*train, epochs=30, batch_size=10, learning_rate=3.0, validation=test)
    net.evaluate(*test)

Importing it loads NumPy alone: Numba, SciPy, CuPy and SymPy come when they are first needed, and
so do ``gpubp.explain`` (see backpropagation work) and ``gpubp.nielsen`` (the book's own calls).
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from . import data, schedule
from .activation import Activation, define_activation
from .backend import Backend, get_backend
from .backprop import Gradients
from .callbacks import Callback, EarlyStopping
from .checkpoint import load
from .cost import Cost, define_cost
from .errors import (
    BackendUnavailable,
    DataFormatError,
    DeviceMemoryError,
    DivergenceError,
    IntensityWarning,
)
from .fleet import Fleet
from .fleet_result import FleetResult, FleetRow
from .history import Epoch, History
from .network import Evaluation, Network

if TYPE_CHECKING:
    from . import explain, nielsen

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Backend",
    "BackendUnavailable",
    "Callback",
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
    "explain",
    "get_backend",
    "load",
    "nielsen",
    "schedule",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("explain", "nielsen"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
