"""What bench/gpu_check.py found, as tables in Markdown and as a summary; and what the files of a device are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.markdown import table

Measured = Mapping[str, Any]

MOST, WIDEST = 8000, 160
"""Characters of a summary, and of a line of it."""

SHOWN = 10
"""Kernels in a summary, at most."""

NOTHING: dict[str, Any] = {
    "device": "unknown", "reading": "", "parts": {}, "doctor": [], "passed": 0, "counts": [], "failed": [],
    "skipped": [], "peaks": None, "doors": [], "steps": [], "kernels": [], "copies_gb_s": {}, "one_launch": [],
    "data": "", "fits": [], "ranks": [],
}  # fmt: skip
"""What is found before anything is."""


def file_name(device: str) -> str:
    """gpu-NAME from the device's own name: "NVIDIA H100 80GB HBM3" has gpu-nvidia-h100-80gb-hbm3."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def markdown(measured: Measured) -> str:
    """Everything that was measured, a table a question; what is missing or failed is named."""
    parts = [
        f"# {measured['device']}",
        "The device is emulated: its times mean nothing." if measured.get("emulated") else "",
        circumstances(measured),
        section("Parts", "", ("part", "outcome", "seconds"), parts_of(measured)),
        section("Doctor", "", ("it says",), [(line,) for line in measured["doctor"] if line]),
        *(
            section(name.capitalize(), "", ("test", "reason"), list(measured[name].items()))
            for name in test_lists(measured)
        ),
        peaks(measured),
        steps(measured["steps"]),
        operations(measured["steps"], measured["doors"]),
        one_launch(measured["one_launch"]),
        fits(measured["fits"], measured["data"]),
        ranks(measured["ranks"]),
        kernels(measured["kernels"], measured["copies_gb_s"]),
        *(
            section(title, "", ("what", "reason"), [(one["what"], one["reason"]) for one in measured[name]])
            for title, name in (("What failed", "failed"), ("What was left out", "skipped"))
        ),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def section(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[Any]], after: str = "") -> str:
    """A heading, what is to be said, a table and what follows; "" where the table would be empty."""
    return "\n\n".join(filter(None, (f"## {title}", about, table(head, rows), after))) if rows else ""


def circumstances(measured: Measured) -> str:
    said = {
        "driver": f"{measured['driver']}, up to CUDA {measured['driver_cuda']}" if "driver" in measured else "unknown",
        "CUDA": "{cuda}, compute capability {compute_capability}".format_map(measured) if "cuda" in measured else "",
        "CuPy": measured.get("cupy", ""),
        "at the beginning": measured["reading"],
        "commit": measured["commit"],
        "date": measured["date"],
        "command": f"`{measured['command']}`",
    }
    return table(("", ""), list(said.items()))


def parts_of(measured: Measured) -> list[tuple[str, str, float]]:
    """Name, outcome and seconds of each part."""
    told = "; ".join(measured["counts"]) or (f"{measured['passed']} passed" if measured["passed"] else "")
    counts = {"tests": f": {told}" if told else ""}
    return [(name, one["outcome"] + counts.get(name, ""), one["seconds"]) for name, one in measured["parts"].items()]


def test_lists(measured: Measured) -> list[str]:
    """The names of what lists tests that failed."""
    return [name for name in measured if name.startswith("tests that failed")]


def peaks(measured: Measured) -> str:
    found = measured["peaks"]
    if not found:
        return ""
    rows = [
        *((f"square product, {name}", f"{peak:,.1f} TFLOP/s") for name, peak in found["products"].items()),
        ("copy beyond the L2 cache", f"{found['memory']:,.0f} GB/s, read and written"),
        (f"copy in the L2 cache of {found['cache_bytes'] / 1e6:.0f} MB", f"{found['cache']:,.0f} GB/s, likewise"),
        ("pause between two nodes of a graph", f"{number(found['node_us'])} µs"),
    ]
    return section("Peaks", "", ("of", "peak"), rows)


def steps(rows: Sequence[Measured]) -> str:
    head = (
        "network", "rows", "precision", "launches", "nodes", "MB", "floor, µs", "replayed, µs", "times the floor",
        "all in a row, µs", "products alone, µs", "eager, µs", "host, µs a launch", "`fit`, µs a step",
        "plain CuPy / ours", "MHz SM",
    )  # fmt: skip
    cells = [
        (
            row["network"], row["batch"], row["precision"], row["launches"], number(row.get("nodes")),
            number(row["memory"] / 1e6),
            number(row["floor_us"]), *replayed(row), ranged(row["eager"]["us"]),
            number(row["eager"]["host_us_a_launch"]), number(row["epoch_us_a_step"]),
            ranged(row.get("plain CuPy / ours")), clock(row),
        )
        for row in rows
    ]  # fmt: skip
    about = (
        "Launches are what the plan counts, nodes what the driver counts in its graph: a product may be several. The "
        "floor is the sum over its operations of max(flops / peak, bytes / bandwidth), by the bandwidth of the L2 "
        "cache where the buffers of an operation fit into it; it has no pauses between nodes."
    )
    return section("The step", about, head, cells)


