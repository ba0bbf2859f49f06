"""Labels that are text: read from lists, arrays and columns of data frames, and numbered by the classes' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import first, place
from gpu_backprop.network.frames import column_values, is_frame, is_missing, only_column
from gpu_backprop.network.layer import Layer

Classes = Sequence[str | int]
MOST = 20
"""Names that a message shows."""


def read_text(y: Any) -> Array | None:
    """Returns labels that are text as an object array of str, or None where y is something else.

    Raises:
        InputError: some of the labels are text, and others are missing or something else.
    """
    y = only_column(y)
    if isinstance(y, (list, tuple)):
        values: Array = np.array(y, object) if any(isinstance(cell, str) for cell in y) else np.zeros(0)
    elif isinstance(y, np.ndarray):
        values = y
    elif hasattr(y, "to_numpy") and not is_frame(y):
        values = column_values(y)
    else:
        return None
    if values.dtype.kind == "U":
        return values.astype(object)
    if values.dtype.kind not in "OT":
        return None
    cells = values.ravel().tolist()
    if not any(isinstance(cell, str) for cell in cells):
        return None
    for what, wrong in {
        "missing": [is_missing(cell) or cell != cell for cell in cells],
        "no text, and others are": [not isinstance(cell, str) for cell in cells],
    }.items():
        if any(wrong):
            where = first(np.reshape(wrong, values.shape))
            some = f"{sum(wrong)} labels in y are" if sum(wrong) > 1 else "1 label in y is"
            raise InputError(
                f"{some} {what}; the first one is {values[where]!r} at {place(where)}. Take these rows out, or correct "
                "them."
            )
    return np.reshape(np.array([str(cell) for cell in cells], object), values.shape)


def number_labels(
    text: Array, last: Layer, names: Classes | None, for_classes: bool, learn: bool
) -> tuple[Array, Classes]:
    """Returns labels as the numbers of their classes, int64, and the names of these.

    Args:
        text: as `read_text` returns it.
        last: the network's last layer.
        names: those of the classes; None: they are not known.
        for_classes: whether the loss takes labels.
        learn: whether names that are not known are the different labels, sorted.

    Raises:
        InputError: the network has not as many outputs, or a label is none of the classes.
    """
    outputs, sigmoid = last.units, last.activation.name == "sigmoid" and last.units == 1
    if not for_classes and not sigmoid:
        raise InputError(
            f"y holds text, such as {text.flat[0]!r}, and text is for classes: an output for each with softmax and "
            "cross_entropy, or one sigmoid output for two. Give numbers for other networks and losses."
        )
    several = 2 if sigmoid else outputs
    if names is None and not learn:
        raise InputError(
            "y holds text, and the network does not know which output stands for which label: fit learns it, or set "
            "net.classes to their names, in the order of the outputs."
        )
    if names is None:
        names = sorted(set(text.ravel().tolist()))
        if len(names) != several:
            fewer = " If some classes are not among these rows, set net.classes to the names of all."
            raise InputError(
                f"y has {len(names)} different labels, {_listed(names)}, but the network tells {several} classes "
                f"apart. Let Dense({len(names)}, 'softmax') be its last layer.{fewer if len(names) < several else ''}"
            )
    check_names(names, several)
    names = [name.item() if isinstance(name, np.generic) else name for name in names]
    numbers = {name: number for number, name in enumerate(names)}
    found = np.array([numbers.get(cell, -1) for cell in text.ravel().tolist()], np.int64).reshape(text.shape)
    if (found < 0).any():
        where = first(found < 0)
        raise InputError(
            f"y holds the label {text[where]!r} at {place(where)}, which is none of the network's classes: "
            f"{_listed(names)}. Correct it, or take such rows out; net.classes = None lets the next fit learn the "
            "classes anew."
        )
    return found, names


def class_of(y: Array, last: Layer, names: Classes | None) -> Array:
    """Returns the class of each row, (...,), its name where these are known, of outputs (..., outputs).

    Raises:
        StateError: the outputs do not tell one class.
        InputError: there are more names than classes, or fewer.
    """
    activation, outputs = last.activation.name, last.units
    if activation == "sigmoid" and outputs == 1:
        numbers: Array = (y[..., 0] >= 0.5).astype(np.int64)
    elif activation == "softmax":
        numbers = y.argmax(axis=-1)
    else:
        several = f"each of its {outputs} sigmoid outputs is a yes or no of its own: use net.predict(x) >= 0.5"
        raise StateError(
            "predict_labels is for one class a row, as softmax or one sigmoid output tells it, and "
            + (several if activation == "sigmoid" else f"this network ends in {activation}: use net.predict(x)")
            + "."
        )
    if names is None:
        return numbers
    check_names(names, max(2, outputs))
    named: Array = np.asarray(names)[numbers]
    return named


def check_names(names: Classes, several: int) -> None:
    """Raises InputError unless there are so many names."""
    if len(names) != several:
        raise InputError(
            f"net.classes has {len(names)} names, {_listed(names)}, and the network tells {several} classes apart: "
            "give each of them a name."
        )


def _listed(names: Classes) -> str:
    return ", ".join(repr(name) for name in list(names)[:MOST]) + (" …" if len(names) > MOST else "")
