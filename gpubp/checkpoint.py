"""A network and its training in one file: what is stored, and how it is put together again.

The file layer (atomic, strict) is :mod:`gpubp.tensorfile`. Arrays: ``weights.i``, ``biases.i``,
and of a training run ``state`` (the optimizer's), ``best``, ``last`` and ``history``. The rest is
in the JSON header; :mod:`gpubp.stored` describes its every value. Activations and costs of your own
are stored as their formulas, never as code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .activation import ACTIVATIONS, Activation, Softmax
from .backend import Backend, get_backend
from .cost import COSTS, Cost
from .errors import DataFormatError
from .expression import MAX_LENGTH, Expression
from .history import Epoch, History
from .printable import LONGEST, brief, printable
from .stored import (
    GENERATORS,
    check_stored,
    keyed,
    state_from_json,
    state_to_json,
    sum_to_json,
    with_velocity,
)
from .tensorfile import read_tensors, write_tensors
from .training import Training

if TYPE_CHECKING:
    from .network import Network

_FORMAT = "gpubp-1"
_COUNTERS = ("examples", "batch_size", "epochs", "epoch", "step", "cost_sum",
             "seconds", "best_after", "stopped")  # fmt: skip


def _activation_to_json(activation: Activation | Softmax) -> Any:
    if activation in ACTIVATIONS.values():
        return activation.name
    if not isinstance(activation, Activation):
        raise TypeError(f"activation {brief(activation)} cannot be saved: it is no formula")
    return {
        "name": activation.name,
        "sigma": activation.sigma.source,
        "sigma_prime": activation.sigma_prime.source,
    }


def _activation_from_json(stored: Any) -> Activation | Softmax:
    if isinstance(stored, str):
        return ACTIVATIONS[stored] if stored in ACTIVATIONS else _unknown("activation", stored)
    keyed(stored, ("name", "sigma", "sigma_prime"), "an activation")
    return Activation(
        _name(stored["name"]),
        Expression(stored["sigma"], ("z",)),
        Expression(stored["sigma_prime"], ("z", "a")),
    )


def _cost_to_json(cost: Cost) -> Any:
    if cost in COSTS.values():
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
        return COSTS[stored] if stored in COSTS else _unknown("cost", stored)
    keyed(stored, ("name", "cost", "grad_a", "grad_z", "unit_interval"), "a cost")
    if type(stored["unit_interval"]) is not bool:
        raise ValueError(f"unit_interval = {brief(stored['unit_interval'])}, not true or false")
    variables = ("z", "a", "y")
    grad_z = stored["grad_z"]
    return Cost(
        _name(stored["name"]),
        Expression(stored["cost"], variables),
        Expression(stored["grad_a"], variables),
        None if grad_z is None else Expression(grad_z, variables),
        stored["unit_interval"],
    )


def _name(stored: Any) -> str:
    if not isinstance(stored, str) or len(stored) > MAX_LENGTH:
        raise ValueError(
            f"the name {brief(stored)} of a formula, which has one of at most {MAX_LENGTH} "
            "characters"
        )
    return stored


def _unknown(what: str, name: str) -> NoReturn:
    raise ValueError(f"unknown {what} {brief(name)}")


def _history_to_array(history: History) -> np.ndarray[Any, Any]:
    """A row an epoch: its figures, then for each whether it is there."""
    rows = [
        [*(0 if v is None else v for v in astuple(row)), *(v is not None for v in astuple(row))]
        for row in history
    ]
    return np.array(rows, np.float64).reshape(len(rows), 2 * len(fields(Epoch)))


def _history_from_array(array: np.ndarray[Any, Any]) -> History:
    n, rows = len(fields(Epoch)), []
    for row in array.tolist():
        values: list[Any] = [
            v if there else None for v, there in zip(row[:n], row[n:], strict=True)
        ]
        rows.append(Epoch(int(row[0]), *values[1:]))
    return History(rows)


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write network, generator and training state; on any failure the old file stays as it was.

    Raises ``TypeError`` or ``ValueError`` for a network that could not be loaded again, one with
    NaN among its weights for example, and ``OSError`` where the file cannot be written.
    """
    write_tensors(path, *_stored(network, network.training))


def rehearse(network: Network, path: str | os.PathLike[str], resume: bool) -> None:
    """Everything that :func:`save` does, but that the file takes its place: so what would fail
    after an hour of training fails now. Without ``resume`` the network's last run is left out."""
    write_tensors(path, *_stored(network, network.training if resume else None), rehearsal=True)


