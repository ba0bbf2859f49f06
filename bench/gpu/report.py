"""What bench/gpu_check.py found, as a table in Markdown; and what the files of a device are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lib.markdown import table

Measured = Mapping[str, Any]


def file_name(device: str) -> str:
    """gpu-NAME from the device's own name: "NVIDIA H100 80GB HBM3" has gpu-nvidia-h100-80gb-hbm3."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def markdown(measured: Measured) -> str:
    """Everything that was measured, a table a question; what is missing or failed is named."""
    parts = [
        f"# {measured['device']}",
        circumstances(measured),
        commands(measured),
        peaks(measured),
        steps(measured["steps"]),
        one_launch(measured["one_launch"]),
        fits(measured["fits"], measured["data"]),
        kernels(measured["kernels"], measured["kernels left out"]),
        products(measured["products"], measured["doors"]),
        section("What failed", "", ("what", "reason"), [(one["what"], one["reason"]) for one in measured["failed"]]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def section(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[Any]], after: str = "") -> str:
    """A heading, what is to be said, a table and what follows; "" where the table would be empty."""
    return "\n\n".join(filter(None, (f"## {title}", about, table(head, rows), after))) if rows else ""


def circumstances(measured: Measured) -> str:
    said = {
        "driver": f"{measured['driver']}, up to CUDA {measured['driver_cuda']}",
        "CUDA": f"{measured['cuda']}, compute capability {measured['compute_capability']}",
        "CuPy": measured["cupy"],
        "commit": measured["commit"],
        "date": measured["date"],
        "command": f"`{measured['command']}`",
    }
    readings = {f"nvidia-smi, {when}": reading for when, reading in measured["readings"].items()}
    return table(("", ""), [*said.items(), *readings.items()])


def commands(measured: Measured) -> str:
    rows = [(f"`{command}`", outcome) for command, outcome in measured["commands"].items()]
    return section("Tests", "", ("command", "outcome"), rows)


def peaks(measured: Measured) -> str:
    found = [(f"square product, {name}", f"{peak:,.1f} TFLOP/s") for name, peak in measured["peaks_tflop_s"].items()]
    if "copy_gb_s" in measured:
        found.append(("copy", f"{measured['copy_gb_s']:,.0f} GB/s, read and written"))
    return section("Peaks, measured between the rest", "", ("of", "peak"), found)


def steps(rows: Sequence[Measured]) -> str:
    head = (
        "network", "rows", "precision", "launches", "floor, µs", "replayed, µs", "times the floor", "host, µs a launch",
        "eager, µs", "times the floor", "host, µs a launch", "plain CuPy / ours",
    )  # fmt: skip
    cells = [
        (
            row["network"], row["batch"], row["precision"], row["launches"], number(row["floor_us"]),
            *timed(row, "replayed"), *timed(row, "eager"), ranged(row.get("plain CuPy / ours")),
        )
        for row in rows
    ]  # fmt: skip
    about = (
        "The floor is the sum over its operations of max(flops / peak, bytes / bandwidth). What stays in the device's "
        "cache can be faster."
    )
    return section("The step", about, head, cells)


def timed(row: Measured, way: str) -> tuple[str, str, str]:
    if way not in row:
        return f"not {way}: {row[f'not {way}']}", "-", "-"
    one = row[way]
    return ranged(one["us"]), number(one.get("times_the_floor")), number(one["host_us_a_launch"])


def one_launch(rows: Sequence[Measured]) -> str:
    head = ("network", "models", "samples", "rows", "ordinary, ms", "one launch, ms", "one launch, times as fast")
    cells = [
        (
            row["network"], row["models"], row["rows"], row["batch"], ranged(row["ordinary"]["ms_an_epoch"]),
            ranged(row["one_launch"]["ms_an_epoch"]), ranged(row["ordinary / one_launch"]),
        )
        for row in rows
    ]  # fmt: skip
    about = (
        "A whole epoch of all models, by ordinary steps and with `one_launch=True`. Both include the drawing of a new "
        "order of the rows for each model, on the host."
    )
    return section("Epochs in one launch", about, head, cells)


def fits(rows: Sequence[Measured], data: str) -> str:
    cells = []
    for row in rows:
        for name, one in row.items():
            if isinstance(one, Mapping) and "samples_per_second" in one:
                who = f"{name} ({one['version']})" if "version" in one else name
                rate, ratio = one["samples_per_second"], one.get("ours, times as fast")
                cells.append((row["network"], row["batch"], who, ranged(rate), ranged(ratio)))
        cells += [(row["network"], row["batch"], name, reason, "-") for name, reason in row["not timed"].items()]
    head = ("network", "rows", "who", "samples a second", "ours, times as fast")
    return section("Whole epochs", f"Data: {data}.", head, cells)


def kernels(rows: Sequence[Measured], left_out: Sequence[str]) -> str:
    head = ("kernel", "rows × columns", "MB", "µs", "GB/s", "% of the copy")
    cells = [
        (
            f"`{row['kernel']}`", " × ".join(map(str, row["shape"])), number(row["bytes"] / 1e6), number(row["us"]),
            number(row["gb_s"]), ranged(row["percent_of_copy"]),
        )
        for row in rows
    ]  # fmt: skip
    about = "The copy is that of an array of the first size. Smaller arrays lie in the device's cache."
    more = f"Not measured by themselves: {', '.join(left_out)}." if left_out else ""
    return section("Kernels", about, head, cells, more)


def products(rows: Sequence[Measured], doors: Sequence[str]) -> str:
    head = ("network", "product", "rows × inner × columns", "precision", "µs", "TFLOP/s", "% of the peak")
    cells = [
        (
            row["network"], row["formula"], f"{row['rows']} × {row['inner']} × {row['cols']}", row["precision"],
            number(row["us"]), number(row["tflop_s"]), ranged(row["percent_of_peak"]),
        )
        for row in rows
    ]  # fmt: skip
    return section("Matrix products", f"{'; '.join(doors)}.", head, cells)


# Cells ----------------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def ranged(value: Mapping[str, float] | None) -> str:
    """The median, and between which bounds all rounds lie."""
    if value is None:
        return "-"
    return f"{number(value['median'])} ({number(value['least'])} to {number(value['most'])})"
