"""What a checkpoint may hold: every value's type, length and range, checked before anything is made
of it. What is written passes the same check, so that all that was saved can be loaded.

A bit generator believes what it is given, and reads memory that is not its own from a position out
of range: so its state is described here completely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from .classes import check_classes, check_inputs, check_targets
from .history import Epoch
from .optimizer import OPTIMIZERS, from_description
from .printable import brief

Array = np.ndarray[Any, Any]
_MOST = 2**63 - 1
_HEADER = ("format", "sizes", "activations", "cost", "dtype", "rng", "training")
_NAMES = ("classes", "inputs", "targets")  # absent from older files
_FIGURES = len(fields(Epoch))
_LONGEST_TEXT, _MOST_SETTINGS = 20_000, 64
_LARGEST = float(np.finfo(np.float64).max)
_NOT_FINITE = ("inf", "-inf", "nan")  # which JSON has no numbers for


def _refuse(where: str, value: object, wanted: str) -> NoReturn:
    raise ValueError(f"{where} = {brief(value)}, not {wanted}")


def _integer(low: int, high: int) -> Callable[[Any, str], Any]:
    def check(value: Any, where: str) -> Any:
        # JSON's true is an int to isinstance, and no number is one.
        if type(value) is not int or not low <= value <= high:
            _refuse(where, value, f"an integer from {low} to {high}")
        return value

    return check


def _odd(value: Any, where: str) -> Any:
    if not _integer(0, 2**128 - 1)(value, where) % 2:
        _refuse(where, value, "odd")
    return value


def _words(count: int, dtype: str) -> Callable[[Any, str], Array]:
    word = _integer(0, int(np.iinfo(dtype).max))

    def check(value: Any, where: str) -> Array:
        keyed(value, ("array", "dtype"), where)
        values = value["array"]
        if value["dtype"] != dtype or not isinstance(values, list) or len(values) != count:
            _refuse(where, value, f"{count} numbers of {dtype}")
        return np.array([word(v, f"{where}[{i}]") for i, v in enumerate(values)], dtype)

    return check


_HALF = {"has_uint32": _integer(0, 1), "uinteger": _integer(0, 2**32 - 1)}
_PCG = {"state": {"state": _integer(0, 2**128 - 1), "inc": _odd}, **_HALF}
_STATES: dict[str, dict[str, Any]] = {
    "PCG64": _PCG,
    "PCG64DXSM": _PCG,
    "MT19937": {"state": {"key": _words(624, "uint32"), "pos": _integer(0, 624)}},
    "Philox": {
        "state": {"counter": _words(4, "uint64"), "key": _words(2, "uint64")},
        "buffer": _words(4, "uint64"), "buffer_pos": _integer(0, 4), **_HALF,
    },
    "SFC64": {"state": {"state": _words(4, "uint64")}, **_HALF},
}  # fmt: skip
GENERATORS = tuple(_STATES)


def keyed(value: Any, keys: Sequence[str], where: str) -> None:
    """Refuse what is not an object of exactly these keys."""
    if not isinstance(value, dict):
        _refuse(where, value, "an object")
    for key in keys:
        if key not in value:
            raise ValueError(f"no {key} in {where}")
    if more := value.keys() - set(keys):
        raise ValueError(f"{where} with an unknown {brief(min(more))}")


def state_to_json(state: Any) -> Any:
    """A bit generator's state without NumPy's types."""
    if isinstance(state, Mapping):
        return {key: state_to_json(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"array": state.tolist(), "dtype": state.dtype.name}
    return int(state) if isinstance(state, np.integer) else state


def state_from_json(stored: Any, where: str = "rng") -> dict[str, Any]:
    """The state, which its bit generator will take, or ``ValueError``."""
    name = stored.get("bit_generator") if isinstance(stored, dict) else None
    if not isinstance(name, str) or name not in _STATES:
        _refuse(f"{where}.bit_generator", name, f"one of {', '.join(_STATES)}")

    def read(value: Any, form: Any, where: str) -> Any:
        if callable(form):
            return form(value, where)
        keyed(value, tuple(form), where)
        return {key: read(value[key], form[key], f"{where}.{key}") for key in form}

    return dict(read(stored, {"bit_generator": lambda value, _: value, **_STATES[name]}, where))


def _number(value: Any, where: str, low: float, wanted: str, below: float = math.inf) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.nan
    if not low <= number < below:
        _refuse(where, value, wanted)
    return number


def sum_to_json(total: float) -> float | str:
    """A sum of costs as JSON has it, also one beyond the largest number."""
    return total if math.isfinite(total) else str(total)


def sum_from_json(stored: Any) -> float:
    """The sum, of either sign: a cost of one's own may well be negative."""
    if isinstance(stored, str) and stored in _NOT_FINITE:
        return float(stored)
    return _number(stored, "training.cost_sum", -math.inf, "a number")