def _stored(
    network: Network, training: Training | None
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """(tensors, header), which passed the check of those that are read."""
    asnumpy, parameters = network.backend.asnumpy, network.parameters
    kind = type(network.rng.bit_generator)
    if kind is not getattr(np.random, kind.__name__, None) or kind.__name__ not in GENERATORS:
        raise TypeError(
            f"a network whose rng is a {printable(kind.__name__, LONGEST)} cannot be saved: give "
            f"it one of {', '.join(GENERATORS)}"
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
        "inputs": None if network.inputs is None else list(network.inputs),
        "targets": None if network.targets is None else list(network.targets),
        "rng": state_to_json(network.rng.bit_generator.state),
        "training": None,
    }
    if training is not None:
        plain = {"int": int, "float": float, "bool": bool}  # without NumPy's types
        header["training"] = {
            name: plain[Training.__annotations__[name]](getattr(training, name))
            for name in _COUNTERS
        }
        header["training"] |= {
            "epochs": min(int(training.epochs), 2**63 - 1),  # as good as endless
            "cost_sum": sum_to_json(float(training.cost_sum)),
            "optimizer": dict(training.optimizer),
            "order_state": state_to_json(training.order_state),
        }
        tensors["history"] = _history_to_array(training.history)
        if len(parameters.state):
            tensors["state"] = asnumpy(parameters.state)
        for name in ("best", "last"):
            if getattr(training, name) is not None:
                tensors[name] = asnumpy(getattr(training, name))
    try:
        check_stored(header, tensors)
        formulas = [*map(_activation_from_json, header["activations"])]
        if (*formulas, _cost_from_json(header["cost"])) != (*network.activations, network.cost):
            raise ValueError("a formula of its own would come back changed")
    except ValueError as error:
        raise ValueError(f"this network cannot be saved as it is: {error}") from None
    return tensors, header


def read(
    make: type[Network], path: str | os.PathLike[str], backend: str | Backend, precision: str | None
) -> Network:
    """The network saved in ``path``, made by ``make``: see :func:`gpubp.load`."""
    chosen = get_backend(backend)
    tensors, header = read_tensors(path)
    if (found := header.get("format")) != _FORMAT:
        raise DataFormatError(
            path, expected=f"a gpubp checkpoint of format {_FORMAT!r}",
            found=f"format {brief(found)}",
        )  # fmt: skip
    with_velocity(header, tensors)
    try:
        check_stored(header, tensors)
        network = make(
            header["sizes"],
            activation=[_activation_from_json(item) for item in header["activations"]],
            cost=_cost_from_json(header["cost"]),
            backend=chosen,
            rng=_generator(header["rng"]),
            init=lambda rng, n_out, n_in: (np.zeros((n_out, n_in)), np.zeros(n_out)),
            dtype=header["dtype"],
        )
        for name in ("classes", "inputs", "targets"):
            setattr(network, name, header.get(name))
    except ValueError as error:
        raise DataFormatError(
            path, expected="a complete gpubp checkpoint", found=" ".join(str(error).split())
        ) from error
    for name, layers in (("weights", network.weights), ("biases", network.biases)):
        for i in range(len(layers)):
            layers[i] = tensors[f"{name}.{i}"]
    if header["training"] is not None:
        network.training = _training(network, header["training"], tensors)
    network.precision = chosen.check_precision(precision, network.dtype)
    return network


def _generator(stored: Any) -> np.random.Generator:
    state = state_from_json(stored)
    bit_generator = getattr(np.random, state["bit_generator"])(0)
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def _training(network: Network, stored: Mapping[str, Any], tensors: Mapping[str, Any]) -> Training:
    """The run that :func:`check_stored` has let pass."""
    order, counters = stored["order_state"], {name: stored[name] for name in _COUNTERS}
    counters |= {name: float(stored[name]) for name in ("cost_sum", "seconds")}
    training = Training(
        network,
        **counters,
        optimizer=stored["optimizer"],
        order_state=None if order is None else state_from_json(order),
        history=_history_from_array(tensors["history"]),
    )
    for name in ("state", "best", "last"):
        if name in tensors:
            with network.backend.device():
                array = network.backend.asarray(tensors[name])
            setattr(network.parameters if name == "state" else training, name, array)
    return training
