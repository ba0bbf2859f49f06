"""What a page needs to know of a network to ask for a row: its columns, or how many numbers, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gpu_backprop as gb
from gpu_backprop.data.array_inputs import WHITE
from gpu_backprop.data.dates import DateFormat
from gpu_backprop.data.number_format import NumberFormat, stored_format

DIGITS = 6
"""Of a number that stands for a column, which are enough to see where its values lie."""


def describe_model(net: gb.Network) -> dict[str, Any]:
    """Describe a network as plain data for JSON, from what is stored of its preprocessing."""
    stored = net.preprocessing.to_dict()
    inputs, target = stored["inputs"], stored["target"]
    columns = [describe_column(entry, inputs["impute"] is not None) for entry in inputs.get("columns", [])]
    format = stored_format(target)
    return {
        "version": gb.__version__,
        "task": net.preprocessing.task,
        "target": net.preprocessing.target,
        "classes": net.classes,
        "outputs": net.outputs,
        "columns": columns,
        "inputs": None if columns else count_numbers(inputs),
        "image": None if columns else _image(net, inputs),
        "prefix": format.prefix if format else "",
        "suffix": format.suffix if format else "",
    }


def describe_column(entry: Mapping[str, Any], filled: bool) -> dict[str, Any]:
    """Describe a column: its kind, `required` unless what is missing is filled in, and what helps to fill it in.

    A column has `values` where it is one of several texts, else a `hint` in words; and a `typical` value.
    """
    found = {"name": entry["name"], "required": not filled}
    for key in ("categories", "signs", "order"):
        if key in entry:
            values = [text for text in (*entry[key], *entry.get("pooled", ())) if text is not None]
            return {**found, "kind": "category", "values": values, "typical": next(iter(values), None)}
    if "buckets" in entry:
        return {**found, "kind": "text", "hint": "any text", "typical": None}
    if "dates" in entry:
        example = str(DateFormat.from_dict(entry["dates"]))
        return {**found, "kind": "date", "hint": f"such as {example}", "typical": example}
    value, hint = _middle(entry)
    format = stored_format(entry)
    if format is not None:
        hint = f"{hint}, written as {format}"
    return {**found, "kind": "number", "hint": hint, "typical": _written(value, format)}


def count_numbers(inputs: Mapping[str, Any]) -> int:
    """Return how many numbers a row of arrays has."""
    if inputs["kind"] == "bytes":
        return int(inputs["inputs"])
    return len(next(inputs[name] for name in ("mean", "median", "values") if name in inputs))


def _middle(entry: Mapping[str, Any]) -> tuple[float, str]:
    """Return a typical number of the training rows, and in words where these are."""
    if "mean" in entry:
        (mean,), (std,) = entry["mean"], entry["std"]
        return mean, f"mean {mean:.4g}, ± {std:.4g}"
    if "median" in entry:
        (median,), (spread,) = entry["median"], entry["spread"]
        return median, f"median {median:.4g}, ± {spread / 2:.4g}"
    (values,) = entry["values"]
    return values[len(values) // 2], f"from {values[0]:.4g} to {values[-1]:.4g}"


def _written(value: float, format: NumberFormat | None) -> float | str:
    """Round a number, and write it as its column does, if that is not as programs do."""
    rounded = float(f"{value:.{DIGITS}g}")
    return rounded if format is None else f"{format.prefix}{rounded:.15g}{format.suffix}".replace(".", format.decimal)


def _image(net: gb.Network, inputs: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the side of square images, and the number that stands for full ink."""
    side = math.isqrt(net.inputs)
    if not net.preprocessing.images or side * side != net.inputs or side < 4:
        return None
    return {"side": side, "ink": WHITE if inputs["kind"] == "bytes" else inputs["std"][0]}
