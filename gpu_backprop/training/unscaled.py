"""Numbers that a network learns from slowly or not at all, because they are far from 0 or of another size than 1."""

from __future__ import annotations

import math
import warnings

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.lazy_rows import SparseRows
from gpu_backprop.network.arrays import on_host
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.samples import Samples

LARGE, SMALL = 1e3, 1e-3
"""Beyond which, and below which, a mean or a standard deviation is one of numbers that nobody has scaled."""

ROWS, LEAST, NUMBERS = 1000, 32, 1 << 18
"""How many rows are looked at, evenly spread: at most, at least, and in between so many numbers in all."""

RARE = 10
"""How many standard deviations lie between the least and the largest number of a column that is hardly ever anything
but 0: the deviation then says how rare that is, and not how large. In few rows that does not show: there a column is of
small numbers where more than half are not 0, or all are small."""


def describe_unscaled(data: Samples, loss: Loss, device: Device, prepared: bool) -> str:
    """Says which columns of x or y look as if nobody had scaled them; "" if none does. `prepared`: a preprocessing has
    scaled x, and y too unless the loss gives it a range of its own."""
    bounded = math.isfinite(loss.low)
    with device.current():
        found = [] if prepared else [_described("x", data.x, device)]
        if not data.labelled and math.isinf(loss.high) and (bounded or not prepared):
            found.append(_described("y", data.target, device, small=not bounded))
    return "; ".join(filter(None, found))


def warn_of_unscaled(data: Samples, loss: Loss, device: Device, prepared: bool, stacklevel: int) -> None:
    """Warns once of what `describe_unscaled` says; `stacklevel` as warnings.warn takes it."""
    found = describe_unscaled(data, loss, device, prepared)
    if not found:
        return
    advice = (
        "Train on (v − mean)/std of each column, and do the same to new rows (gpu_backprop.data.Preprocessing does "
        "both, and brings predictions back)"
    )
    if isinstance(data.x, SparseRows) and "x is not scaled" in found:
        advice = (
            "Divide each column of x by the largest of its absolute values, which leaves its zeros (scikit-learn's "
            "MaxAbsScaler does)"
        )
    if math.isfinite(loss.low) and "y is not scaled" in found:
        advice += f"; {loss.name} needs y ≥ {loss.low:g}: divide it by a constant, such as its mean"
    said = f"{found}. From such numbers networks learn slowly or not at all. {advice}."
    warnings.warn(said, RuntimeWarning, stacklevel=stacklevel)


def _described(name: str, array: Array, device: Device, small: bool = True) -> str:
    """Says what is wrong with the columns of an array, and with which; nothing if they are in order. One number in all
    rows may be small, which harms nobody, and not large."""
    rows, columns = array.shape
    step = -(-rows // max(LEAST, min(ROWS, NUMBERS // columns)))
    values = on_host(array[::step], device).astype(np.float64)
    with np.errstate(all="ignore"):
        mean, deviation, spread = values.mean(axis=0), values.std(axis=0), np.ptp(values, axis=0)
        large = (np.abs(mean) > LARGE) | (deviation > LARGE)
        near = (spread > 0) & (spread < RARE * deviation) & (deviation < SMALL) & (len(values) >= RARE)
        near &= (spread < SMALL) | (2 * np.count_nonzero(values, axis=0) > len(values))
    unscaled = np.flatnonzero(large | near if small else large)
    if not len(unscaled):
        return ""
    first = int(unscaled[0])
    return (
        f"{name} is not scaled: in {len(unscaled):,} of its {columns:,} columns the mean or the standard deviation is "
        f"beyond {LARGE:g}, or the latter is below {SMALL:g}; in {name}[:, {first}] they are {mean[first]:.3g} and "
        f"{deviation[first]:.3g}"
    )
