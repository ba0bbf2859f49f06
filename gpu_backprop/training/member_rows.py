"""Rows of their own: each member of a network learns from some of the rows, and may be measured on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.network.arrays import as_array, on_host
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import Samples
from gpu_backprop.training.streaming import in_windows

REST = "rest"
"""As validation data: of each member the rows that it does not learn from."""


def choose_rows(given: Any, network: Network, data: Samples) -> Samples:
    """Returns the rows that each member learns from, as `fit` was given them; None: all. Of weights of its own, those
    that are 0 leave a row out; where the others are all 1, and members have as many rows each, there are no weights."""
    device = network.device
    if not network.models_shape:
        raise InputError(
            "rows are for a network with a models axis, whose members learn from rows of their own: make it with a "
            "list of seeds, Network(..., seed=range(8)). Give another one x[rows] and y[rows]."
        )
    if in_windows(data):
        raise InputError("rows of their own are of data that fit in memory, and these are read from disk in windows.")
    count = len(data.x)
    each = [np.arange(count)] * len(network.parameters) if given is None else list_rows(given, network)
    places = [_rows_of(member, rows, count, device) for member, rows in enumerate(each)]
    if data.chosen is not None:
        kept = np.zeros(count, np.bool_)
        kept[data.chosen] = True
        places = [rows[kept[rows]] for rows in places]
    weights = None if data.weights is None else on_host(data.weights, device)
    if weights is not None and data.weighs_apart:
        places = [rows[own[rows] > 0] for rows, own in zip(places, weights, strict=True)]
        if all((own[rows] == 1).all() for rows, own in zip(places, weights, strict=True)):
            weights = None
    check_rows(places, weights, "learn from")
    if weights is None and len({len(rows) for rows in places}) > 1:
        weights = np.ones(count, device.master)
    return of_members(replace(data, weights=weights), places)


def list_rows(given: Any, network: Network) -> list[Any]:
    """Returns the rows of each member as they were given, a list."""
    members = len(network.parameters)
    each = as_array(given, "rows", network.device) if getattr(given, "shape", ()) else given
    listed = isinstance(each, (list, tuple)) or bool(getattr(each, "shape", ()))
    if not listed or len(each) != members:
        what = f"{len(each)} of them" if listed else f"{type(given).__name__} {given!r:.200}"
        raise InputError(f"rows must be those of each of the {members} members, one array each, got {what}.")
    return [*each]


def _rows_of(member: int, given: Any, count: int, device: Device) -> Array:
    """Returns the rows of one member as int64."""
    rows = on_host(as_array(given, f"rows of member {member}", device), device)
    if rows.dtype == np.bool_ and rows.shape == (count,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise InputError(
            f"rows of member {member} must be {count:,} truth values, or row numbers, got an array of {rows.dtype} of "
            f"the shape {rows.shape}."
        )
    wrong = rows[(rows < 0) | (rows >= count)]
    if len(wrong):
        raise InputError(
            f"rows of member {member} must be numbers from 0 to {count - 1:,}, for there are {count:,} rows, but there "
            f"is {wrong[0]}."
        )
    return rows.astype(np.int64)


def check_rows(places: Sequence[Array], weights: Array | None, what: str) -> None:
    """Raises InputError where the rows of a member are none, or weigh nothing; `what` it would do with them."""
    for member, rows in enumerate(places):
        of_member = weights if weights is None or weights.ndim == 1 else weights[member]
        if not len(rows) or (of_member is not None and not of_member[rows].any()):
            why = "has no rows" if not len(rows) else "has only rows of the weight 0"
            raise InputError(f"member {member} {why} to {what}. Give it some, or leave this member out of the network.")


def of_members(data: Samples, places: Sequence[Array]) -> Samples:
    """Returns the rows of each member, which lie at these places."""
    counts = np.array([len(rows) for rows in places])
    chosen = np.stack([np.resize(rows, counts.max()) for rows in places])
    return replace(data, chosen=chosen, counts=counts)


def names_rows(validation: Any) -> bool:
    """Tells whether validation data are such rows: REST, or truth values, (members, rows)."""
    return (isinstance(validation, str) and validation == REST) or getattr(validation, "dtype", None) == np.bool_


def choose_measured(given: Any, network: Network, data: Samples, learned: Samples) -> Samples:
    """Returns the rows that each member is measured on: see `names_rows`."""
    shape = (*network.models_shape, len(data.x))
    if not isinstance(given, str):
        which = on_host(given, network.device)
        if which.shape != shape or not network.models_shape:
            raise InputError(
                f"validation must be truth values of the members and the {shape[-1]:,} rows, where there is a models "
                f"axis, or (x, y), got an array of the shape {which.shape}."
            )
    elif learned.counts is None:
        raise InputError(
            "validation='rest' measures each member on the rows that it does not learn from, and all learn from all of "
            "them: give rows=, or weights of the shape (members, rows), which are 0 there."
        )
    else:
        which = np.ones(shape, np.bool_)
        for rest, rows in zip(which, learned.places(), strict=True):
            rest[rows] = False
    places = [np.flatnonzero(rows) for rows in which]
    check_rows(places, None if data.weights is None else on_host(data.weights, network.device), "be measured on")
    return of_members(data, places)
