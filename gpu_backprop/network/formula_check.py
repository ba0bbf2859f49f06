"""What a formula of one's own is held against before it is used: its derivative against central differences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression import derive, parse
from gpu_backprop.backend.expression_tree import Node, number
from gpu_backprop.backend.formula import Array

STEPS = 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7
"""Steps of the differences, times the root of a place beyond 1; the best counts, as one may reach over a kink."""

CLOSE = 1e-5
"""Relative, how far a derivative may be from the difference; to less than a thousandth of the usual size, that."""

_SIZES = np.geomspace(1.00317e-3, 1.00317e4, 30)
PLACES = np.sort(np.concatenate([np.linspace(-8, 8, 321) + 0.00371, _SIZES, -_SIZES]))
"""Where it is looked at: no number that somebody would write as an edge."""

NEAR = 2.0
"""How far from 0 it must be finite; further away an exponential may overflow."""

EDGES = 0.0, 1.0, -1.0
"""Where there may be a kink, and it must be a number all the same."""


def read_slope(what: str, value: Node, by: str, names: Collection[str], derivative: str | None) -> Node:
    """Returns the derivative of a formula by one of its names: that of a text, or where it is None worked out.

    Raises:
        InputError: the text is not in the grammar, it cannot be worked out, or it is 0 everywhere.
    """
    slope = derive(value, by, what) if derivative is None else parse(derivative, names, f"the derivative of {what}")
    if slope == number(0):
        raise InputError(f"the derivative of {what} is 0 everywhere: nothing could learn from it.")
    return slope


def check_derivative(
    what: str, value: Callable[[Array], Array], derivative: Callable[[Array], Array], places: Array,
    edges: Array, others: Mapping[str, float] | None = None, of: str = "z",
) -> None:  # fmt: skip
    """Compares a derivative with central differences of its function, all in float64.

    Args:
        what: what it is the derivative of, for the message.
        places: where they are compared.
        edges: where both must be numbers, and may have a kink.
        others: what is held, for the message.
        of: what the function is of.

    Raises:
        InputError: they disagree, or one of them is no number; shows one of the worst places.
    """

    def at(place: float) -> str:
        return ", ".join(f"{name} = {number:.6g}" for name, number in {of: place, **(others or {})}.items())

    every = np.concatenate([places, edges])
    with np.errstate(all="ignore"):
        here, slope = (np.broadcast_to(function(every), every.shape) for function in (value, derivative))
        if (wrong := np.isnan(here) | (np.isinf(here) & (np.abs(every) < NEAR))).any():
            place = _nearest(every, wrong)
            raise InputError(
                f"{what} is {here[every == place][0]:g} at {at(place)}, and must be a number there; where(…), max and "
                "abs keep log, sqrt and / from what they are not defined for, and sigmoid and softplus do not overflow."
            )
        best, closest = np.full(places.shape, np.inf), np.full(places.shape, np.nan)
        for step in STEPS:
            width = step * np.sqrt(np.maximum(1, np.abs(places)))
            difference = (value(places + width) - value(places - width)) / (2 * width)
            off = np.abs(slope[: len(places)] - difference)
            best, closest = np.where(off < best, off, best), np.where(off < best, difference, closest)
    rises = np.isfinite(np.append(closest, np.zeros(edges.shape)))  # without a difference, NaN is wrong all the same
    if (wrong := np.isfinite(here) & (np.isnan(slope) | (np.isinf(slope) & rises))).any():
        place = _nearest(every, wrong)
        raise InputError(
            f"the derivative of {what} is {slope[every == place][0]:g} at {at(place)}, where {what} is "
            f"{here[every == place][0]:.6g}; write it so that it does not overflow, with sigmoid or where(…)."
        )
    here, slope, known = here[: len(places)], slope[: len(places)], np.isfinite(closest)
    usual = np.abs(closest[known & (np.abs(places) < 8)])
    floor = 1e-3 * min(1.0, float(usual.max(initial=0)) or 1.0) + 1e-6 * np.abs(here)
    with np.errstate(invalid="ignore"):
        error = np.where(known, best / np.maximum(np.maximum(np.abs(slope), np.abs(closest)), floor), 0)
    if error.max() > CLOSE:
        about_worst = np.flatnonzero(error >= 0.9 * error.max())  # of these the one nearest to ±1 tells most
        worst = about_worst[np.argmin(np.abs(np.abs(places[about_worst]) - 1))]
        raise InputError(
            f"the derivative of {what} is wrong: at {at(places[worst])} it gives {slope[worst]:.10g}, and central "
            f"differences in float64 give {closest[worst]:.10g}. {int((error > CLOSE).sum())} of {places.size} places "
            "disagree, and none much more. Leave the derivative out, and it is worked out."
        )


def _nearest(places: Array, wrong: Array) -> float:
    """Returns the place nearest to 0 of those that are wrong."""
    found = places[wrong]
    return float(found[np.argmin(np.abs(found))])