def replayed(row: Measured) -> tuple[str, str, str, str]:
    if "replayed" not in row:
        return f"not replayed: {row['not replayed']}", "-", "-", "-"
    one, others = row["replayed"], (row["in a row"], row["products alone"])
    return ranged(one["us"]), number(one.get("times_the_floor")), *(ranged(other["us"]) for other in others)


def operations(rows: Sequence[Measured], doors: Sequence[str]) -> str:
    head = ("network", "rows", "precision", "operation", "launches", "µs", "floor, µs", "bounded by")
    cells = [
        (
            row["network"], row["batch"], row["precision"], f"`{one['formula']}`", one["launches"],
            one.get("not timed") or number(one["us"]), number(one["floor_us"]), one["bound"],
        )
        for row in rows
        for one in row["operations"]
    ]  # fmt: skip
    return section("Operation by operation", f"Each repeated by itself in a graph. {'; '.join(doors)}.", head, cells)


def one_launch(rows: Sequence[Measured]) -> str:
    head = (
        "network", "models", "samples", "rows", "ordinary, ms", "one launch, ms", "one launch, times as fast", "MHz SM",
    )  # fmt: skip
    cells = [
        (
            row["network"], row["models"], row["rows"], row["batch"], ranged(row["ordinary"]["ms_an_epoch"]),
            ranged(row["one_launch"]["ms_an_epoch"]), ranged(row["ordinary / one_launch"]), clock(row),
        )
        for row in rows
    ]  # fmt: skip
    about = (
        "A whole epoch of all models, by ordinary steps and with `one_launch=True`. Both include the drawing of a new "
        "order of the rows for each model."
    )
    return section("Epochs in one launch", about, head, cells)


def ranks(rows: Sequence[Measured]) -> str:
    cells = [(row["ranks"], f"{row['bytes']:,}", number(row["us"]), number(row["model_us"])) for row in rows]
    about = "By NCCL, one rank a device; beside the model that decides on buckets, for devices joined by NVLink."
    return section("Sums over ranks", about, ("ranks", "bytes", "µs", "model, µs"), cells)


def fits(rows: Sequence[Measured], data: str) -> str:
    cells = []
    for row in rows:
        what = row["network"], row["batch"], row["precision"]
        for name, one in row.items():
            if isinstance(one, Mapping) and "samples_per_second" in one:
                who = f"{name} ({one['version']})" if "version" in one else name
                rate, ratio = one["samples_per_second"], one.get("ours, times as fast")
                cells.append((*what, who, ranged(rate), ranged(ratio), clock(row)))
        cells += [(*what, name, reason, "-", "-") for name, reason in row["not timed"].items()]
    head = ("network", "rows", "precision", "who", "samples a second", "ours, times as fast", "MHz SM")
    return section("Whole epochs", f"Data: {data}.", head, cells)


def kernels(rows: Sequence[Measured], copies: Mapping[str, float]) -> str:
    head = ("kernel", "rows × columns", "MB", "µs", "GB/s", "% of the copy", "MHz SM")
    cells = [
        (
            f"`{row['kernel']}`", " × ".join(map(str, row["shape"])), number(row["bytes"] / 1e6), number(row["us"]),
            number(row["gb_s"]), ranged(row["percent_of_copy"]), clock(row),
        )
        for row in rows
    ]  # fmt: skip
    rates = ", ".join(f"{shape}: {number(rate)} GB/s" for shape, rate in copies.items())
    about = f"The copy is that of a float32 array of the same shape ({rates}). Small arrays lie in the L2 cache."
    return section("Kernels", about, head, cells)


# The summary ----------------------------------------------------------------------------------------------------------


