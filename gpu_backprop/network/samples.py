"""Samples: x, targets and weights from outside, checked against the network and the loss before anything is done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_backprop.backend.communicator import ALONE, Communicator
from gpu_backprop.backend.device import Device, cuda_place
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.network.arrays import (
    REAL,
    as_array,
    blocks,
    check_features,
    check_finite,
    check_real,
    host_array,
    memory_map,
    on_host,
    search,
)
from gpu_backprop.network.frames import only_column
from gpu_backprop.network.labels import Classes, number_labels, read_text
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive

MOST_CLASSES = 2**31
"""More than any memory holds a row of: a label beyond it is a mistake."""


@dataclass(frozen=True)
class Samples:
    """x, target and weights, each on the host or on the network's device, of the right shapes and kinds:
    (..., rows, inputs), (..., rows, outputs) or labels (..., rows), and (..., rows) or None; of rows that all members
    share, weights may be each member's own, (models, rows). Where only some of these rows are meant, `chosen` has their
    places, int64 on the host: (rows,), or (models, rows) where each member has rows of its own. `counts` then says how
    many, (models,): what lies behind is the same ones over again, and counts nothing where there are weights. Where
    targets were labels of text, `names` has those of the classes that they are the numbers of."""

    x: Array
    target: Array
    weights: Array | None
    chosen: Array | None = None
    counts: Array | None = None
    names: Classes | None = None

    @property
    def row_counts(self) -> int | Array:
        """How many rows there are, or of each member its own."""
        return self.rows if self.counts is None else self.counts

    def on_host(self, device: Device) -> Samples:
        """Returns the same in NumPy arrays; `device` is the network's."""
        weights = None if self.weights is None else on_host(self.weights, device)
        return replace(self, x=on_host(self.x, device), target=on_host(self.target, device), weights=weights)

    def take(self, chosen: Array, device: Device) -> Samples:
        """Returns some of the rows: copies of them, or, of what a file holds, which may be more than memory does, their
        places."""
        arrays = self.x, self.target, self.weights
        if any(isinstance(array, LazyRows) or memory_map(array) is not None for array in arrays):
            return replace(self, chosen=chosen)
        with device.current():
            x, target, weights = (
                None if array is None else array[chosen if isinstance(array, np.ndarray) else device.from_host(chosen)]
                for array in arrays
            )
        assert x is not None and target is not None
        return Samples(x, target, weights)

    def classes(self, device: Device) -> Array | None:
        """Returns the class of each row, (all rows,) on the host. None where targets are no classes: they are where
        they are labels, where each row is a 1 among 0s, and where the only output is 0 or 1."""
        if self.labelled:
            return on_host(self.target, device)
        found = []
        with device.current():
            for _, part in blocks(self.target):
                ones, several = part == 1, part.shape[-1] > 1
                if ((part != 0) & ~ones).any() or (several and (ones.sum(axis=-1) != 1).any()):
                    return None
                found.append(on_host(ones.argmax(axis=-1) if several else ones[..., 0].astype(np.int64), device))
        return np.concatenate(found)

    def places(self) -> list[Array | None]:
        """Returns where the rows are, without those that are there again: of each member, where members have rows of
        their own, else of all together; None: all are meant."""
        if self.chosen is None or self.counts is None:
            return [self.chosen]
        return [places[:count] for places, count in zip(self.chosen, self.counts, strict=True)]

    @property
    def rows(self) -> int:
        return int(self.x.shape[-2]) if self.chosen is None else int(self.chosen.shape[-1])

    @property
    def weighs_apart(self) -> bool:
        """Whether each member has weights of its own for rows that all share."""
        return self.weights is not None and self.weights.ndim > self.x.ndim - 1

    @property
    def labelled(self) -> bool:
        """Whether the targets are class labels."""
        return self.target.ndim < self.x.ndim


