"""Folds: each member of a network holds out other rows, so that all rows are learned from and all are scored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import LOSS, Array
from gpu_backprop.backend.lazy_rows import HOST
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.data import stratified_folds
from gpu_backprop.network.arrays import as_array, blocks, loaded, on_host
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.metrics import LABELS, Given, Residuals, Scores, choose_metrics, tasks_of
from gpu_backprop.training.streaming import in_windows

BLOCK = 1 << 14
"""Rows whose outputs are worked out, or measured, at a time."""


def choose_folds(given: Any, network: Network, data: Samples, seed: int) -> Array:
    """Returns the fold of each row, int64 (rows,), from what `fit` was given: their number, or the very folds."""
    if not network.models_shape:
        raise InputError(
            "folds are for a network with a models axis, whose members hold out a fold each: make it with a list of "
            "seeds, Network(..., seed=range(8))."
        )
    if data.counts is not None:
        raise InputError("folds and rows both say what each member learns from. Give one of the two.")
    if in_windows(data):
        raise InputError("folds are for data that fit in memory, and these are read from disk in windows.")
    (members,) = network.models_shape
    if np.ndim(given) == 0:
        if positive("folds", given) != members:
            raise InputError(f"folds={given}, but the network has {members} members: give as many folds, one a member.")
        classes = data.classes(network.device)
        try:
            return stratified_folds(np.zeros(data.rows) if classes is None else classes, members, seed)
        except ValueError as error:
            raise InputError(f"folds={given}: {error}.") from None
    folds = on_host(as_array(given, "folds", network.device), network.device)
    if folds.shape != (data.rows,) or folds.dtype.kind not in "iu":
        raise InputError(
            f"folds must be the number of folds, or an integer for each of the {data.rows:,} rows, got an array of "
            f"{folds.dtype} of the shape {folds.shape}."
        )
    if not np.array_equal(np.unique(folds), np.arange(members)) or members < 2:
        raise InputError(
            f"folds must be numbers from 0 to {members - 1}, each of which some rows have, for the network has "
            f"{members} members; there are {', '.join(map(str, np.unique(folds)[:20]))}."
        )
    return folds.astype(np.int64)


def are_folds(held_out: Samples | None) -> bool:
    """Tells whether each row is held out by one member."""
    if held_out is None or held_out.counts is None:
        return False
    places = np.concatenate([rows for rows in held_out.places() if rows is not None])
    return bool((np.bincount(places, minlength=len(held_out.x)) == 1).all())


def predict_out_of_fold(network: Network, held_out: Samples) -> Array:
    """Returns the outputs for each row of the member that has not learned from it, (rows, outputs), on the host."""
    chosen = held_out.chosen
    if chosen is None or not are_folds(held_out):
        raise InputError("not every row is held out by one member, as this needs: give folds= in place of rows=.")
    y = np.empty((held_out.x.shape[0], network.outputs), network.device.master)
    for start in range(0, chosen.shape[1], BLOCK):
        places = chosen[:, start : start + BLOCK]
        x = rows_at(held_out.x, places.ravel(), network.device)
        y[places] = network.predict_members(x.reshape(*places.shape, -1))
    return y


def rows_at(array: Array, places: Array, device: Device) -> Array:
    """Returns the rows at some places, where the array lies."""
    rows: Array = loaded(array, places) if isinstance(array, HOST) else array[device.from_host(places)]
    return rows


def predict_mean(network: Network, x: Array) -> Array:
    """Returns what an averaged network predicts for x, which may be a file."""
    return np.concatenate([network.predict(part) for _, part in blocks(x)])


def measure_outputs(
    network: Network, loss: Loss, metrics: Sequence[Given] | None, y: Array, data: Samples, rows: Array | None = None
) -> dict[str, float]:
    """Measures outputs that are known, on the host: the loss and metrics, by name, as an Evaluation does those that it
    works out. So the loss of a mean is that of the mean, and not a mean of losses.

    Args:
        y: of all rows that data have, (rows, outputs).
        data: on the host.
        rows: which of them count; None: all.
    """
    some = slice(None) if rows is None else rows
    y, target, weights = y[some], data.target[some], None if data.weights is None else data.weights[some]
    measured = {"loss": _loss_of(loss, y, target, weights)}
    several, q = LABELS in tasks_of(network, loss), getattr(loss, "q", None)
    scores = Scores(np, y, target, weights, multi_label=several, quantile=q)
    for metric in choose_metrics(metrics, network, loss):
        if metric.of_sums is not None:
            measured[metric.name] = float(metric.of_sums(Residuals.of(y, target, weights)))
        else:
            measured[metric.name] = value = metric.value(scores)
            if rows is None and math.isnan(value) and metric.undefined:
                warnings.warn(f"{metric.name} is NaN: {metric.undefined}.", RuntimeWarning, stacklevel=4)
    return measured


def _loss_of(loss: Loss, y: Array, target: Array, weights: Array | None) -> float:
    """Returns the loss of outputs, in float64."""
    device, total = open_device("cpu", "float64"), np.zeros(3)
    for start in range(0, len(y), BLOCK):
        some = slice(start, start + BLOCK)
        t, w = target[some], None if weights is None else weights[some].astype(np.float64)
        t = t if t.ndim == 1 else t.astype(np.float64)
        calls = device.ops.loss_gradient(
            device, y[some].astype(np.float64), t, w, loss.formula, loss.rows(()), 1.0, None, None, total
        )
        for call in device.sequence(calls):
            call()
    weight = len(y) if weights is None else weights.sum(dtype=np.float64)
    return float(total[LOSS] if loss.reduction == "sum" else total[LOSS] / weight)
