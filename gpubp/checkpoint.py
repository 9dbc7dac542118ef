"""A network and its training in one file: what is stored, and how it is put together again.

The file layer (atomic, strict) is :mod:`gpubp.tensorfile`. Arrays: ``weights.i``, ``biases.i``,
and of a training run ``velocity``, ``best``, ``last`` and ``history``. The rest is in the JSON
header. Activations and costs of your own are stored as their formulas, never as code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import astuple, fields
from itertools import pairwise
from typing import Any

import numpy as np

from .activation import ACTIVATIONS, Activation, Softmax
from .backend import Backend, get_backend
from .cost import COSTS, Cost
from .errors import DataFormatError
from .expression import Expression
from .history import Epoch, History
from .network import Network
from .sgd import Training
from .tensorfile import read_tensors, write_tensors

_FORMAT = "gpubp-1"
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_COUNTERS = ("examples", "batch_size", "momentum", "epochs", "epoch", "step", "cost_sum",
             "seconds", "best_after", "stopped")  # fmt: skip


def _activation_to_json(activation: Activation | Softmax) -> Any:
    if activation == ACTIVATIONS.get(activation.name):
        return activation.name
    assert isinstance(activation, Activation)
    return {
        "name": activation.name,
        "sigma": activation.sigma.source,
        "sigma_prime": activation.sigma_prime.source,
    }


def _activation_from_json(stored: Any) -> Activation | Softmax:
    if isinstance(stored, str):
        return ACTIVATIONS[stored]
    return Activation(
        stored["name"],
        Expression(stored["sigma"], ("z",)),
        Expression(stored["sigma_prime"], ("z", "a")),
    )


def _cost_to_json(cost: Cost) -> Any:
    if cost == COSTS.get(cost.name):
        return cost.name
    return {
        "name": cost.name,
        "cost": cost.cost.source,
        "grad_a": cost.grad_a.source,
        "grad_z": None if cost.grad_z is None else cost.grad_z.source,
        "unit_interval": cost.unit_interval,
    }


def _cost_from_json(stored: Any) -> Cost:
    if isinstance(stored, str):
        return COSTS[stored]
    variables = ("z", "a", "y")
    grad_z = stored["grad_z"]
    return Cost(
        stored["name"],
        Expression(stored["cost"], variables),
        Expression(stored["grad_a"], variables),
        None if grad_z is None else Expression(grad_z, variables),
        bool(stored["unit_interval"]),
    )


def _state_to_json(state: Any) -> Any:
    """A bit generator's state without NumPy's types."""
    if isinstance(state, Mapping):
        return {key: _state_to_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"array": state.tolist(), "dtype": state.dtype.name}
    return int(state) if isinstance(state, np.integer) else state


def _state_from_json(state: Any) -> Any:
    if isinstance(state, dict) and set(state) == {"array", "dtype"}:
        return np.array(state["array"], state["dtype"])
    if isinstance(state, dict):
        return {key: _state_from_json(value) for key, value in state.items()}
    return state


def _history_to_array(history: History) -> np.ndarray[Any, Any]:
    """A row an epoch: its figures, then for each whether it is there."""
    rows = [
        [*(0 if v is None else v for v in astuple(row)), *(v is not None for v in astuple(row))]
        for row in history
    ]
    return np.array(rows, np.float64).reshape(len(rows), 2 * len(fields(Epoch)))


def _history_from_array(array: np.ndarray[Any, Any]) -> History:
    n = len(fields(Epoch))
    if array.ndim != 2 or array.shape[1] != 2 * n or array.dtype != np.float64:
        raise ValueError(f"history of {array.dtype} and shape {array.shape}")
    rows = []
    for row in array.tolist():
        values: list[Any] = [
            v if there else None for v, there in zip(row[:n], row[n:], strict=True)
        ]
        rows.append(Epoch(int(row[0]), *values[1:]))
    return History(rows)


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write network, generator and training state; on any failure the old file stays as it was."""
    asnumpy, parameters = network.backend.asnumpy, network.parameters
    generator = type(network.rng.bit_generator).__name__
    if generator not in _GENERATORS:
        raise TypeError(
            f"a network whose rng is a {generator} cannot be saved: give it one of "
            f"{', '.join(_GENERATORS)}"
        )
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, layers in (("weights", network.weights), ("biases", network.biases)):
        tensors |= {f"{name}.{i}": asnumpy(array) for i, array in enumerate(layers)}
    header: dict[str, Any] = {
        "format": _FORMAT,
        "sizes": list(network.sizes),
        "activations": [_activation_to_json(item) for item in network.activations],
        "cost": _cost_to_json(network.cost),
        "dtype": network.dtype,
        "classes": None if network.classes is None else list(network.classes),
        "rng": _state_to_json(network.rng.bit_generator.state),
        "training": None,
    }
    training = network.training
    if training is not None:
        header["training"] = {name: getattr(training, name) for name in _COUNTERS}
        header["training"]["order_state"] = _state_to_json(training.order_state)
        tensors["history"] = _history_to_array(training.history)
        if parameters.velocity is not None:
            tensors["velocity"] = asnumpy(parameters.velocity)
        for name in ("best", "last"):
            if getattr(training, name) is not None:
                tensors[name] = asnumpy(getattr(training, name))
    write_tensors(path, tensors, header)