def samples(
    network: Network, loss: Loss, x: Any, y: Any, weights: Any, *, values: bool, per_member: bool = False,
    idle: bool = True, learn: bool = False, apart: bool = False, names: Classes | None = None,
    communicator: Communicator = ALONE,
) -> Samples:  # fmt: skip
    """Checks what a user gave, shapes and kinds always, the values if asked to, and returns it as Samples.

    Args:
        values: whether NaN, infinity, label range and the like are looked for.
        per_member: whether x may have the models axis, and each member then its own rows; else all share them.
        idle: whether all weights may be 0; without `values` they may.
        learn: whether labels of text tell the names of the classes, where the network has none.
        apart: whether each member may have weights of its own, (models, rows).
        names: those of the classes; None: `network.classes`.
        communicator: of ranks that share out the values of x among them, and tell each other what they find wrong.
    """
    device, given = network.device, x
    with device.current():
        x = check_features(x, network.inputs, device, (), network.models_shape if per_member else ())
        if (text := read_text(y)) is None:
            names = None
        else:
            known = network.classes if names is None else names
            _check_rows(text.shape, x.shape)
            y, names = number_labels(text, network.last, known, loss.labels, learn)
        target = _target(network, loss, _numbers(y, "y", device), x.shape, values)
        if weights is not None:
            weights = _numbers(weights, "weights", device)
            of_each = (*network.models_shape, *x.shape[:-1]) if apart else x.shape[:-1]
            if weights.shape not in (x.shape[:-1], of_each):
                or_each = "" if of_each == x.shape[:-1] else f", or of each member, {of_each}"
                shape = f"of shape {x.shape[:-1]}{or_each}"
                raise InputError(f"weights must be one number a row, {shape}, got the shape {weights.shape}.")
        if values:
            check_finite(x, "x", network.dtype, given, communicator)
            if weights is not None:
                check_finite(weights, "weights", device.master if loss.reduction == "sum" else np.float64)
                check_bounds(weights, "weights", 0.0, np.inf)
        if weights is not None:
            if loss.reduction == "mean":
                weights = _relative(weights, device, values)
            if values and not idle and not weights.any(axis=-1).all():
                raise InputError("all weights are 0, so that no row counts. Give a weight > 0 to those that should.")
        return Samples(x, target, weights, names=names)


def _relative(weights: Array, device: Device, values: bool) -> Array:
    """Returns the weights of a mean, where only their ratios count: as they are if the largest has a usual size, else
    divided by it, because float32 holds neither 1e40 nor 1e-40."""
    xp: Any = np if isinstance(weights, np.ndarray) else device.xp
    with np.errstate(all="ignore"):  # NaN shows in the loss
        wide = weights.astype(np.float64)
        largest = wide.max(axis=-1, keepdims=True)
        parts = wide / xp.where((largest == 0) | ((largest > 1e-6) & (largest < 1e6)), 1.0, largest)
        if values and ((wide > 0) & (parts < float(np.finfo(device.master).tiny))).any():
            raise InputError(
                f"weights must not be further apart than {device.master} numbers are, but the largest is "
                f"{wide.max():g}, and the smallest above 0 {wide[wide > 0].min():g}. Give rows that do not count the "
                "weight 0."
            )
    relative: Array = parts.astype(device.master)
    return relative


def _numbers(value: Any, name: str, device: Device) -> Array:
    array = check_real(as_array(only_column(value), name, device), name)
    return array if array.dtype.kind in REAL else array.astype(np.float32)  # bfloat16 cannot be compared