def check_stored(header: Any, tensors: Mapping[str, Array]) -> None:
    """``ValueError``, in one sentence, where these are not a network as it is saved: all but the
    formulas, which the language itself checks."""
    names = [key for key in _NAMES if key in header]
    keyed(header, (*_HEADER, *names), "the header")
    sizes, dtype, activations = header["sizes"], header["dtype"], header["activations"]
    if not isinstance(sizes, list) or len(sizes) < 2:
        _refuse("sizes", sizes, "a list of two or more")
    for i, n in enumerate(sizes):
        _integer(1, _MOST)(n, f"sizes[{i}]")
    if dtype not in ("float32", "float64"):
        _refuse("dtype", dtype, "float32 or float64")
    if len(tensors) < 2 * (len(sizes) - 1):  # before a name is made for each of them
        raise ValueError(f"{len(tensors)} tensors for a network of {len(sizes)} layers")
    if not isinstance(activations, list) or len(activations) != len(sizes) - 1:
        _refuse("activations", activations, f"a list of {len(sizes) - 1}")
    check_classes(header.get("classes"), sizes[-1])
    check_inputs(header.get("inputs"), sizes[0])
    check_targets(header.get("targets"), sizes[-1])
    state_from_json(header["rng"])
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        shapes |= {f"weights.{i}": (n_out, n_in), f"biases.{i}": (n_out,)}
    flat = (sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes)),)
    training = header["training"]
    if training is not None:
        _check_training(training, header["rng"]["bit_generator"])
        kept = check_optimizer(training["optimizer"])
        if kept is None:  # of an optimizer of one's own, as many as there are
            kept = len(np.atleast_1d(tensors["state"])) if "state" in tensors else 0
        if kept:
            shapes["state"] = (kept, *flat)
        if "last" in tensors:
            shapes["last"] = flat
        if "best" in tensors or "last" in tensors:  # which are kept when best is restored
            shapes["best"] = flat
        _check_history(tensors.get("history"), training["epoch"])
    if unknown := tensors.keys() - shapes.keys() - ({"history"} if training is not None else set()):
        raise ValueError(f"a tensor {brief(min(unknown))} that nothing asks for")
    for name, shape in shapes.items():
        _check_tensor(name, tensors.get(name), shape, dtype)


def with_velocity(header: Any, tensors: dict[str, Array]) -> None:
    """The training of a file from before there were optimizers, in the present form: it was SGD's,
    with that momentum; whether with Nesterov's is not said."""
    training = header.get("training")
    if not isinstance(training, dict) or "momentum" not in training or "optimizer" in training:
        return
    momentum = training.pop("momentum")
    training["optimizer"] = {"name": "sgd", "settings": {"momentum": momentum}}
    velocity = tensors.pop("velocity", None)
    if velocity is not None:
        tensors["state"] = velocity[np.newaxis]


