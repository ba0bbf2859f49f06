"""Which rows a fit learns from, and how much each counts: validation rows held out of its data, and class weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.data import stratified_split
from gpu_backprop.network.arrays import check_finite, on_host
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number
from gpu_backprop.network.samples import Samples

BALANCED, SHARE = "balanced", 0.1

ClassWeight = str | Mapping[Any, float] | Sequence[str | Mapping[Any, float] | None] | None
"""What `fit` takes as class_weight."""


def validation_share(
    split: Any, validation: Any, early_stopping: bool, callbacks: Sequence[Any], folds: Any = None
) -> float:
    """Decides which share of the rows a fit holds out: that of `validation_split`, or SHARE, where the argument
    `early_stopping` made the first of the callbacks, that needs validation data, and there are none."""
    share = number("validation_split", split, "a number in [0, 1)", lambda value: 0 <= value < 1)
    if folds is not None and (share or validation is not None):
        other = "validation data" if validation is not None else f"validation_split={share:g}"
        raise InputError(f"folds hold rows out for validation, and {other} were given too. Give one of the two.")
    if share and validation is not None:
        raise InputError(f"validation data were given, and validation_split={share:g} too. Give one of the two.")
    monitors = [callback for callback in callbacks if getattr(callback, "needs_validation", False)]
    if not monitors or validation is not None or folds is not None or share:
        return share
    if early_stopping and monitors[0] is callbacks[0]:
        return SHARE
    what = f"monitors {monitors[0].monitor}" if hasattr(monitors[0], "monitor") else "is fitted to validation data"
    raise InputError(
        f"{type(monitors[0]).__name__} {what}, but there are no validation data. Give validation=(x, y) or "
        "validation_split=0.1."
    )


def hold_out(network: Network, data: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Divides data into those to learn from and those to validate on: of every class alike, where there are classes.
    The same seed holds the same rows out."""
    classes = data.classes(network.device)
    rest, out = split_rows(np.zeros(data.rows) if classes is None else classes, share, seed)
    return replace(data, chosen=rest), data.take(out, network.device)


def split_rows(classes: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Returns the numbers of the rows to learn from, and of those to validate on."""
    try:
        return stratified_split(classes, share, seed)
    except ValueError as error:
        raise InputError(f"validation_split={share:g}: {error}, or validation=(x, y).") from None


def weighted_by_class(network: Network, data: Samples, class_weight: ClassWeight) -> Samples:
    """Multiplies the weight of each row by that of its class.

    Args:
        class_weight: "balanced": n/(k·count) for n rows of k classes, as in scikit-learn; or {class: weight}, where a
            class is its label, or, where the classes have names, its name; or a list of such, or None, one a member.
    """
    given = class_weight if isinstance(class_weight, (list, tuple)) else [class_weight]
    if given is class_weight and (len(given),) != network.models_shape:
        members = f"the network has {network.models_shape[0]}" if network.models_shape else "there is no models axis"
        raise InputError(f"class_weight is {len(given)} in a list, one a member, but {members}.")
    classes = data.classes(network.device)
    if classes is None:
        raise InputError(
            "class_weight is for classes: labels, rows with a 1 among 0s, or a single output of 0 or 1. Give weights, "
            "one number a row, for other targets."
        )
    outputs = network.outputs if network.outputs > 1 else 2
    names = [*next(known for known in (data.names, network.classes, range(outputs)) if known is not None)]
    before = np.ones(1) if data.weights is None else on_host(data.weights, network.device)
    places = data.places()
    count = max(len(given), len(places), len(before) if data.weighs_apart else 1)
    weights, changed = np.empty((count, len(classes))), False
    weights[...] = before
    for of_member, one, chosen in zip(weights, cycle(given), cycle(places), strict=False):
        rows = slice(None) if chosen is None else chosen
        factors = _factors(one, np.bincount(classes[rows], minlength=outputs), names)
        of_member *= factors[classes]
        changed |= bool((factors[classes[rows]] != 1).any())
        if not of_member[rows].any():
            whose = " of a member" if count > 1 else ""
            raise InputError(f"class_weight={one!r} gives every row{whose} the weight 0, so that none counts.")
    if not changed:
        return data
    weights = weights[0] if (weights == weights[0]).all() else weights
    check_finite(weights, "weights times class_weight", network.device.master)
    return replace(data, weights=weights.astype(network.device.master))


def _factors(class_weight: Any, counts: Array, names: list[Any]) -> Array:
    """Returns the weight of each class, of which there are so many rows."""
    if class_weight is None:
        return np.ones(len(counts))
    if isinstance(class_weight, Mapping):
        return _given(class_weight, names)
    if class_weight != BALANCED:
        raise InputError(f"class_weight must be {BALANCED!r} or {{class: weight}}, got {class_weight!r}.")
    there = counts > 0
    factors: Array = np.where(there, counts.sum() / (there.sum() * np.maximum(counts, 1)), 0.0)
    return factors


def _given(weights: Mapping[Any, Any], names: list[Any]) -> Array:
    """Returns the weight of each class in the order of the labels; of one that is not named, 1."""
    shown = ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
    if unknown := [name for name in weights if name not in names]:
        raise InputError(f"class_weight names {unknown[0]!r}, which is no class: there are {shown}.")
    return np.array([
        number(f"class_weight of {name!r}", weights.get(name, 1.0), "a finite number ≥ 0", lambda w: 0 <= w < np.inf)
        for name in names
    ])  # fmt: skip