def _generator(state: Any) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in _GENERATORS:
        raise ValueError(f"unknown bit generator {name!r}")
    bit_generator = getattr(np.random, name)()
    bit_generator.state = _state_from_json(state)
    return np.random.Generator(bit_generator)


def load(
    path: str | os.PathLike[str], backend: str | Backend = "cpu", precision: str | None = None
) -> Network:
    """The network saved in ``path``, on any backend, ready to predict or to resume its training.

    Like the backend, ``precision`` is no part of a checkpoint: give it again to go on in it.

    Raises:
        DataFormatError: the file is not a checkpoint of gpubp, or is damaged.
        FileNotFoundError: there is no such file.
    """
    chosen = get_backend(backend)
    tensors, header = read_tensors(path)
    if header.get("format") != _FORMAT:
        raise DataFormatError(
            path, expected=f"a gpubp checkpoint of format {_FORMAT!r}",
            found=f"format {header.get('format')!r}",
        )  # fmt: skip
    try:
        sizes = [int(n) for n in header["sizes"]]
        stored_values = sum(tensor.size for tensor in tensors.values())
        if sum(a * b for a, b in pairwise(sizes)) > stored_values:
            raise ValueError(f"sizes {sizes} with only {stored_values} values stored")
        network = Network(
            sizes,
            activation=[_activation_from_json(item) for item in header["activations"]],
            cost=_cost_from_json(header["cost"]),
            backend=chosen,
            rng=_generator(header["rng"]),
            init=lambda rng, n_out, n_in: (np.zeros((n_out, n_in)), np.zeros(n_out)),
            dtype=header["dtype"],
        )
        network.classes = header.get("classes")  # absent from older files
        for name, layers in (("weights", network.weights), ("biases", network.biases)):
            for i in range(len(layers)):
                layers[i] = _tensor(tensors, f"{name}.{i}", network.dtype)
        if header["training"] is not None:
            network.training = _training(network, header["training"], tensors)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataFormatError(
            path, expected="a complete gpubp checkpoint", found=" ".join(what.split())
        ) from error
    network.precision = chosen.check_precision(precision, network.dtype)
    return network


def _tensor(tensors: Mapping[str, Any], name: str, dtype: str) -> Any:
    tensor = tensors[name]
    if tensor.dtype.name != dtype:
        raise ValueError(f"{name} of {tensor.dtype.name} in a network of {dtype}")
    return tensor


def _training(network: Network, stored: Mapping[str, Any], tensors: Mapping[str, Any]) -> Training:
    for name in _COUNTERS:
        kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}
        kind = kinds[Training.__annotations__[name]]
        # JSON's true is an int to isinstance, and no counter is one.
        if type(stored[name]) not in kind or stored[name] < 0:
            raise ValueError(f"training.{name} = {stored[name]!r}")
    training = Training(
        network,
        **{name: stored[name] for name in _COUNTERS},
        order_state=_state_from_json(stored["order_state"]),
        history=_history_from_array(tensors["history"]),
    )
    if not 1 <= training.batch_size <= training.examples or training.step > training.steps:
        raise ValueError(
            f"step {training.step} of {training.examples} examples by {training.batch_size}"
        )
    if training.order_state is not None:
        _generator(stored["order_state"])  # refuse a state that would fail only when resumed
    flat = network.parameters.flat
    for name in ("velocity", "best", "last"):
        if name in tensors:
            array = _tensor(tensors, name, network.dtype)
            if array.shape != flat.shape:
                raise ValueError(f"{name} of shape {array.shape}, not {flat.shape}")
            with network.backend.device():
                array = network.backend.asarray(array)
            setattr(network.parameters if name == "velocity" else training, name, array)
    if training.momentum and network.parameters.velocity is None:
        raise ValueError("a run with momentum but no velocity")
    return training
