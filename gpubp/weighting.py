"""The weights of examples: of each its own, of its class, or both multiplied.

With weights s_i the cost of a mini-batch is sum_i s_i C_i / sum_i s_i, as in scikit-learn since
1.7: whole numbers count as repeated rows do, and 0 as absence. Penalties are beside it, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from .arrays import as_array, check_count, check_number, classes_of, module_of, names_classes
from .printable import brief

ClassWeight = Mapping[int, float] | str | None


def check_weights(xp: ModuleType, sample_weight: Any, n: int, name: str = "sample_weight") -> Any:
    """(n,) float64 on the host, of finite numbers that are not negative, not all 0; or None."""
    if sample_weight is None:
        return None
    given = as_array(xp, sample_weight, name)
    weights = np.asarray(given if isinstance(given, np.ndarray) else given.get(), np.float64)
    if weights.shape != (n,):
        raise ValueError(f"{name} has shape {weights.shape}, but must be one number an example: "
                         f"({n},)")  # fmt: skip
    wrong = ~((weights >= 0) & np.isfinite(weights))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{name} holds {weights[row]:g}, first in row {row}: a weight is a finite number that "
            "is not negative"
        )
    if not weights.any():
        raise ValueError(f"{name} is zero for every example: there is nothing to train on")
    return weights


def class_weights(
    xp: ModuleType, class_weight: ClassWeight, y: Any, outputs: int, rows: Any = None
) -> Any:
    """(n,) float64: of each example of y its class's weight, 1 where ``class_weight`` names none.

    "balanced" is n / (classes * examples of the class), over the examples that ``rows`` names and
    the classes that occur among them.
    """
    if not names_classes(y):
        raise ValueError(
            "class_weight needs classes: y of labels or unit vectors, not of other targets"
        )
    labels = y if y.ndim == 1 else classes_of(module_of(xp, y), y)
    labels = np.asarray(labels if isinstance(labels, np.ndarray) else labels.get())
    classes = max(2, outputs)
    of_class = np.ones(classes)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight={brief(class_weight)} must be 'balanced' or a dict such as "
                "{0: 1.0, 1: 5.0}"
            )
        counts = np.bincount(labels if rows is None else labels[rows], minlength=classes)
        there = counts > 0
        of_class[there] = counts.sum() / (there.sum() * counts[there])
        return of_class[labels]
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight={brief(class_weight)} must be 'balanced' or a dict such as "
            "{0: 1.0, 1: 5.0}"
        )
    for label, weight in class_weight.items():
        try:
            index = check_count(label, "label", least=0)
        except (TypeError, ValueError):
            index = classes
        if index >= classes:
            raise ValueError(
                f"class_weight names the class {brief(label)}, but the labels are 0 to "
                f"{classes - 1}"
            )
        value = check_number(weight, f"class_weight[{label}]")
        if not 0 <= value < np.inf:
            raise ValueError(
                f"class_weight[{label}]={weight!r} must be a finite number that is not negative"
            )
        of_class[index] = value
    return of_class[labels]