def check_optimizer(stored: Any) -> int | None:
    """How many arrays the optimizer's state has; None of one that is not built in."""
    where = "training.optimizer"
    formulas = ("formulas",) if isinstance(stored, dict) and "formulas" in stored else ()
    keyed(stored, ("name", "settings", *formulas), where)
    for key in ("name", *formulas):
        if not isinstance(stored[key], str) or len(stored[key]) > _LONGEST_TEXT:
            _refuse(f"{where}.{key}", stored[key], f"at most {_LONGEST_TEXT} characters")
    settings = stored["settings"]
    if not isinstance(settings, dict) or len(settings) > _MOST_SETTINGS:
        _refuse(f"{where}.settings", settings, f"an object of at most {_MOST_SETTINGS} numbers")
    for name, value in settings.items():
        if type(value) is not bool:
            _number(value, f"{where}.settings.{brief(name)}", -_LARGEST, "a finite number")
    if stored["name"] in OPTIMIZERS and formulas:
        raise ValueError(f"{where} {stored['name']!r} with formulas of its own")
    try:
        optimizer = from_description(stored)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {brief(str(error))}") from None
    if optimizer is None and not formulas:
        _refuse(f"{where}.name", stored["name"], f"one of {', '.join(OPTIMIZERS)}")
    return None if optimizer is None else len(optimizer.rule.state)


def _check_tensor(name: str, tensor: Array | None, shape: tuple[int, ...], dtype: str) -> None:
    if tensor is None:
        raise ValueError(f"no {name}")
    if tensor.dtype.name != dtype:
        raise ValueError(f"{name} of {tensor.dtype.name} in a network of {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} of shape {brief(tensor.shape)}, not {brief(shape)}")
    with np.errstate(invalid="ignore"):
        finite = math.isfinite(tensor.min()) and math.isfinite(tensor.max())  # without a copy
    if not finite:
        at = np.unravel_index(int(np.argmin(np.isfinite(tensor))), shape)
        place = ", ".join(map(str, at))
        raise ValueError(f"{name} holds {tensor[at]} at [{place}]: no network computes with that")


def _check_training(stored: Any, generator: str) -> None:
    names = ("examples", "batch_size", "optimizer", "epochs", "epoch", "step", "cost_sum",
             "seconds", "best_after", "stopped", "order_state")  # fmt: skip
    keyed(stored, names, "training")

    def within(name: str, low: int, high: int) -> int:
        return int(_integer(low, high)(stored[name], f"training.{name}"))

    examples = within("examples", 1, _MOST)
    batch_size = within("batch_size", 1, examples)
    within("epochs", 0, _MOST)
    epoch = within("epoch", 0, _MOST)
    step = within("step", 0, -(-examples // batch_size))
    within("best_after", 0, epoch)
    seconds = _number(
        stored["seconds"], "training.seconds", 0, "a finite number that is not negative"
    )
    cost_sum = sum_from_json(stored["cost_sum"])
    if (seconds or cost_sum) and not step:
        raise ValueError("seconds or costs of an epoch that has not begun")
    if type(stored["stopped"]) is not bool:
        _refuse("training.stopped", stored["stopped"], "true or false")
    if (order := stored["order_state"]) is not None:
        state_from_json(order, "training.order_state")
        if order["bit_generator"] != generator:
            raise ValueError(f"an order drawn by {order['bit_generator']}, but rng is {generator}")
    elif step:
        raise ValueError(f"step {step} of an epoch whose order was never drawn")


def _check_history(history: Array | None, epoch: int) -> None:
    """A row an epoch: its figures, then for each whether it is there."""
    if history is None:
        raise ValueError("no history")
    if history.dtype != np.float64 or history.shape != (epoch, 2 * _FIGURES):
        raise ValueError(
            f"history of {history.dtype} and shape {brief(history.shape)} after {epoch} epochs, "
            f"not float64 of ({epoch}, {2 * _FIGURES})"
        )
    if not epoch:
        return
    figures, there = history[:, :_FIGURES], history[:, _FIGURES:]
    _, _, seconds, rate, _, accuracy = figures.T
    with np.errstate(invalid="ignore"):  # a cost may be anything
        wrong = {
            "marks of what is there": (there != 0) & (there != 1) | (there != 1)
            & (np.arange(_FIGURES) < 4),
            "number of the epoch": figures[:, 0] != np.arange(epoch),
            "seconds": ~((seconds >= 0) & (seconds < math.inf)),
            "learning rate": ~((rate >= 0) & (rate < math.inf)),
            "accuracy": ~((accuracy >= 0) & (accuracy <= 1)),
        }  # fmt: skip
    for what, rows in wrong.items():
        rows = rows.reshape(epoch, -1).any(axis=1)
        if rows.any():
            raise ValueError(f"a wrong {what} in row {int(rows.argmax())} of the history")
