"""The names of classes, inputs and targets: what may be one, and how the labels of a file follow
those of a network."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

_LONGEST = 200  # characters: a name stands in tables and sentences


def name_fault(name: str) -> str | None:
    """What keeps a text from naming a class, or None: it is printed to terminals as it stands."""
    if not name.strip():
        return "an empty name"
    if len(name) > _LONGEST:
        return f"{len(name)} characters (a name has at most {_LONGEST})"
    if any(unicodedata.category(character)[0] == "C" for character in name):
        return f"{name[:40]!a}, with characters that are not printed"
    return None


def check_classes(classes: Any, outputs: int) -> tuple[str, ...] | None:
    """``classes`` as a tuple of different names, one an output (of one output, two); ``ValueError``
    in one sentence where it cannot be."""
    if classes is None:
        return None
    if hasattr(classes, "tolist"):  # an array, as np.unique gives, or an index of pandas
        classes = classes.tolist()
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes={ascii(classes)[:60]} must be a list of names")
    names = tuple(classes)
    for i, name in enumerate(names):
        if fault := name_fault(name):
            raise ValueError(f"the name of class {i} is {fault}")
    if len(set(names)) < len(names):
        raise ValueError("two classes have the same name")
    spelt: dict[str, str] = {}
    for name in names:
        other = spelt.setdefault(" ".join(name.split()), name)
        if other != name:
            alike = " ".join(name.split())  # the command line shows no others
            raise ValueError(
                f"the names of two classes, {alike!r}, differ in spaces alone: spell them alike"
            )
    if not 1 <= len(names) <= max(2, outputs):
        raise ValueError(f"{len(names)} names of classes for {outputs} outputs")
    return names


def class_name(classes: Sequence[str] | None, label: int) -> str:
    """The name of the class, or its number where it has none."""
    return classes[label] if classes is not None and label < len(classes) else str(label)


def match_labels(
    y: np.ndarray[Any, Any], found: Sequence[str] | None, known: Sequence[str] | None, data: str,
    net: str,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """The labels y, numbered by the names ``found`` in the data, as the network ``net`` numbers
    its classes, ``known``; unchanged where either has no names."""
    if found is None or known is None or found == known:
        return y
    place = {name: label for label, name in enumerate(known)}
    unknown = [name for name in found if name not in place]
    if unknown:
        raise ValueError(
            f"{data} has the class {unknown[0]!r}, which {net} does not know: its classes are "
            f"{', '.join(known[:10])}{', ...' * (len(known) > 10)}"
        )
    return np.asarray(np.array([place[name] for name in found], np.int64)[y])


def check_inputs(inputs: Any, count: int) -> tuple[str, ...] | None:
    """``inputs`` as a tuple of different names, one an input; ``ValueError`` in one sentence where
    it cannot be."""
    if inputs is None:
        return None
    names = _listed(inputs, "inputs")
    if len(names) != count:
        raise ValueError(f"{len(names)} names of inputs for {count} inputs")
    return _different(names, "input")


def check_targets(targets: Any, outputs: int) -> tuple[str, ...] | None:
    """``targets`` as a tuple of different names, of the column of labels or of one an output;
    ``ValueError`` in one sentence where it cannot be."""
    if targets is None:
        return None
    names = _listed(targets, "targets")
    if len(names) not in (1, outputs):
        raise ValueError(f"{len(names)} names of targets for {outputs} outputs")
    return _different(names, "target")


def _listed(names: Any, what: str) -> list[str] | tuple[str, ...]:
    if hasattr(names, "tolist"):
        names = names.tolist()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}={ascii(names)[:60]} must be a list of names")
    return names


def _different(names: Sequence[str], what: str) -> tuple[str, ...]:
    for i, name in enumerate(names):
        if fault := name_fault(name):
            raise ValueError(f"the name of {what} {i} is {fault}")
    if len(set(names)) < len(names):
        raise ValueError(f"two {what}s have the same name")
    return tuple(names)