def summary(measured: Measured, file: Path) -> str:
    """What there is to know at once, in at most MOST characters: what is too long for all has a fair share each."""
    lists = [(title, [*map(cut, lines)]) for title, lines in summary_lists(measured) if lines]
    needs = [len(title) + 40 + sum(len(line) + 3 for line in lines) for title, lines in lists]
    left, told = MOST - 2 * WIDEST, dict[int, str]()
    for done, k in enumerate(sorted(range(len(lists)), key=needs.__getitem__)):
        room = min(needs[k], left // (len(lists) - done))
        left -= room
        told[k] = block(*lists[k], room)
    return "\n".join([*(told[k] for k in sorted(told)), f"All of it: {cut(str(file))}, .json and gpu-check.log"])


def block(title: str, lines: Sequence[str], room: int) -> str:
    """A title, and as many lines as there is room for, in characters."""
    shown, room = [title], room - len(title) - 40
    for line in lines:
        room -= len(line) + 3
        if room < 0:
            shown.append(f"  … and {len(lines) - len(shown) + 1} more")
            break
        shown.append(f"  {line}")
    return "\n".join(shown)


def cut(line: str) -> str:
    """One line, not too long."""
    line = " ".join(line[: 10 * WIDEST].split())
    return line if len(line) <= WIDEST else line[: WIDEST - 1] + "…"


def summary_lists(measured: Measured) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines, the most important first."""
    emulated = ", EMULATED: its times mean nothing" if measured.get("emulated") else ""
    yield (
        cut(f"{measured['device']}{emulated}, driver {measured.get('driver', 'unknown')}, {measured['reading']}"),
        [f"{name}: {outcome} ({seconds} s)" for name, outcome, seconds in parts_of(measured)],
    )
    yield "Doctor", measured["doctor"]
    for name in test_lists(measured):
        yield name.capitalize(), [f"{what}: {reason}" for what, reason in measured[name].items()]
    for title, name in (("Measurements that failed", "failed"), ("Left out", "skipped")):
        yield title, [f"{one['what']}: {one['reason']}" for one in measured[name]]
    if found := measured["peaks"]:
        products = ", ".join(f"{name} {number(peak)} TFLOP/s" for name, peak in found["products"].items())
        copies = (
            f"copies {found['memory']:.0f} GB/s, in L2 {found['cache']:.0f} GB/s; {number(found['node_us'])} µs a node"
        )
        yield "Peaks", [f"{products}; {copies}"]
    yield (
        "Steps, µs: replayed (of it products; floor) | eager | fit | plain CuPy / ours | launches, nodes | MHz",
        [step_line(row) for row in measured["steps"]],
    )
    yield "Their operations, each repeated by itself, µs", [by_operation(row) for row in measured["steps"]]
    yield (
        "Epochs in one launch, times as fast as ordinary ones",
        [
            f"{row['network']}, {row['models']} models: {ranged(row['ordinary / one_launch'])}"
            for row in measured["one_launch"]
        ],
    )
    yield (
        "Whole epochs, ours times as fast as",
        [
            f"{row['network']}, {row['batch']} rows, {row['precision']}: {', '.join(against(row)) or 'nobody'}"
            for row in measured["fits"]
        ],
    )
    worst = sorted(measured["kernels"], key=lambda row: row["percent_of_copy"]["median"])
    yield (
        "Kernels farthest from a copy, %",
        [
            f"{row['percent_of_copy']['median']:.0f} {row['kernel']}, {' × '.join(map(str, row['shape']))}"
            for row in worst[:SHOWN]
        ],
    )


def step_line(row: Measured) -> str:
    replay = row.get("replayed", {"us": None})["us"]
    products = row.get("products alone", {"us": None})["us"]
    return (
        f"{row['network']}, {row['batch']} rows, {row['precision']}: {median(replay)} ({median(products)}; "
        f"{number(row['floor_us'])}) | {median(row['eager']['us'])} | {number(row['epoch_us_a_step'])} | "
        f"{median(row.get('plain CuPy / ours'))} | {row['launches']}, {row.get('nodes', '-')} | {clock(row)}"
    )


def by_operation(row: Measured) -> str:
    """µs by the name of the operation, the most first."""
    us: dict[str, float] = {}
    for one in row["operations"]:
        us[one["operation"]] = us.get(one["operation"], 0.0) + (one["us"] or 0.0)
    told = ", ".join(f"{name} {number(us[name])}" for name in sorted(us, key=us.__getitem__, reverse=True))
    return f"{row['network']}, {row['batch']} rows, {row['precision']}: {told}"


def against(row: Measured) -> Iterator[str]:
    for name, one in row.items():
        if isinstance(one, Mapping) and "ours, times as fast" in one:
            yield f"{name} {median(one['ours, times as fast'])}"


# Cells ----------------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 or isinstance(value, int) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def ranged(value: Mapping[str, float] | None) -> str:
    """The median, and between which bounds all rounds lie."""
    if value is None:
        return "-"
    return f"{number(value['median'])} ({number(value['least'])} to {number(value['most'])})"


def median(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else number(value["median"])


def clock(row: Measured) -> str:
    """The SM clock while a row was measured."""
    return ranged(row["sm_mhz"]) if row.get("sm_mhz") else ""
