"""Training on data larger than memory: how much memory it takes, and how fast it is, into bench/results/large.json.

Ten million rows of 32 numbers and a target are written to .npy files and Parquet, the first million of them to CSV, of
which a million take most of a minute to read. A process of its own trains two
epochs on each, from the disk in windows, and tells its largest resident memory (getrusage); beside it stands the same
training on the .npy files as arrays in memory. Limit: 1 GB.

Run it as: python bench/large.py [--quick] [--rows N] [--folder DIR]. It takes 4 GB of disk, and deletes them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from lib import record

RESULTS = Path(__file__).parent / "results" / "large.json"
ROWS, QUICK_ROWS, COLUMNS, AT_ONCE = 10_000_000, 200_000, 32, 1 << 17
CSV_ROWS = 1_000_000
BATCH, UNITS, EPOCHS = 1024, 64, 2
LIMIT = 10**9
KINDS = ("arrays in memory", ".npy maps", ".npy prepared", "Parquet", "CSV")


def write_files(folder: Path, rows: int) -> dict[str, int]:
    """Write the same rows in each format; return the bytes of each. Nothing of it stays in this process's memory, from
    which the largest one of its children begins."""
    import pyarrow
    from pyarrow import csv, parquet

    rng = np.random.default_rng(0)
    weights = rng.normal(size=COLUMNS).astype(np.float32) / 6
    names = [f"x{column}" for column in range(COLUMNS)] + ["y"]
    schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
    with (
        (folder / "x.npy").open("wb") as to_x,
        (folder / "y.npy").open("wb") as to_y,
        parquet.ParquetWriter(folder / "rows.parquet", schema) as to_parquet,
        csv.CSVWriter(folder / "rows.csv", schema, write_options=csv.WriteOptions(quoting_style="none")) as to_csv,
    ):
        for file, shape in ((to_x, (rows, COLUMNS)), (to_y, (rows,))):
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, rows, AT_ONCE):
            part = rng.standard_normal((min(AT_ONCE, rows - start), COLUMNS), np.float32).round(4)
            target = np.tanh(part @ weights) + rng.standard_normal(len(part), np.float32) / 10
            to_x.write(part.data)
            to_y.write(target.data)
            table = pyarrow.table([*np.ascontiguousarray(part.T), target], schema=schema)
            to_parquet.write_table(table)
            to_csv.write_table(table.slice(0, max(0, CSV_ROWS - start)))
    files = {".npy": ("x.npy", "y.npy"), "Parquet": ("rows.parquet",), "CSV": ("rows.csv",)}
    return {kind: sum((folder / name).stat().st_size for name in names) for kind, names in files.items()}


def train(kind: str, folder: Path) -> dict[str, Any]:
    """Train on the rows of a kind, in this process; return what it took."""
    import gpu_backprop as gb

    began = time.perf_counter()
    mode = None if kind == KINDS[0] else "r"
    data: tuple[Any, ...] = ()
    if kind in KINDS[:2]:
        data = tuple(np.load(folder / name, mmap_mode=mode) for name in ("x.npy", "y.npy"))
    if kind == KINDS[1]:
        data = (gb.open_rows(*data),)
    if kind == KINDS[2]:
        data = (gb.open_rows(folder / "x.npy"),)
    if kind in KINDS[3:]:
        data = (gb.open_rows(folder / f"rows.{kind.lower()}", target="y"),)
    prepared = time.perf_counter() - began
    net = gb.Network(COLUMNS, [gb.Dense(UNITS, "relu"), gb.Dense(1)], device="cpu")
    history = gb.Trainer(net, batch_size=BATCH).fit(*data, epochs=EPOCHS, progress=False)
    return {
        "seconds to prepare": round(prepared, 1),
        "rows a second": round(max(row["samples_per_second"] for row in history)),
        "loss": history.rows[-1]["loss"],
        "largest resident bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, in some seconds; nothing is kept")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--train", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train, options.folder)))
        return 0
    began, rows = time.perf_counter(), options.rows or (QUICK_ROWS if options.quick else ROWS)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found: dict[str, Any] = {"rows": rows, "columns": COLUMNS, "bytes": write_files(Path(name), rows)}
        for kind in KINDS:
            command = [sys.executable, __file__, "--folder", name, "--train", kind]
            found[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[kind] = {"rows": min(rows, CSV_ROWS) if kind == "CSV" else rows, **found[kind]}
            print(f"{kind}: {found[kind]}", flush=True)
    too_much = [kind for kind in KINDS[1:] if found[kind]["largest resident bytes"] > LIMIT]
    if not options.quick:
        record.write(RESULTS, "python bench/large.py", time.perf_counter() - began, found)
    if too_much:
        print(f"more than {LIMIT:,} bytes: {', '.join(too_much)}", file=sys.stderr)
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