def _target(network: Network, loss: Loss, y: Array, x_shape: tuple[int, ...], values: bool) -> Array:
    """Returns the target in one of its two forms: labels as int64, (..., rows), or numbers, (..., rows, outputs)."""
    *rows, outputs = *x_shape[:-1], network.outputs
    _check_rows(y.shape, x_shape)
    if y.ndim == len(rows):
        if loss.labels:
            return check_labels(y, outputs, f", because the network has {outputs} outputs", values)
        if outputs == 1:
            y = y[..., None]
    if y.shape != (*rows, outputs):
        hint = "Give one column for each output."
        if y.ndim == len(rows) and y.dtype.kind in "iub":
            hint = f"Class labels become targets by gpu_backprop.one_hot(y, {outputs})."
        elif loss.labels and y.shape == (*rows, 1):
            hint = "Labels are one axis less: y.ravel()."
        raise InputError(f"y must be {(*rows, outputs)} for a network with {outputs} outputs, got {y.shape}. {hint}")
    if values:
        check_finite(y, "y", network.device.master)
        check_bounds(y, "y", loss.low, loss.high, f" for {loss.name}")
        if loss.labels:
            _check_probabilities(y)
    return y


def _check_rows(shape: tuple[int, ...], x_shape: tuple[int, ...]) -> None:
    """Raises InputError unless y of this shape has the rows of x."""
    rows = x_shape[:-1]
    if shape[: len(rows)] != rows:
        raise InputError(f"y must have one target for each row of x, got y of shape {shape}, x of shape {x_shape}.")


def check_labels(y: Array, classes: int, why: str, values: bool) -> Array:
    """Returns class labels as int64."""
    if y.dtype.kind in "iu" and y.dtype.itemsize < 8:  # so that any number of classes can be compared with
        y = y.astype(np.int64)
    if y.dtype.kind == "f":
        if not values:
            raise InputError(f"labels must be integers, got dtype {y.dtype}; use y.astype(int).")
        check_finite(y, "the labels")
        fractional, label, where = search(y, lambda part: part != np.floor(part))
        if fractional:
            raise InputError(f"labels must be whole numbers, but there is {label.item()!r} at {where}.")
    if values:
        check_bounds(y, "labels", 0, classes - 1, why, " np.unique(y, return_inverse=True) numbers others from 0 on.")
    return y.astype(np.int64, copy=False)


def check_bounds(array: Array, name: str, low: float, high: float, why: str = "", hint: str = "") -> None:
    """Raises InputError if a value lies outside of bounds; `why` says where they are from, `hint` what helps."""
    wrong, value, where = search(array, lambda part: (part < low) | (part > high))
    if wrong:
        bounds = f"≥ {low:g}" if high == np.inf else f"from {low:g} to {high:.15g}"
        found = f"there is {value.item()!r} at {where} ({wrong} such in all)"
        raise InputError(f"{name} must be {bounds}{why}, but {found}.{hint}")


def _check_probabilities(y: Array) -> None:
    wrong, row, where = search(y, lambda part: np.abs(part.sum(axis=-1, dtype=np.float64) - 1) > 1e-3)
    if wrong:
        total = row.sum(dtype=np.float64).item()
        raise InputError(
            f"the probabilities in a row of y must add up to 1, but {where} adds up to {total:g}. "
            "Class labels are one integer a row; yes-or-no targets want binary_cross_entropy."
        )


@explain_arguments
def one_hot(labels: Any, classes: int | None = None) -> Array:
    """Writes class labels as rows of a matrix: 1 in the column of the label, else 0.

    Args:
        labels: integers ≥ 0, (rows,).
        classes: how many columns; None: the largest label + 1.

    Returns:
        float64 (rows, classes).
    """
    if (there := cuda_place(labels)) is not None:
        raise InputError(f"labels lie on {there}, but one_hot works on the host: give a copy there, labels.get().")
    labels = check_real(host_array(labels, "labels"), "labels")
    if labels.ndim != 1:
        raise InputError(f"labels must have one axis, (rows,), got the shape {labels.shape}.")
    if classes is None:
        labels = check_labels(labels, MOST_CLASSES, "", values=True)
        classes = int(labels.max(initial=0)) + 1
    else:
        labels = check_labels(labels, positive("classes", classes), f", because classes={classes}", values=True)
    matrix = np.zeros((len(labels), classes))
    matrix[np.arange(len(labels)), labels] = 1
    return matrix
